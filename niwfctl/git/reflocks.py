"""git's locks on refs and configuration, which outlive a git that is killed."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from pathlib import Path

from niwfctl.errors import Busy

logger = logging.getLogger(__name__)

PATIENCE = 10.0  # seconds to wait for git, which holds these for a write and its hooks
ABANDONED = 600.0  # seconds after which nobody can still be at such a write
LOCKS = ("HEAD.lock", "packed-refs.lock", "config.lock", "refs/**/*.lock")


def await_locks(folders: Iterable[Path]) -> None:
    """Waits until no git changes a ref or the configuration; removes locks that a kill left.

    Other locks are left alone: git holds `index.lock` for as long as an editor is open, and
    `shallow.lock` for as long as it fetches.

    Args:
        folders: git folders: of a repository, and of its work tree where that has its own.

    Raises:
        Busy: a lock stays that is not older than ABANDONED.
    """
    deadline = time.monotonic() + PATIENCE
    held = {lock: inode for lock in _locks(folders) if (inode := _inode(lock)) and not _old(lock)}
    while held and time.monotonic() < deadline:
        time.sleep(0.02)
        held = {lock: inode for lock, inode in held.items() if _inode(lock) == inode}
    for lock in held:
        raise Busy(
            f"a git command is changing a branch and holds {lock}: wait for it to end, and run "
            "this again; if git was killed, remove the file"
        )
    for lock in filter(_old, _locks(folders)):
        logger.warning("%s was left behind by a git that was killed, and is removed", lock)
        lock.unlink(missing_ok=True)


def _locks(folders: Iterable[Path]) -> set[Path]:
    return {lock for folder in folders for pattern in LOCKS for lock in folder.glob(pattern)}


def _inode(lock: Path) -> int | None:
    try:
        return lock.stat().st_ino
    except FileNotFoundError:
        return None


def _old(lock: Path) -> bool:
    try:
        return time.time() - lock.stat().st_mtime > ABANDONED
    except FileNotFoundError:
        return False
