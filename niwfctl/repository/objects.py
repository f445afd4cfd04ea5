"""Objects that a command needs: checked, and fetched where they are missing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from niwfstore import CorruptObject, MissingObject, StoreError

from niwfctl.errors import ObjectError, ObjectNotHere
from niwfctl.layout import QUARANTINE

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository

logger = logging.getLogger(__name__)


def obtain(
    repository: Repository, oid: str, size: int | None, check: Callable[[str, int | None], object]
) -> Path:
    """Path of an object, once it passes one of the store's checks.

    A corrupt one is moved to `.git/niwf/quarantine`; a missing one is fetched.

    Raises:
        ObjectError: it is missing or corrupt, and no remote has it.
    """
    try:
        check(oid, size)
    except StoreError as error:
        problem = _put_aside(repository, error)
        refusal = repository.remotes.fetch_object(oid)
        if refusal and isinstance(error, MissingObject):
            raise ObjectNotHere(problem, refusal) from error
        if refusal:
            raise ObjectError(f"{problem}, and {refusal}") from error
        if isinstance(error, CorruptObject):
            logger.warning("%s, and has been fetched again", problem)
        try:
            check(oid, size)
        except StoreError as still:
            raise ObjectError(f"{still}, as fetched") from still
    return repository.store.path(oid)


def _put_aside(repository: Repository, error: StoreError) -> str:
    """Describes what is wrong with an object, after moving a corrupt one away."""
    if isinstance(error, MissingObject):
        return str(error)
    if isinstance(error, CorruptObject):
        try:
            moved = repository.store.set_aside(error.oid, repository.private / QUARANTINE)
        except OSError as refused:
            raise ObjectError(f"{error}, and cannot be moved away ({refused.strerror})") from error
        if moved:
            return f"{error}; it is kept as {moved}"
    raise ObjectError(f"{error}: a reference to it was changed by hand") from error
