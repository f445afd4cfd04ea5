"""What git was left in the middle of: a merge, a rebase and such, waiting for whoever began it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from niwfctl.errors import UsageError

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository

_SIGNS = {  # in the git folder of a work tree; while a rebase picks, it has the sign of that, too
    "rebase-apply/applying": "am",
    "rebase-apply": "rebase",
    "rebase-merge": "rebase",
    "MERGE_HEAD": "merge",
    "CHERRY_PICK_HEAD": "cherry-pick",
    "REVERT_HEAD": "revert",
}


def under_way(folder: Path) -> str | None:
    """Which command of git has begun and not ended in a work tree, if any.

    Args:
        folder: the git folder of the work tree.
    """
    return next((command for sign, command in _SIGNS.items() if (folder / sign).exists()), None)


def way_out(command: str) -> str:
    """How to end what is under way, as a clause."""
    ended = f"finish it with git, or `git {command} --abort`"
    return f"{ended}, then `niwfctl merge BRANCH`" if command == "merge" else ended


def require_ready(repository: Repository) -> None:
    """Asks that a commit can be made, before any work for it.

    Raises:
        GitError: git does not know who commits.
        UsageError: git is in the middle of something, which a commit would end as if it were done.
    """
    repository.git.require_identity(repository.path)
    require_ended(repository)


def require_ended(repository: Repository) -> None:
    """Asks that HEAD can move.

    Raises:
        UsageError: git is in the middle of something.
    """
    command = under_way(repository.git.folder)
    if command:
        raise UsageError(f"a `git {command}` is under way: {way_out(command)}")
