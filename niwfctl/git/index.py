"""git's index, rewritten without a lock that a kill could leave behind.

git takes `index.lock` to change its index, and leaves it behind if killed. Here a copy is changed
and renamed into place. A git command that read the index before that rename and writes it
afterwards would undo the change, so we wait for such a command and make the change again.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from niwfstore.atomic import fsync_dir

from niwfctl.errors import GitError

PATIENCE = 10.0  # seconds after which another's lock counts as left behind by a kill
ATTEMPTS = 50


def rewrite_index(folder: Path, scratch: Path, change: Callable[[Path], None]) -> None:
    """Changes the index of the repository at `folder`.

    Args:
        folder: the git folder.
        scratch: folder for the copy, in the same file system.
        change: changes an index file in place, or makes it; may be called again.

    Raises:
        GitError: others keep changing the index.
    """
    index, copy = folder / "index", scratch / "index"
    for _ in range(ATTEMPTS):
        abandoned = not _released(folder)
        before = stamp(index)
        copy.unlink(missing_ok=True)
        if before:
            shutil.copyfile(index, copy)
        change(copy)
        ours = stamp(copy)
        if ours is None:
            return
        if (_locked(folder) and not abandoned) or stamp(index) != before:
            continue
        os.replace(copy, index)
        fsync_dir(folder)
        if abandoned or (not _locked(folder) and stamp(index) == ours):
            return
    raise GitError("other commands keep changing git's index: wait for them to end and try again")


def _released(folder: Path) -> bool:
    """Waits until no git command holds the index; returns whether none does."""
    deadline = time.monotonic() + PATIENCE
    while _locked(folder):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _locked(folder: Path) -> bool:
    return (folder / "index.lock").exists()


def stamp(path: Path) -> tuple[int, int, int] | None:
    """A value that changes when a file is replaced; None if there is no file."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
