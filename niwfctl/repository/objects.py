"""Between objects and the files of the work tree that point to them."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from niwfctl.errors import StorageError, UsageError

OURS = ("capabilities/", "objects/")  # what a commit's atlas determines
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def object_file(oid: str) -> str:
    """Path of an object's pointer in the work tree."""
    return f"objects/{oid}.safetensors"


def manifest_file(name: str) -> str:
    """Path of a capability's manifest in the work tree."""
    return f"capabilities/{name}.json"


def require_folder(path: Path) -> None:
    """Asks that a folder is there, or can be made.

    Raises:
        UsageError: a file is in the way.
    """
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not there.is_dir():
        raise UsageError(f"{there} is a file, and a folder is needed: give another place")


def require_new(folder: Path) -> None:
    """Asks that a folder can be made, or is there and empty.

    Raises:
        UsageError: a file is in the way, or the folder holds something.
    """
    require_folder(folder)
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is there already and not empty: give another folder")


@contextmanager
def storing() -> Iterator[None]:
    """Turns a full or read-only disk into one sentence.

    Raises:
        StorageError: the disk is full or read-only.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageError(
                "the disk is full: nothing was committed and nothing is lost; free some space "
                "and try again"
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES):
            raise StorageError(
                f"{error.filename} cannot be written ({error.strerror}): nothing was committed"
            ) from error
        raise
