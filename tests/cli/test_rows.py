"""Files of what was routed or measured, row by row."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import QUICK
from tiny import write_data
from typer.testing import Result

from niwfctl.repository import Repository

Command = Callable[..., Result]
Refused = Callable[..., None]


@pytest.fixture(scope="module")
def _two(tmp_path_factory: pytest.TempPathFactory, _committed: Path) -> Path:
    """A repository with `apple` and `pear`."""
    folder = tmp_path_factory.mktemp("two")
    repository = Repository.open(shutil.copytree(_committed, folder / "repository"))
    repository.train("pear", write_data(folder / "pear.jsonl", word="pear"), QUICK)
    repository.commit("pear", "Pears")
    return repository.path


@pytest.fixture
def two(_two: Path) -> Repository:
    return Repository.open(_two)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Rows of both capabilities and of neither, of all lengths, and in no order."""
    rows = [
        {
            "prompt": f"Say {('apple ', 'pear ', '?! ')[n % 3] * (1 + 5 * n % 7)}{n}.",
            "completion": "ae" * (1 + n % 4),
        }
        for n in range(11)
    ]
    file = tmp_path / "mixed.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def done(result: Result) -> str:
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def test_predictions_hold_what_was_measured_of_each_row(
    niwfctl: Command, two: Repository, mixed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    out.write_text("of before")
    asked = ("eval", "apple", "--auto", "--data", mixed, "--batch-size", 4, "--max-new-tokens", 4)
    told = done(niwfctl("-C", two.path, *asked, "--exact-match", "--predictions", out, "--json"))
    rows = lines(out)
    with two.load() as model:
        owners = [owner or "base" for owner in model.owners([one["prompt"] for one in rows[:11]])]
        model.use("apple")
        answers = model.answers([one["prompt"] for one in rows[:11]], 4)
    assert len(set(owners)) > 1  # or there is nothing to see
    for place, result in enumerate(json.loads(told)["results"]):
        part = rows[11 * place : 11 * place + 11]
        assert {(one["capability"], one["auto"]) for one in part} == {
            (result["capability"], result["auto"])
        }
        assert [one["origin"] for one in part] == [f"{mixed}:{line}" for line in range(1, 12)]
        assert [one["owner"] for one in part] == (owners if result["auto"] else [None] * 11)
        given = [(one["prompt"][0]["content"], one["expected"]) for one in part]
        assert given == [(one["prompt"], one["completion"]) for one in lines(mixed)]
        tokens = sum(one["tokens"] for one in part)
        assert tokens == result["tokens"]
        perplexity = math.exp(sum(one["loss"] for one in part) / tokens)
        assert perplexity == pytest.approx(result["perplexity"])
        assert sum(one["exact_match"] for one in part) / 11 == result["exact_match"]
    assert len(rows) == 33 and [one["answer"] for one in rows[11:22]] == answers


def test_predictions_have_answers_only_where_some_are_made(
    niwfctl: Command, two: Repository, mixed: Path, tmp_path: Path
) -> None:
    done(niwfctl("-C", two.path, "eval", "--data", mixed, "--predictions", tmp_path / "rows"))
    assert {(one["answer"], one["exact_match"]) for one in lines(tmp_path / "rows")} == {
        (None, None)
    }


def test_rows_tell_who_owns_each_prompt_and_who_is_next(
    niwfctl: Command, two: Repository, mixed: Path, tmp_path: Path
) -> None:
    out, general = tmp_path / "rows.jsonl", write_data(tmp_path / "general=.jsonl", rows=2)
    given = ("--data", f"apple={mixed}", "--data", f"base={general}", "--data", general)
    done(niwfctl("-C", two.path, "route", *given, "--rows", out))
    rows = lines(out)
    expected = ["apple"] * 11 + ["base"] * 2 + [None] * 2
    assert [one["expected"] for one in rows] == expected
    assert [one["data"] for one in rows] == [str(mixed)] * 11 + [str(general)] * 4
    with two.load() as model:
        for row in rows:
            (owner, score), *others = model.bids(row["prompt"])
            assert row["owner"] == (owner or "base")
            assert row["score"] == pytest.approx(score, abs=0.1)  # in another batch
            rival = max((bid[1] for bid in others if bid[1] is not None), default=None)
            assert row["runner_up_score"] == (rival and pytest.approx(rival, abs=0.1))
            assert (row["runner_up"] is None) == (rival is None)
            assert row["runner_up"] != row["owner"]
    assert {row["runner_up"] for row in rows} > {None}  # or there is nothing to see


def test_a_capability_with_several_regions_is_no_rival_of_itself(
    niwfctl: Command, two: Repository, mixed: Path, tmp_path: Path
) -> None:
    more = QUICK.model_copy(update={"mode": "extend"})
    two.train("pear", write_data(tmp_path / "more.jsonl", word="pear more"), more)
    two.commit("pear", "More pears")
    try:
        done(niwfctl("-C", two.path, "route", "--data", mixed, "--rows", tmp_path / "rows"))
        assert all(row["owner"] != row["runner_up"] for row in lines(tmp_path / "rows"))
    finally:
        two.operations.undo()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["route", "?", "--rows", "rows"], 2, ["--rows", "--data FILE"]),
        (["route", "--data", "plum=apple.jsonl"], 4, ["'plum'", "apple"]),
        (["route", "--data", "apple.jsonl", "--rows", "apple.jsonl"], 2, ["replace"]),
        (["route", "--data", "apple.jsonl", "--rows", "none/rows"], 2, ["no folder"]),
        (["eval", "--data", "apple.jsonl", "--predictions", "apple.jsonl"], 2, ["replace"]),
        (["eval", "--data", "apple.jsonl", "--predictions", "."], 2, ["folder"]),
        (["eval", "--matrix", "--predictions", "rows"], 2, ["--matrix"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(
    refused: Refused, committed: Repository, arguments: list[str], code: int, words: list[str]
) -> None:
    data = write_data(committed.path / "apple.jsonl", rows=2)
    before = data.read_bytes()
    refused(committed, arguments, code, *words)
    assert data.read_bytes() == before
