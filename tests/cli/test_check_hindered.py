"""A check that could not be run is no gate that failed: the report says so, and the exit code."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tiny import write_data
from typer.testing import Result

from niwfctl.repository import Repository

Command = Callable[..., Result]
GATE = '\n[gates.apple]\ndata = "apple.jsonl"\nmax_perplexity = 1e6\nmax_regression = 0.0\n'


@pytest.fixture
def gated(committed: Repository) -> Repository:
    write_data(committed.path / "apple.jsonl", rows=4)
    with (committed.path / "niwf.toml").open("a") as file:
        file.write(GATE)
    committed.git.plain("add", "apple.jsonl", "niwf.toml")
    committed.git.plain("commit", "--quiet", "-m", "Gates")
    return committed


def states(told: str) -> dict[tuple[str, str], str]:
    report = json.loads(told)
    assert not report["ok"]
    assert all(one["ok"] == (one["state"] in ("ok", "note")) for one in report["checks"])
    return {(one["subject"], one["check"]): one["state"] for one in report["checks"]}


def forget(repository: Repository) -> None:
    for oid in list(repository.store):
        repository.store.remove(oid)


def test_a_backbone_that_is_not_there(
    niwfctl: Command, gated: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NIWFCTL_BACKBONE", str(tmp_path / "nowhere"))
    report = tmp_path / "report.xml"
    done = niwfctl("-C", gated.path, "check", "--json", "--junit", report)
    found = states(done.stdout)
    assert done.exit_code == 7
    assert found["backbone", "identity"] == found["apple", "gate"] == "not run"
    assert found["apple", "objects"] == found["coordinates", "objects"] == "ok"
    assert done.stderr.splitlines()[-1].startswith("niwfctl: backbone could not be checked: ")
    suite = ElementTree.parse(report).getroot()
    assert (suite.get("errors"), suite.get("failures")) == ("2", "0")
    said = [error.get("message") for error in suite.iterfind("testcase/error")]
    assert "nowhere" in said[0] and said[1] == "not measured: see above"


def test_what_verify_could_not_check_is_the_cause_in_its_exit_code(
    niwfctl: Command, gated: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NIWFCTL_BACKBONE", str(tmp_path / "nowhere"))
    done = niwfctl("-C", gated.path, "verify", "--json")
    assert done.exit_code == 7 and states(done.stdout)["backbone", "identity"] == "not run"
    assert done.stderr.splitlines()[-1].startswith("niwfctl: backbone could not be checked: ")
    (entry,) = gated.capability("apple").regions
    damaged = gated.store.path(entry.region.oid)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"~")
    assert niwfctl("-C", gated.path, "verify").exit_code == 1


def test_another_backbone_fails_since_it_is_there_and_differs(
    niwfctl: Command, gated: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = shutil.copytree(gated.config.backbone.model, tmp_path / "other")
    with (other / "config.json").open("a") as file:
        file.write("\n")
    monkeypatch.setenv("NIWFCTL_BACKBONE", str(other))
    done = niwfctl("-C", gated.path, "check", "--json")
    assert done.exit_code == 1
    assert states(done.stdout)["backbone", "identity"] == "failed"


def test_objects_that_nobody_has(niwfctl: Command, gated: Repository) -> None:
    forget(gated)
    done = niwfctl("-C", gated.path, "check")
    assert done.exit_code == 8
    assert "not run apple            gate        not measured: see above\n" in done.stdout
    assert "could not be run" in done.stdout.splitlines()[-1]


@pytest.mark.skipif(not shutil.which("git-lfs"), reason="needs git-lfs")
def test_a_remote_that_is_out_of_reach(niwfctl: Command, gated: Repository, tmp_path: Path) -> None:
    gated.git.plain("remote", "add", "origin", f"file://{tmp_path / 'nowhere.git'}")
    forget(gated)
    done = niwfctl("-C", gated.path, "check", "--json")
    assert done.exit_code == 14
    assert set(states(done.stdout).values()) == {"ok", "not run"}


def test_what_failed_weighs_more_than_what_was_not_run(niwfctl: Command, gated: Repository) -> None:
    coordinates = gated.store.path(gated.config.field.coordinates)
    coordinates.unlink()
    damaged = gated.store.path(gated.capability("apple").objects[0].oid)
    damaged.chmod(0o644)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"~")
    done = niwfctl("-C", gated.path, "check", "--json")
    found = states(done.stdout)
    assert done.exit_code == 1
    assert found["coordinates", "objects"] == "not run"
    assert found["apple", "objects"] == found["apple", "gate"] == "failed"


def test_only_the_comparison_waits_for_objects_of_the_other_revision(
    niwfctl: Command, gated: Repository, tmp_path: Path
) -> None:
    data = write_data(tmp_path / "other.jsonl", word="zzz")
    was = {ref.oid for ref in gated.capability("apple").objects}
    options = gated.capability("apple").regions[0].run.options
    gated.train("apple", [data], options.model_copy(update={"mode": "revise", "lr": 0.1}))
    gated.commit(["apple"], "Revised")
    for oid in was - {ref.oid for ref in gated.capability("apple").objects}:
        gated.store.remove(oid)
    done = niwfctl("-C", gated.path, "check", "--json")
    found = states(done.stdout)
    assert done.exit_code == 8
    assert (found["apple", "perplexity"], found["apple", "regression"]) == ("ok", "not run")
