"""Pointers to objects, as git keeps them in commits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from niwfstore import MalformedPointer, Pointer
from niwfstore.pointer import LARGEST

from niwfctl.errors import GitError
from niwfctl.layout import OBJECTS, object_file

if TYPE_CHECKING:
    from niwfctl.atlas import ObjectRef
    from niwfctl.git.git import Git

_POINTER = re.compile(rf"{OBJECTS}/(?P<oid>[0-9a-f]{{64}})\.safetensors")


def pointed(git: Git, *revisions: str, damaged: bool = False) -> dict[str, str]:
    """Object id by blob of its pointer, for everything that revisions reach.

    A blob's content decides, since git names one path of a blob that may have several; a damaged
    pointer is known by its path.

    Args:
        revisions: as `git rev-list` takes them.
        damaged: go by paths alone if git has lost a blob.

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
    """The pointer in each blob, or the error in reading it."""
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
    """Why remotes would not get an object that a commit's manifest names; None if they would.

    Args:
        files: blob by path, of the commit's `objects`.
        pointers: as `read_pointers` found them.
    """
    path = object_file(ref.oid)
    if path not in files:
        return f"{path} is missing from the commit; `niwfctl merge HEAD` makes one that has it"
    found = pointers.get(files[path])
    if found is None:
        return f"{path} cannot be read"
    if isinstance(found, Exception):
        return f"{path} is {found}"
    right = found == Pointer(ref.oid, ref.size)
    return None if right else f"{path} does not point to what its manifest says"
