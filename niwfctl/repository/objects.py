"""Between objects and the files of the work tree that point to them."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from niwfctl.errors import StorageError

OURS = ("capabilities/", "objects/")  # what a commit's atlas determines
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def object_file(oid: str) -> str:
    """Path of an object's pointer in the work tree."""
    return f"objects/{oid}.safetensors"


def manifest_file(name: str) -> str:
    """Path of a capability's manifest in the work tree."""
    return f"capabilities/{name}.json"


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
