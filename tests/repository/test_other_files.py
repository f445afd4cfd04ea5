"""A change taken in from others may bring files that act by themselves: those are named."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from niwfctl.repository import Repository
from niwfctl.repository.lfs import told_place

HOSTILE = (".lfsconfig", ".github/workflows/x.yml", "capabilities/.gitattributes", "niwf.toml")


@pytest.fixture
def brought(committed: Repository) -> Repository:
    """A repository whose branch `side` brings `pear`, and files."""
    committed.git.plain("checkout", "--quiet", "-b", "side")
    committed.compose(["apple"], "pear")
    files(committed, *HOSTILE)
    committed.git.plain("checkout", "--quiet", "-")
    return committed


def files(repository: Repository, *paths: str) -> None:
    """Commits a line more in each file."""
    for path in paths:
        file = repository.path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as whole:
            whole.write("# more\n")
    repository.git.plain("add", "--all", "--force")
    repository.git.plain("commit", "--quiet", "-m", "Files")


@pytest.mark.parametrize("diverged", [False, True])
def test_a_merge_tells_which_files_changed_that_are_not_niwfctls(
    niwfctl: Callable[..., Result], brought: Repository, diverged: bool
) -> None:
    if diverged:
        files(brought, "README")
    done = niwfctl("-C", brought.path, "merge", "side")
    first = ".lfsconfig, niwf.toml, .github/workflows/x.yml, capabilities/.gitattributes"
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[1:] == ["  added    pear", f"  also changed: {first}"]


def test_json_names_all_of_them_and_people_are_told_of_the_first(
    niwfctl: Callable[..., Result], brought: Repository, tmp_path: Path
) -> None:
    brought.git.plain("checkout", "--quiet", "side")
    files(brought, *(f"a{number:02}" for number in range(20)), "new\nline")
    brought.write_bundle(tmp_path / "bundle", ["side"])
    brought.git.plain("checkout", "--quiet", "-")
    done = niwfctl("-C", brought.path, "bundle", "apply", tmp_path / "bundle")
    (line,) = (one for one in done.stdout.splitlines() if "also changed" in one)
    assert line.endswith(".github/workflows/x.yml, a00, a01, a02, a03, a04 and 17 more")
    assert line.startswith("  also changed: .lfsconfig, niwf.toml, ")
    brought.operations.undo()
    done = niwfctl("-C", brought.path, "merge", "side", "--json")
    listed = json.loads(done.stdout)["other_files"]
    assert len(listed) == 25 and {*HOSTILE, "new\nline", "a19"} <= set(listed)


def test_a_merge_of_capabilities_alone_names_no_file(
    niwfctl: Callable[..., Result], committed: Repository
) -> None:
    committed.git.plain("checkout", "--quiet", "-b", "side")
    committed.compose(["apple"], "pear")
    committed.git.plain("checkout", "--quiet", "-")
    assert "also changed" not in niwfctl("-C", committed.path, "merge", "side").stdout


def test_where_a_committed_lfsconfig_sends_objects_is_known(fresh: Repository) -> None:
    fresh.remotes.add("origin", "https://example.org/field")
    assert told_place(fresh.git, "origin") is None
    config = fresh.path / ".lfsconfig"
    config.write_text("[lfs]\n\turl = https://elsewhere.example\n")
    assert told_place(fresh.git, "origin") == "https://elsewhere.example"
    config.write_text(f"{config.read_text()}\tpushurl = https://third.example\n")
    assert told_place(fresh.git, "origin") == "https://third.example"
    for key in ("lfs.url", "lfs.pushurl"):
        subprocess.check_call(["git", "-C", fresh.path, "config", key, "https://own.example"])
    assert told_place(fresh.git, "origin") is None
