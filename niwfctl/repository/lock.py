"""Locks that name their holder and do not outlive its process.

The kernel drops a lock when its process ends, so a kill leaves nothing to clean up. Some network
file systems refuse such locks, or grant them to everyone. Nothing is lost there either: files are
replaced atomically, and git moves a branch only from where it was read.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from niwfstore.atomic import make_dirs, write_atomic

from niwfctl.errors import Busy
from niwfctl.typed import command_line

_UNKNOWN = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # from a file system without locks
_POLL = 0.05  # seconds


@contextmanager
def lock(path: Path, purpose: str, patience: float = 0.0) -> Iterator[bool]:
    """Holds the lock at `path` for the block.

    Args:
        purpose: what the block does, for messages to others.
        patience: seconds to wait for another holder.

    Yields:
        Whether it keeps others out: False if the file system has no locks.

    Raises:
        Busy: another process still holds it; the message names it.
    """
    make_dirs(path.parent)
    holder = path.with_suffix(".holder")
    with path.open("ab") as file:
        deadline = time.monotonic() + patience
        while not _acquired(file.fileno()):
            if time.monotonic() >= deadline:
                raise Busy(
                    f"another niwfctl holds the {purpose} lock ({_read(holder)}): wait for it to "
                    "end"
                )
            time.sleep(_POLL)
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        command = command_line("a program of yours")
        text = f"process {os.getpid()} on {os.uname().nodename}, `{command}`, since {since}"
        write_atomic(holder, text.encode(errors="backslashreplace"))
        with path.open("ab") as second:
            keeps_out = not _acquired(second.fileno())
        yield keeps_out


def _acquired(descriptor: int) -> bool:
    """Whether the lock is now ours, or the file system has none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise
    return True


def _read(holder: Path) -> str:
    try:
        return holder.read_text("utf-8")
    except OSError:
        return "process unknown"
