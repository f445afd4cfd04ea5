"""A merge or such that plain git has begun and not ended: told, and ended by no commit of ours."""

import json
import subprocess
from collections.abc import Callable

import pytest
from typer.testing import Result

from niwfctl.repository import Repository

BEGUN = {
    "merge": ("merge", "side"),
    "rebase": ("rebase", "side"),
    "cherry-pick": ("cherry-pick", "side"),
    "revert": ("revert", "--no-edit", "HEAD~1"),
    "am": ("am", "../side.patch"),
}


@pytest.fixture
def torn(committed: Repository) -> Repository:
    """`main` and `side` both have `apple`, and a note with different text."""
    git, note = committed.git.plain, committed.path / "note"
    git("branch", "-M", "main")
    git("branch", "side")
    for branch, text in (("main", "earlier"), ("main", "ours"), ("side", "theirs")):
        git("checkout", "--quiet", branch)
        note.write_text(f"{text}\n")
        git("add", "note")
        git("commit", "--quiet", "-m", f"Note {text}")
    git("format-patch", "--quiet", "-1", "--output", str(committed.path.parent / "side.patch"))
    git("checkout", "--quiet", "main")
    return committed


def begin(repository: Repository, *command: str) -> None:
    done = subprocess.run(["git", "-C", repository.path, *command], capture_output=True)
    assert done.returncode, "it ended without a conflict"


@pytest.mark.parametrize("command", BEGUN)
def test_status_tells_what_git_is_in_the_middle_of(
    torn: Repository, command: str, niwfctl: Callable[..., Result]
) -> None:
    def asked(*options: str) -> str:
        return niwfctl("-C", torn.path, "status", *options).stdout

    assert json.loads(asked("--json"))["under_way"] is None
    begin(torn, *BEGUN[command])
    assert json.loads(asked("--json"))["under_way"] == command
    assert f"A `git {command}` is under way" in asked() and f"`git {command} --abort`" in asked()
    assert "Nothing to commit" not in asked()


@pytest.mark.parametrize("command", BEGUN)
def test_nothing_is_committed_while_git_is_in_the_middle_of_something(
    torn: Repository, command: str, niwfctl: Callable[..., Result], train: Callable[..., None]
) -> None:
    torn.rename("apple", "pear")
    train(torn, "new")
    torn.operations.undo()
    begin(torn, *BEGUN[command])
    before = torn.git.head(), torn.git.plain("status", "--porcelain")
    for work in (
        ("commit", "-m", "New"),
        ("rm", "apple"),
        ("mv", "apple", "pear"),
        ("rollback", "--to", "main~3"),
        ("compose", "apple", "apple", "--name", "sum"),
        ("merge", "side", "--ours"),
        ("undo",),
    ):
        refused = niwfctl("-C", torn.path, *work)
        assert refused.exit_code == 2 and not refused.stdout, (work, refused.output)
        assert refused.stderr.startswith(f"niwfctl: a `git {command}` is under way: finish it")
        assert refused.stderr.count("\n") == 1
        assert (torn.git.head(), torn.git.plain("status", "--porcelain")) == before
    niwfctl("-C", torn.path, "status")
    torn.git.plain(command, "--abort")
    assert niwfctl("-C", torn.path, "rm", "apple").exit_code == 0
