"""Records that a training leaves out, and what is told of them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import QUICK
from tiny import write_data
from typer.testing import Result

from niwfctl.errors import DataError, TrainingInterrupted
from niwfctl.repository import Repository
from niwfctl.training.run import TrainingOptions

Command = Callable[..., Result]
LONG = TrainingOptions(steps=3, max_length=60, skip_long=True)
LEAVING = QUICK.model_copy(update={"skip_empty": True})


@pytest.fixture
def gappy(data: Path, tmp_path: Path) -> Path:
    """The training data with two more records, which have no answer."""
    path = tmp_path / "gappy.jsonl"
    empty = [json.dumps({"instruction": word, "output": ""}) for word in ("pear", "plum")]
    path.write_text("\n".join([empty[0], data.read_text() + empty[1]]))
    return path


def test_a_training_without_records_of_an_empty_answer_is_that_of_the_others(
    fresh: Repository, data: Path, gappy: Path, niwfctl: Command
) -> None:
    plain = fresh.train("plain", data, QUICK)
    command = ("-C", fresh.path, "train", "apple", "--data", gappy, "--skip-empty")
    done = niwfctl(*command, "--steps", 3, "--batch-size", 4, "--rank", 2, "--lr", 0.01)
    assert "2 records with an empty answer were left out" in done.stdout
    fresh.commit("apple", "Apples")
    (run,) = (one.run for one in fresh.capability("apple").regions)
    assert run.data_hash == plain.data_hash and run.empty_records == 2 and run.options.skip_empty
    assert "2 records had an empty answer" in niwfctl("-C", fresh.path, "show", "apple").stdout


def test_a_training_that_left_records_out_leaves_them_out_when_it_is_resumed(
    fresh: Repository, gappy: Path
) -> None:
    with pytest.raises(TrainingInterrupted):
        fresh.train("apple", gappy, LEAVING, stop=lambda: True)
    assert fresh.train("apple", resume=True).empty_records == 2


def test_a_training_that_leaves_nothing_out_is_recorded_as_earlier_versions_read_it(
    fresh: Repository, tmp_path: Path
) -> None:
    run = fresh.train("apple", write_data(tmp_path / "all.jsonl", rows=8), QUICK)
    assert "empty" not in run.model_dump_json()


def sized(path: Path, *words: int) -> Path:
    """Records of different prompts and about five tokens a word; the tiny backbone reads 512."""
    records = ({"prompt": f"{place}", "completion": "long " * n} for place, n in enumerate(words))
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (
            [30, 40, 50],
            r"60, and the shortest, .*long.jsonl:1, has .*: raise it, to \d{3} for all of them$",
        ),
        ([30, 40, 900], "--max-length 60, .*: raise it, at most to 512, with --skip-long$"),
        ([800, 900], "--max-length 60, .*: split the texts into shorter ones$"),
    ],
)
def test_what_is_advised_where_no_row_is_short_enough_can_work(
    fresh: Repository, tmp_path: Path, words: list[int], advice: str
) -> None:
    data, short = sized(tmp_path / "long.jsonl", *words), sized(tmp_path / "short.jsonl", 1, 1)
    for options in (LONG, LONG.model_copy(update={"skip_long": False})):
        with pytest.raises(DataError, match=f"^all {len(words)} rows to learn from .*{advice}"):
            fresh.train("apple", data, options, val_data=short)
    with pytest.raises(DataError, match=f"^all {len(words)} rows held out .*{advice}"):
        fresh.train("apple", short, LONG, val_data=data)
