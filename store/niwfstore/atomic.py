"""Files that appear whole or not at all, also after a crash."""

from __future__ import annotations

import os
import tempfile
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
    """Makes a folder and its parents, each durable before anything is put in it."""
    if path.is_dir():
        return
    make_dirs(path.parent)
    path.mkdir(exist_ok=True)
    fsync_dir(path.parent)


@contextmanager
def temporary_file(folder: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """A new file in `folder`, removed on leaving unless it was renamed.

    Yields:
        The open file and its path.
    """
    make_dirs(folder)
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=".tmp-")
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file, Path(name)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)


def publish(file: IO[bytes], temporary: Path, target: Path, mode: int) -> None:
    """Makes a written temporary file durable and gives it its name, replacing what was there."""
    file.flush()
    os.fchmod(file.fileno(), mode)
    os.fsync(file.fileno())
    make_dirs(target.parent)
    os.replace(temporary, target)
    fsync_dir(target.parent)


@contextmanager
def output_file(path: Path, mode: int = 0o644) -> Iterator[IO[bytes]]:
    """A file that a user asked for by name: whole and durable at the end, or as it was.

    What is there and is no regular file, such as a pipe, is written into; a link leads to the file.

    Yields:
        The open file; it may be unable to seek.
    """
    if path.exists() and not path.is_file():  # asked of the path: /dev/fd/3 resolves to no file
        with path.open("wb") as stream:
            yield stream
        return
    target = Path(os.path.realpath(path))
    with temporary_file(target.parent) as (file, temporary):
        yield file
        publish(file, temporary, target, mode)


def write_atomic(path: Path, data: bytes, mode: int = 0o644, scratch: Path | None = None) -> None:
    """Writes a whole file atomically and durably.

    Args:
        scratch: folder in the same file system for the temporary file; beside `path` by default.

    Raises:
        OSError: the disk is full or read-only; `path` is then as it was.
    """
    with temporary_file(scratch or path.parent) as (file, temporary):
        file.write(data)
        publish(file, temporary, path, mode)
