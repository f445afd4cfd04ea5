"""Which remote and which of its branches push, fetch and pull take, as git does."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from niwfctl.repository import Repository
from niwfctl.repository.clone import clone

Command = Callable[..., Result]
pytestmark = pytest.mark.skipif(not shutil.which("git-lfs"), reason="needs git-lfs")


def git(path: Path, *arguments: str) -> str:
    return subprocess.check_output(["git", "-C", path, *arguments], text=True).strip()


@pytest.fixture
def sides(shared: Repository, remote: Path, tmp_path: Path) -> tuple[Repository, Repository]:
    """A repository, and a clone that has not yet fetched its two branches `main` and `side`."""
    shared.remotes.push("origin")
    copy = clone(str(remote), tmp_path / "copy")
    shared.branches.make("side")
    shared.rename("apple", "apples")
    shared.checkout("side")
    shared.rename("apple", "pears")
    shared.remotes.push("origin", ["main", "side"])
    return shared, copy


def test_fetch_of_a_branch_fetches_that_one_only(
    niwfctl: Command, sides: tuple[Repository, Repository]
) -> None:
    _, copy = sides
    before = git(copy.path, "rev-parse", "origin/main")
    done = niwfctl("-C", copy.path, "fetch", "origin", "side")
    assert done.exit_code == 0, done.output
    assert git(copy.path, "rev-parse", "origin/main") == before
    assert set(copy.atlas("origin/side")) == {"pears"}
    for branch, code, words in (
        ("none", 4, "origin has no branch none: as last fetched, there are main, side"),
        ("side:main", 2, "'side:main' is not a valid branch name"),
    ):
        done = niwfctl("-C", copy.path, "fetch", "origin", branch)
        assert done.exit_code == code and words in done.stderr
    niwfctl("-C", copy.path, "fetch")
    assert git(copy.path, "rev-parse", "origin/main") != before


def test_pull_of_a_branch_merges_that_one(
    niwfctl: Command, sides: tuple[Repository, Repository]
) -> None:
    _, copy = sides
    before = git(copy.path, "rev-parse", "origin/main")
    done = niwfctl("-C", copy.path, "pull", "origin", "side", "--ff-only")
    assert done.stdout.startswith("fast-forward: "), done.output
    assert set(copy.atlas()) == {"pears"} and copy.git.branch() == "main"
    assert git(copy.path, "rev-parse", "origin/main") == before
    none = niwfctl("-C", copy.path, "pull", "origin", "none")
    assert none.exit_code == 4 and "origin has no branch none" in none.stderr


def test_pull_only_forward_refuses_what_has_diverged(
    niwfctl: Command, sides: tuple[Repository, Repository]
) -> None:
    _, copy = sides
    made = copy.rename("apple", "plums")
    refused = niwfctl("-C", copy.path, "pull", "--ff-only")
    assert refused.exit_code == 2 and copy.git.head() == made
    assert "origin/main have diverged, by 1 and 1 commits" in refused.stderr
    copy.git.plain("reset", "--quiet", "--hard", "origin/main")
    copy.rename("apples", "plums")
    assert niwfctl("-C", copy.path, "pull", "--ff-only").stdout.startswith("up to date")


def test_without_a_name_the_remote_is_the_upstreams_or_the_only_one_or_origin(
    niwfctl: Command, shared: Repository, remote: Path, tmp_path: Path
) -> None:
    def pushed() -> str:
        done = niwfctl("-C", shared.path, "push", "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)["remote"]

    shared.remotes.rename("origin", "hub")
    assert pushed() == "hub"  # the only one, which main follows from now on
    git(tmp_path, "init", "-q", "--bare", "other.git")
    shared.remotes.add("origin", str(tmp_path / "other.git"))
    assert pushed() == "hub"
    assert niwfctl("-C", shared.path, "pull", "--json").exit_code == 0
    assert niwfctl("-C", shared.path, "fetch").exit_code == 0
    shared.checkout(None, branch="side")
    assert pushed() == "origin"
    git(shared.path, "checkout", "-q", "-b", "local", "--track", "side")
    assert pushed() == "origin"  # its remote is `.`, this repository
    shared.checkout("main")
    git(shared.path, "config", "remote.pushDefault", "origin")
    assert pushed() == "origin"
    for name in ("origin", "hub"):
        shared.remotes.remove(name)
    none = niwfctl("-C", shared.path, "push")
    assert none.exit_code == 4 and "no remote is called 'origin'" in none.stderr


def test_a_clone_checks_out_the_branch_or_tag_that_is_asked_for(
    niwfctl: Command, sides: tuple[Repository, Repository], remote: Path, tmp_path: Path
) -> None:
    shared, _ = sides
    shared.tags.make("v1", "main")
    git(shared.path, "push", "--quiet", "origin", "main", "side", "v1")
    for asked, branch, names in (("side", "side", {"pears"}), ("v1", None, {"apples"})):
        folder = tmp_path / f"of-{asked}"
        done = niwfctl("clone", "-b", asked, remote, folder)
        assert done.exit_code == 0, done.output
        copy = Repository.open(folder)
        assert (copy.git.branch(), set(copy.atlas())) == (branch, names)
        assert copy.verify().ok
    lacking = niwfctl("clone", "--branch", "nowhere", remote, tmp_path / "none")
    assert lacking.exit_code == 14 and not (tmp_path / "none").exists()
    shared.write_bundle(tmp_path / "one.bundle")
    bundled = niwfctl("clone", "-b", "side", tmp_path / "one.bundle", tmp_path / "none")
    assert bundled.exit_code == 2 and "is a bundle" in bundled.stderr
