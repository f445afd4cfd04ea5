"""What the disk refuses, told in one sentence."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from niwfctl.errors import StorageError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def storing() -> Iterator[None]:
    """Turns a full or read-only disk, or a file without permission, into one sentence.

    Blocks may be nested.

    Raises:
        StorageError: the disk is full or read-only, or the user lacks permission for a file.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageError(
                "the disk is full: nothing was committed and nothing is lost; free some space "
                "and try again"
            ) from error
        if error.errno == errno.EROFS:
            raise StorageError(
                f"{error.filename or 'the disk'} cannot be written ({error.strerror}): nothing was "
                "changed; run the same command where it can be"
            ) from error
        if error.errno == errno.EACCES:  # the error does not say whether reading or writing failed
            raise StorageError(
                f"{error.filename or 'a file'} is closed to you ({error.strerror}): open it with "
                "`chmod`, or run the same command as a user who has access"
            ) from error
        raise
