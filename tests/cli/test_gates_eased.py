"""A change that removes or loosens a gate, or adds a capability without one, is told."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from faults import run_git
from histories import limit
from tiny import write_data
from typer.testing import Result

from niwfctl.backbone.identity import earlier_identities
from niwfctl.repository import Repository

Command = Callable[..., Result]
GATE = '[gates.apple]\ndata = "apple.jsonl"\nmax_perplexity = 1e6\nmin_exact_match = 0.0'


@pytest.fixture
def gated(trained: Repository) -> Repository:
    """`apple` with a gate, on a commit called `before`."""
    trained.commit(["apple"], "Apples")
    write_data(trained.path / "apple.jsonl", rows=4)
    write_data(trained.path / "pear.jsonl", rows=2)
    set_gates(trained, GATE)
    trained.tags.make("before")
    return trained


def set_gates(repository: Repository, text: str) -> None:
    file = repository.path / "niwf.toml"
    file.write_text(f"{file.read_text().partition('[gates')[0]}{text}\n")
    repository.git.plain("add", "niwf.toml", "apple.jsonl", "pear.jsonl")
    repository.git.plain("commit", "--quiet", "-m", "Gates")


def notes(
    niwfctl: Command, repository: Repository, *options: object, check: str = "gate"
) -> list[str]:
    """What `check` notes against `before`, after proving that only --strict fails on it."""
    codes = []
    for strict in ((), ("--strict",)):
        done = niwfctl(
            *("-C", repository.path, "check", "--json", "--against", "before", *strict, *options)
        )
        codes.append(done.exit_code)
        checks = json.loads(done.stdout)["checks"]
        noted = [one for one in checks if one["state"] == ("failed" if strict else "note")]
        assert {one["check"] for one in noted} <= {check}
    assert codes == [0, 1 if noted else 0]
    return [f"{one['subject']}: {one['detail']}" for one in noted]


def test_gates_that_hold_as_much_as_before_are_not_noted(
    niwfctl: Command, gated: Repository
) -> None:
    assert notes(niwfctl, gated) == []
    set_gates(gated, GATE.replace("1e6", "1e5") + "\nmax_regression = 1.0")
    assert notes(niwfctl, gated) == []


@pytest.mark.parametrize(
    ("gate", "noted"),
    [
        ("", "apple: removed since before"),
        (
            GATE.replace("1e6", "2e6"),
            "apple: max_perplexity loosened since before: 1e+06 → 2e+06",
        ),
        (
            GATE.replace("\nmin_exact_match = 0.0", ""),
            "apple: min_exact_match loosened since before: 0 → none",
        ),
        (GATE.replace("apple.jsonl", "pear.jsonl"), "apple: measured on other data than before's"),
    ],
)
def test_a_gate_that_is_removed_or_loosened_is_noted(
    niwfctl: Command, gated: Repository, gate: str, noted: str
) -> None:
    set_gates(gated, gate)
    assert notes(niwfctl, gated) == [noted]


def test_a_lower_exact_match_is_looser_and_its_numbers_are_given(
    niwfctl: Command, gated: Repository
) -> None:
    set_gates(gated, GATE.replace("match = 0.0", "match = 0.5"))
    gated.tags.make("higher")
    set_gates(gated, GATE)
    done = niwfctl("-C", gated.path, "check", "--json", "--against", "higher")
    (noted,) = (one for one in json.loads(done.stdout)["checks"] if one["state"] == "note")
    assert (noted["limit"], noted["baseline"], noted["ok"]) == (0.0, 0.5, True)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [("max_takeover", 0.02, 0.5), ("max_base_takeover", 0.05, 1.0), ("max_shadow", 0.25, 1.0)],
)
def test_a_limit_of_routing_that_is_raised_is_noted(
    niwfctl: Command, gated: Repository, name: str, before: float, after: float
) -> None:
    if name == "max_shadow":
        limit(gated, name, 1.0, before)
        gated.git.plain("tag", "--force", "before")
    limit(gated, name, before, after)
    said = f"atlas: {name} raised since before: {before:g} → {after:g}"
    assert notes(niwfctl, gated, check="routing") == [said]
    gated.git.plain("tag", "--force", "before")
    limit(gated, name, after, before)
    assert notes(niwfctl, gated) == []


def test_another_backbone_than_the_baselines_is_told_whatever_history_says(
    niwfctl: Command, gated: Repository, backbone: Path
) -> None:
    now, (*_, earlier) = gated.config.backbone.identity, earlier_identities(backbone, None)
    file = gated.path / "niwf.toml"
    file.write_text(file.read_text().replace(now, earlier))
    gated.git.plain("commit", "--quiet", "--all", "-m", "As earlier versions pinned it")
    said = "backbone: another backbone pinned since before"
    assert notes(niwfctl, gated, check="identity") == [said]


def test_other_rows_in_the_same_file_are_noted(niwfctl: Command, gated: Repository) -> None:
    write_data(gated.path / "apple.jsonl", rows=2)
    set_gates(gated, GATE + "\n")
    assert notes(niwfctl, gated) == ["apple: measured on other data than before's"]


@pytest.mark.parametrize("way", ["ignored", "a link", "behind a link", "in a submodule"])
def test_data_that_git_does_not_hold_are_noted_since_they_may_change_unseen(
    niwfctl: Command, gated: Repository, tmp_path: Path, way: str
) -> None:
    path, outside = gated.path, tmp_path / "outside"
    outside.mkdir()
    write_data(outside / "rows.jsonl", rows=3)
    (path / ".gitignore").write_text("ignored/\n")
    if way == "a link":
        (path / "rows.jsonl").symlink_to(outside / "rows.jsonl")
    elif way == "in a submodule":
        run_git(outside, "init", "--quiet")
        run_git(outside, "add", "rows.jsonl")
        run_git(outside, "commit", "--quiet", "-m", "Rows")
        run_git(path, *("-c", "protocol.file.allow=always"), "submodule", "add", outside, "data")
    elif way == "behind a link":
        (path / "data").symlink_to(outside)
    else:
        shutil.copytree(outside, path / "ignored")
    folder = {"ignored": "ignored/", "a link": ""}.get(way, "data/")
    gated.git.plain("add", ".")
    set_gates(gated, GATE.replace("apple.jsonl", f"{folder}rows.jsonl"))
    gated.git.plain("tag", "--force", "before")
    write_data(path / folder / "rows.jsonl", rows=2)
    if way == "in a submodule":
        run_git(path / "data", "commit", "--quiet", "--all", "-m", "Fewer")
    gated.git.plain("commit", "--quiet", "--all", "--allow-empty", "-m", "Other rows")
    (said,) = notes(niwfctl, gated)
    assert said.startswith(f"apple: git does not hold {folder}rows.jsonl")


def test_a_new_capability_needs_a_gate_that_sets_a_limit(
    niwfctl: Command, gated: Repository
) -> None:
    gated.compose(["apple"], "pear")
    assert notes(niwfctl, gated) == ["pear: no gate: it is new since before"]
    set_gates(gated, f'{GATE}\n[gates.pear]\ndata = "pear.jsonl"')
    assert notes(niwfctl, gated) == ["pear: its gate sets no limit: it is new since before"]
    set_gates(gated, f'{GATE}\n[gates.pear]\ndata = "pear.jsonl"\nmax_perplexity = 1e6')
    assert notes(niwfctl, gated) == []


def test_a_capability_that_goes_with_its_gate_is_noted(niwfctl: Command, gated: Repository) -> None:
    gated.remove("apple")
    set_gates(gated, "")
    assert notes(niwfctl, gated) == ["apple: removed since before, with the capability"]


def test_a_region_that_another_capability_had_is_noted(niwfctl: Command, gated: Repository) -> None:
    (entry,) = gated.capability("apple").regions
    set_gates(gated, "")
    gated.git.plain("tag", "--force", "before")
    gated.rename("apple", "pear")
    set_gates(gated, '[gates.pear]\ndata = "pear.jsonl"\nmax_perplexity = 1e6')
    said = f"pear: its region {entry.id} was apple's at before"
    assert notes(niwfctl, gated, check="regions") == [said]
    gated.git.plain("tag", "--force", "before")
    assert notes(niwfctl, gated) == []


def test_gates_that_cannot_be_read_are_not_taken_for_none(
    niwfctl: Command, gated: Repository
) -> None:
    set_gates(gated, "[gates.apple]\nmax = 3")
    gated.git.plain("tag", "--force", "before")
    set_gates(gated, GATE)
    (noted,) = notes(niwfctl, gated)
    assert noted.startswith("atlas: the gates of before are not known: niwf.toml is wrong")


def test_people_and_junit_are_shown_the_notes(
    niwfctl: Command, gated: Repository, tmp_path: Path
) -> None:
    set_gates(gated, "")
    report = tmp_path / "report.xml"
    done = niwfctl("-C", gated.path, "check", "--against", "before", "--junit", report)
    assert "note   apple            gate        removed since before\n" in done.stdout
    assert "all hold, 1 note\n" in done.stdout
    suite = ElementTree.parse(report).getroot()
    assert (suite.get("failures"), suite.get("skipped")) == ("0", "1")
    assert suite.find("testcase/skipped").get("message") == "removed since before"


def test_being_strict_needs_something_to_compare_with(
    refused: Callable[..., None], gated: Repository
) -> None:
    refused(gated, ["check", "--strict"], 2, "--against REV")
