"""Between objects and the files of the work tree that point to them."""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from niwfstore import CorruptObject, MalformedPointer, MissingObject, Pointer, StoreError
from niwfstore.pointer import LARGEST

from niwfctl.errors import GitError, ObjectError, StorageError, UsageError

if TYPE_CHECKING:
    from niwfctl.atlas import ObjectRef
    from niwfctl.git.git import Git
    from niwfctl.repository.repository import Repository

logger = logging.getLogger(__name__)

ATTRIBUTES_FILE = ".gitattributes"
ATTRIBUTES = "objects/*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
OURS = ("capabilities/", "objects/")  # what a commit's atlas determines
_POINTER = re.compile(r"objects/(?P<oid>[0-9a-f]{64})\.safetensors")
QUARANTINE = "quarantine"  # where corrupt objects go, under .git/niwf
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def object_file(oid: str) -> str:
    """Path of an object's pointer in the work tree."""
    return f"objects/{oid}.safetensors"


def pointed(git: Git, *revisions: str, damaged: bool = False) -> dict[str, str]:
    """Object id by blob of its pointer, of all that revisions reach.

    What a blob holds decides, since git names a path of it where it may have many; a pointer that
    someone damaged is known by its path.

    Args:
        revisions: as `git rev-list` takes them.
        damaged: go by the paths alone where git has lost a blob.

    Raises:
        UsageError: there is no such revision.
        GitError: a blob is missing or damaged.
    """
    listed = git.plain("rev-list", "--objects", *revisions)
    paths = dict(line.partition(" ")[::2] for line in listed.split("\n"))
    named = ((blob, _POINTER.fullmatch(path)) for blob, path in paths.items())
    found = {blob: match["oid"] for blob, match in named if match}
    try:
        texts = git.small_blobs(filter(None, paths), LARGEST)
    except GitError:
        if not damaged:
            raise
        texts = {}
    for blob, text in texts.items():
        with suppress(MalformedPointer):
            found[blob] = Pointer.parse(text).oid
    return found


def read_pointers(git: Git, blobs: Iterable[str]) -> dict[str, Pointer | Exception]:
    """The pointer in each blob, or what is wrong with it."""
    blobs = list(blobs)
    try:
        texts = git.blobs(blobs)
    except GitError:
        texts = {}  # each has to be tried
    found: dict[str, Pointer | Exception] = {}
    for blob in blobs:
        try:
            found[blob] = Pointer.parse(texts.get(blob) or git.blobs([blob])[blob])
        except (MalformedPointer, GitError) as error:
            found[blob] = error
    return found


def pointer_problem(
    ref: ObjectRef, files: Mapping[str, str], pointers: Mapping[str, Pointer | Exception]
) -> str | None:
    """Why no remote would carry an object that a commit's manifest names; None if it would.

    Args:
        files: blob by path, of the commit's `objects`.
        pointers: as `read_pointers` found them.
    """
    path = object_file(ref.oid)
    if path not in files:
        return f"{path} is missing from the commit"
    found = pointers.get(files[path])
    if found is None:
        return f"{path} cannot be read"
    if isinstance(found, Exception):
        return f"{path} is {found}"
    right = found == Pointer(ref.oid, ref.size)
    return None if right else f"{path} points to something else than its manifest says"


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


def require_new_file(path: Path) -> None:
    """Asks that a file can be made.

    Raises:
        UsageError: it is there already, or its folder is a file.
    """
    require_folder(path.parent)
    if path.exists():
        raise UsageError(f"{path} is there already: give the name of a new file")


def obtain(
    repository: Repository, oid: str, size: int | None, check: Callable[[str, int | None], object]
) -> Path:
    """Path of an object that passes a check of the store.

    A corrupt one is moved to `.git/niwf/quarantine`; what is not here then is fetched.

    Raises:
        ObjectError: it is missing or corrupt, and no remote has it.
    """
    try:
        check(oid, size)
    except StoreError as error:
        problem = _put_aside(repository, error)
        refusal = repository.remotes.fetch_object(oid)
        if refusal:
            raise ObjectError(f"{problem}, and {refusal}") from error
        if isinstance(error, CorruptObject):
            logger.warning("%s, and has been fetched again", problem)
        try:
            check(oid, size)
        except StoreError as still:
            raise ObjectError(f"{still}, as it was fetched") from still
    return repository.store.path(oid)


def _put_aside(repository: Repository, error: StoreError) -> str:
    """What is wrong with an object, once a corrupt one is out of the way."""
    if isinstance(error, MissingObject):
        return str(error)
    if isinstance(error, CorruptObject):
        try:
            moved = repository.store.set_aside(error.oid, repository.private / QUARANTINE)
        except OSError as refused:
            raise ObjectError(f"{error}, and cannot be moved away ({refused.strerror})") from error
        if moved:
            return f"{error}; it is kept as {moved}"
    raise ObjectError(f"{error}: what refers to it was changed by hand") from error


@contextmanager
def storing() -> Iterator[None]:
    """Turns a full or read-only disk, or a file of others, into one sentence; may be nested.

    Raises:
        StorageError: the disk is full or read-only, or a file is closed to the user.
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
        if error.errno == errno.EACCES:  # nobody knows whether to read it, or to write it
            raise StorageError(
                f"{error.filename or 'a file'} is closed to you ({error.strerror}): open it with "
                "`chmod`, or run the same command as whoever may use it"
            ) from error
        raise
