"""A git as distributions still have it: without hook, and without the newer options of others."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from niwfctl.errors import GitError
from niwfctl.repository import Repository
from niwfctl.repository.merge import Resolution
from niwfctl.repository.upkeep import collect

Add = Callable[..., str]
OLDER = """#!/bin/sh
for word; do
    case "$word" in
    version | --version) echo git version {version}; exit ;;
    hook | --write-tree) echo "usage: it is older" >&2; exit 129 ;;
    esac
done
case "$*" in *"worktree list"*-z) echo "error: unknown switch" >&2; exit 129 ;; esac
exec {git} "$@"
"""


@pytest.fixture
def older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """From here on git is of a version, and knows nothing that came later."""

    def install(version: str) -> None:
        script = tmp_path / "older" / "git"
        script.parent.mkdir()
        script.write_text(OLDER.format(version=version, git=shutil.which("git")))
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{script.parent}:{Path(shutil.which('git')).parent}")

    return install


@pytest.fixture
def branches(fresh: Repository, add: Add) -> Repository:
    """`main` and `side`: each has a capability of its own, and one that both changed."""
    fresh.git.plain("branch", "--move", "--force", "main")
    add(fresh, "both", 0.0)
    fresh.checkout(None, branch="side")
    for branch, shift in (("side", 0.1), ("main", 0.2)):
        fresh.checkout(branch)
        (fresh.path / f"{branch}.txt").write_text(branch)
        fresh.git.plain("add", f"{branch}.txt")
        fresh.git.plain("commit", "--quiet", "-m", f"A file of {branch}")
        add(fresh, branch, shift)
        fresh.remove("both")
        add(fresh, "both", shift)
    return fresh


def test_a_session_on_an_older_git_asks_the_hooks_and_merges(
    branches: Repository, older: Callable[[str], None], add: Add
) -> None:
    older("2.34.1")
    branches = Repository.open(branches.path)
    hook = branches.git.folder / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\ngit diff --cached --name-only > ../staged.txt\n")
    add(branches, "more", 0.3)  # not executable yet, and so ignored
    assert not (branches.path.parent / "staged.txt").exists()
    hook.chmod(0o755)
    branches.merge("side", Resolution("theirs"))
    assert "capabilities/side.json" in (branches.path.parent / "staged.txt").read_text()
    assert set(branches.atlas()) == {"both", "main", "more", "side"}
    assert (branches.path / "side.txt").read_text() == "side"
    assert branches.git.plain("status", "--porcelain") == "" and branches.verify().ok
    assert not collect(branches, 0, dry_run=True).objects
    hook.write_text("#!/bin/sh\necho not today >&2; exit 1\n")
    with pytest.raises(GitError, match="the pre-commit hook refused: not today"):
        branches.remove("more")


@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_an_older_git_merges_to_the_same_tree(
    branches: Repository, older: Callable[[str], None], side: str
) -> None:
    start = branches.git.head()
    merged = branches.merge("side", Resolution(side)).commit
    branches.git.plain("reset", "--quiet", "--hard", start)
    older("2.34.1")
    again = Repository.open(branches.path).merge("side", Resolution(side)).commit
    trees = {branches.git.plain("rev-parse", f"{commit}^{{tree}}") for commit in (merged, again)}
    assert len(trees) == 1


def test_a_git_that_is_too_old_is_said_to_be(
    niwfctl: Callable[..., Result], older: Callable[[str], None], backbone: Path, tmp_path: Path
) -> None:
    older("2.30.2")
    done = niwfctl("init", tmp_path / "new", "--model", backbone)
    assert done.exit_code == 10 and not (tmp_path / "new").exists()
    assert "git 2.30.2 is too old: install 2.31 or a newer one" in done.stderr
    done = niwfctl("doctor")
    assert done.exit_code == 1 and "git 2.30.2 is too old" in done.stdout
