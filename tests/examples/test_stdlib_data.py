"""Behaviour of the script that makes data from the standard library."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from niwfctl.training.data import read_examples

SCRIPT = Path(__file__).parents[2] / "examples" / "stdlib_data.py"
KINDS = ("code", "explain")


def run(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), str(out), *options]
    return subprocess.run(command, capture_output=True, text=True)


def records(folder: Path, name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_bytes().splitlines()]


def names(folder: Path, name: str) -> set[str]:
    return {record["function"] for record in records(folder, name)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    result = run(folder)
    assert result.returncode == 0, result.stderr
    for name in ("code", "code.heldout", "explain", "explain.heldout"):
        count = len(records(folder, name))
        assert f"{count:6} {folder / name}.jsonl\n" in result.stdout
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_there_are_thousands_of_pairs_and_two_hundred_held_out(data: Path, kind: str) -> None:
    assert len(records(data, kind)) > 1500
    assert len(records(data, f"{kind}.heldout")) == 200


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_is_accepted_as_training_data(data: Path, kind: str) -> None:
    for name in (kind, f"{kind}.heldout"):
        examples = read_examples([str(data / f"{name}.jsonl")])
        assert len(examples) == len(records(data, name))


def test_the_same_functions_are_held_out_of_both_kinds(data: Path) -> None:
    assert names(data, "code.heldout") == names(data, "explain.heldout")
    assert names(data, "code") == names(data, "explain")
    assert names(data, "code").isdisjoint(names(data, "code.heldout"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", ["input", "output"])
def test_nothing_held_out_is_trained_on(data: Path, kind: str, part: str) -> None:
    trained = {record[part] for record in records(data, kind)}
    assert trained.isdisjoint(record[part] for record in records(data, f"{kind}.heldout"))


def test_a_body_completes_the_function_it_is_asked_for(data: Path) -> None:
    explained = {record["function"]: record["input"] for record in records(data, "explain")}
    for record in records(data, "code"):
        asked = ast.parse(record["input"]).body[0]
        whole = ast.parse(explained[record["function"]]).body[0]
        assert ast.get_docstring(asked) and len(asked.body) == 1
        assert "\n" in record["output"]
        asked.body = ast.parse(record["output"]).body
        assert ast.dump(asked) == ast.dump(whole)


def test_the_source_to_explain_is_short_and_does_not_hold_the_explanation(data: Path) -> None:
    for record in records(data, "explain"):
        assert len(record["input"]) <= 900
        assert len(record["output"]) >= 15 and "\n" not in record["output"]
        assert record["output"] not in record["input"]


def test_a_limited_run_repeats_the_first_pairs_and_all_held_out(data: Path, tmp_path) -> None:
    run(tmp_path, "--limit", "1000")
    for kind in KINDS:
        assert records(tmp_path, kind) == records(data, kind)[:1000]
        assert records(tmp_path, f"{kind}.heldout") == records(data, f"{kind}.heldout")


def test_a_limit_below_one_is_refused(tmp_path: Path) -> None:
    result = run(tmp_path, "--limit", "0")
    assert result.returncode == 2
    assert "--limit must be 1 or more" in result.stderr
    assert not list(tmp_path.iterdir())


def test_another_seed_holds_out_other_functions(data: Path, tmp_path: Path) -> None:
    run(tmp_path, "--seed", "1")
    assert names(tmp_path, "code.heldout") != names(data, "code.heldout")
