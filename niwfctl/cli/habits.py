"""What to type instead: for commands that only git has, and for what a shell makes of a pattern."""

from __future__ import annotations

from collections.abc import Sequence

from niwfctl.training.files import reader_of

INSTEAD = {
    "add": "nothing is staged, since trainings wait by themselves; `niwfctl commit NAME` takes "
    "some of them, and `git add FILE` stages other files",
    "blame": "`niwfctl log NAME` lists the commits that changed a capability",
    "cherry-pick": "`niwfctl rollback NAME --to BRANCH` takes one capability from another branch, "
    "also where it is not here yet",
    "help": "see `niwfctl --help`, or `niwfctl COMMAND --help`",
    "rebase": "`git rebase` works here, after which `niwfctl merge HEAD` settles the routing",
    "reflog": "`niwfctl undo --list` lists what niwfctl did, and `git reflog` where HEAD was",
    "reset": "`niwfctl undo` takes back the last operation, and `niwfctl rollback --to REV` "
    "brings everything back as it was, in a new commit",
    "restore": "`niwfctl rollback NAME` brings back a capability as it was, and `git restore FILE` "
    "an edited file",
    "revert": "`niwfctl undo` takes back the last operation, and `niwfctl rollback NAME` brings "
    "back the version of a capability before this one",
    "stash": "trainings wait uncommitted by themselves, on whichever branch you are, and "
    "`git stash` puts edited files aside",
    "switch": "`niwfctl checkout BRANCH` switches to a branch, and `niwfctl checkout -b BRANCH` "
    "makes one",
}
PLAIN = (
    *("archive", "bisect", "config", "describe", "grep", "ls-files", "ls-tree"),
    *("notes", "rev-list", "rev-parse", "shortlog", "worktree"),
)


def instead_of(command: str) -> str | None:
    """What serves in place of a command of git, in one sentence; None if it is none we know."""
    words = INSTEAD.get(command)
    if command in PLAIN:
        words = f"`git {command}` works here, as in any git repository"
    return words and f"there is no `niwfctl {command}`: {words}"


_OF_FILES = ("--data", "--val-data")


def each_with_option(given: Sequence[str]) -> str | None:
    """What to type where several files stand after one option, in one sentence; None if none do.

    Args:
        given: what was typed after `niwfctl`.
    """
    for place, option in enumerate(given):
        first, second = (*given[place + 1 : place + 3], "", "")[:2]
        if option in _OF_FILES and reader_of(first) and reader_of(second):
            return (
                f"{option} takes one file: write it before each, as in {option} {first} {option} "
                f"{second}, or name their folder, or a pattern in quotes, such as "
                f"{option} 'data/*.jsonl'"
            )
    return None
