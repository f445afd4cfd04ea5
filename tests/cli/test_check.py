"""Gates for pipelines."""

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tiny import write_data
from typer.testing import Result

from niwfctl.repository import Repository

Command = Callable[..., Result]


def with_gates(repository: Repository, text: str) -> None:
    write_data(repository.path / "apple.jsonl", rows=6)
    with (repository.path / "niwf.toml").open("a") as file:
        file.write(f"\n{text}\n")
    repository.git.plain("add", "apple.jsonl", "niwf.toml")
    repository.git.plain("commit", "-m", "Gates")


def outcome(niwfctl: Command, repository: Repository, *options: object) -> tuple[int, dict]:
    result = niwfctl("-C", repository.path, "check", "--json", *options)
    assert result.exit_code in (0, 1), result.output
    checks = json.loads(result.stdout)["checks"]
    return result.exit_code, {(one["subject"], one["check"]): one["ok"] for one in checks}


def test_a_capability_that_passes_its_gates_is_fit_to_ship(
    niwfctl: Command, committed: Repository
) -> None:
    gate = '[gates.apple]\ndata = "apple.jsonl"\nmax_perplexity = 1e6\nmax_regression = 0.0'
    with_gates(committed, gate)
    code, checks = outcome(niwfctl, committed)
    assert code == 0
    assert checks["apple", "perplexity"] and checks["apple", "regression"]


@pytest.mark.parametrize(
    ("limit", "check"),
    [("max_perplexity = 1.0", "perplexity"), ("min_exact_match = 1.0", "exact match")],
)
def test_a_capability_that_misses_a_gate_fails_and_junit_says_why(
    niwfctl: Command, committed: Repository, tmp_path: Path, limit: str, check: str
) -> None:
    with_gates(committed, f'[gates.apple]\ndata = "apple.jsonl"\n{limit}')
    code, checks = outcome(niwfctl, committed, "--junit", tmp_path / "report.xml")
    assert code == 1 and not checks["apple", check]
    (failure,) = ElementTree.parse(tmp_path / "report.xml").iterfind(".//failure")
    assert "at " in failure.get("message")


def test_a_gate_for_a_capability_that_is_not_there_fails(
    niwfctl: Command, committed: Repository
) -> None:
    with_gates(committed, '[gates.pear]\ndata = "apple.jsonl"')
    code, checks = outcome(niwfctl, committed)
    assert code == 1 and not checks["pear", "gate"]


def test_an_unchanged_capability_is_not_measured_twice(
    niwfctl: Command, committed: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gates(committed, '[gates.apple]\ndata = "apple.jsonl"\nmax_perplexity = 1e6')
    first = outcome(niwfctl, committed)
    monkeypatch.setattr(Repository, "load", None)  # measuring again would need it
    assert outcome(niwfctl, committed) == first


def test_data_outside_the_repository_is_refused(niwfctl: Command, committed: Repository) -> None:
    with_gates(committed, '[gates.apple]\ndata = "../apple.jsonl"\nmax_perplexity = 1e6')
    result = niwfctl("-C", committed.path, "check")
    assert result.exit_code == 5 and "outside the repository" in result.stderr
