"""Locks that name who holds them and do not outlive the process.

The kernel drops a lock with its process, so a kill leaves nothing to clean up. Where a file
system ignores such locks, nothing is lost either: files are replaced atomically, and git compares
a branch with what was read before it moves it.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from niwfstore.atomic import make_dirs, write_atomic

from niwfctl.errors import Busy


@contextmanager
def lock(path: Path, purpose: str, patience: float = 0.0) -> Iterator[None]:
    """Holds the lock at `path` for the block.

    Args:
        purpose: what the block does, for others to read.
        patience: seconds to wait for another holder.

    Raises:
        Busy: another process holds it still; the message names it.
    """
    from filelock import FileLock, Timeout  # brings asyncio along, which readers can do without

    make_dirs(path.parent)
    holder = path.with_suffix(".holder")
    try:
        held = FileLock(path).acquire(timeout=patience, poll_interval=0.05)
    except Timeout as error:
        raise Busy(
            f"another niwfctl holds the {purpose} lock ({_read(holder)}): wait for it to end"
        ) from error
    with held:
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        command = shlex.join(["niwfctl", *sys.argv[1:]])[:200]
        text = f"process {os.getpid()} on {os.uname().nodename}, `{command}`, since {since}"
        write_atomic(holder, text.encode())
        yield


def _read(holder: Path) -> str:
    try:
        return holder.read_text("utf-8")
    except OSError:
        return "process unknown"
