"""Git commands that have begun and not ended: a merge, a rebase and such."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from niwfctl.errors import UsageError

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository

_SIGNS = {  # in a work tree's git folder; during a rebase, CHERRY_PICK_HEAD may exist too
    "rebase-apply/applying": "am",
    "rebase-apply": "rebase",
    "rebase-merge": "rebase",
    "MERGE_HEAD": "merge",
    "CHERRY_PICK_HEAD": "cherry-pick",
    "REVERT_HEAD": "revert",
}


def under_way(folder: Path) -> str | None:
    """The git command that has begun and not ended in a work tree, if any.

    Args:
        folder: the git folder of the work tree.
    """
    return next((command for sign, command in _SIGNS.items() if (folder / sign).exists()), None)


def way_out(command: str) -> str:
    """How to end such a command, as a clause."""
    ended = f"finish it with git, or `git {command} --abort`"
    return f"{ended}, then `niwfctl merge BRANCH`" if command == "merge" else ended


def require_ready(repository: Repository) -> None:
    """Requires that a commit can be made; call this before any work for it.

    Raises:
        GitError: git does not know who commits.
        UsageError: a git command is unfinished, and a commit would conclude it.
    """
    repository.git.require_identity(repository.path)
    require_ended(repository)


def require_ended(repository: Repository) -> None:
    """Requires that HEAD can move.

    Raises:
        UsageError: a git command is unfinished.
    """
    command = under_way(repository.git.folder)
    if command:
        raise UsageError(f"a `git {command}` is under way: {way_out(command)}")
