"""Files that appear whole or not at all, even after a crash."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


def fsync_dir(path: Path) -> None:
    """Makes the entries of a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_dirs(path: Path) -> None:
    """Creates a folder and its parents, each durable before anything is put in it."""
    if path.is_dir():
        return
    make_dirs(path.parent)
    path.mkdir(exist_ok=True)
    fsync_dir(path.parent)


@contextmanager
def temporary_file(folder: Path, mode: int = 0o666) -> Iterator[tuple[IO[bytes], Path]]:
    """A new file in `folder`, removed on leaving unless it was renamed.

    Args:
        mode: its permissions, before the umask is applied.

    Yields:
        The open file and its path.
    """
    make_dirs(folder)
    path = folder / f".tmp-{secrets.token_hex(8)}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file, path
    finally:
        with suppress(FileNotFoundError):
            path.unlink()


def publish(file: IO[bytes], temporary: Path, target: Path) -> None:
    """Makes a temporary file durable and renames it to `target`, replacing what was there."""
    file.flush()
    os.fsync(file.fileno())
    make_dirs(target.parent)
    os.replace(temporary, target)
    fsync_dir(target.parent)


@contextmanager
def output_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that a user named: whole and durable at the end, or left as it was.

    Anything but a regular file, such as a pipe, is written into; a link is followed. The new file
    gets the permissions of the one it replaces.

    Yields:
        The open file; it may be unable to seek.
    """
    if path.exists() and not path.is_file():  # not the resolved path: /dev/fd/3 has none
        with path.open("wb") as stream:
            yield stream
        return
    target = Path(os.path.realpath(path))
    with temporary_file(target.parent) as (file, temporary):
        with suppress(FileNotFoundError):  # before anyone can read what is written
            os.fchmod(file.fileno(), target.stat().st_mode & 0o777)
        yield file
        publish(file, temporary, target)


def write_atomic(path: Path, data: bytes, mode: int = 0o666, scratch: Path | None = None) -> None:
    """Writes a whole file atomically and durably.

    Args:
        mode: its permissions, before the umask is applied.
        scratch: folder for the temporary file, in the same file system; that of `path` by default.

    Raises:
        OSError: the disk is full or read-only; `path` is then as it was.
    """
    with temporary_file(scratch or path.parent, mode) as (file, temporary):
        file.write(data)
        publish(file, temporary, path)
