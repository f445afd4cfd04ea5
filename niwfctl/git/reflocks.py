"""git's locks on refs and configuration, which outlive a git that is killed."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

PATIENCE = 10.0  # seconds after which a lock counts as left behind: git holds these for a write
LOCKS = ("HEAD.lock", "packed-refs.lock", "config.lock", "refs/**/*.lock")


def await_locks(folders: Iterable[Path]) -> None:
    """Waits until no git changes a ref or the configuration; removes locks that stay.

    Other locks are left alone: git holds `index.lock` for as long as an editor is open, and
    `shallow.lock` for as long as it fetches.

    Args:
        folders: git folders: of a repository, and of its work tree where that has its own.
    """
    deadline = time.monotonic() + PATIENCE
    held = {lock: inode for lock in _locks(folders) if (inode := _inode(lock))}
    while held and time.monotonic() < deadline:
        time.sleep(0.02)
        held = {lock: inode for lock, inode in held.items() if _inode(lock) == inode}
    for lock in held:
        lock.unlink(missing_ok=True)


def _locks(folders: Iterable[Path]) -> set[Path]:
    return {lock for folder in folders for pattern in LOCKS for lock in folder.glob(pattern)}


def _inode(lock: Path) -> int | None:
    try:
        return lock.stat().st_ino
    except FileNotFoundError:
        return None
