"""Bundles: capabilities, their history and their objects as one file, without a remote."""

from __future__ import annotations

import hashlib
import json
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from niwfstore import CorruptObject, StoreError, check_tensors

from niwfctl.atlas import Atlas
from niwfctl.errors import FormatError, ObjectError, UnknownName, UsageError
from niwfctl.repository.merge import Merged, Resolution, merge
from niwfctl.repository.objects import storing

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository

FORMAT = 1
_REF = "refs/niwf/bundle"


def create(repository: Repository, file: Path, revision: str, names: list[str]) -> Atlas:
    """Writes a bundle of a revision's history with the objects of some, or all, capabilities.

    Raises:
        UsageError: it is not the name of a file in a folder that is there.
        UnknownName: there is no such revision or capability.
        ObjectError: an object is missing or corrupt.
    """
    if file.is_dir() or not file.absolute().parent.is_dir():
        raise UsageError(f"{file} cannot be written: give a file in a folder that is there")
    commit = repository.git.resolve(revision)
    atlas = repository.atlas(commit)
    for name in names:
        if name not in atlas:
            raise UnknownName(f"no capability is called {name!r} at {revision}")
    chosen = {name: atlas[name] for name in names or sorted(atlas)}
    refs = {ref.oid: ref for capability in chosen.values() for ref in capability.objects}
    oids = [*refs, repository.config.field.coordinates]
    with storing(), tempfile.TemporaryDirectory(dir=file.absolute().parent) as scratch:
        repository.git.plain("update-ref", _REF, commit)
        history = Path(scratch) / "history"
        repository.git.plain("bundle", "create", "--quiet", str(history), _REF)
        note = Path(scratch) / "bundle.json"
        note.write_text(json.dumps({"format": FORMAT, "commit": commit, "names": sorted(chosen)}))
        whole = Path(scratch) / "whole"
        with tarfile.open(whole, "w") as archive:
            archive.add(note, "bundle.json")
            archive.add(history, "history")
            for oid in oids:
                archive.add(repository.object_path(oid), f"objects/{oid}")
        whole.replace(file)
    return chosen


def apply(repository: Repository, file: Path) -> Merged:
    """Takes in a bundle: checks every object, then merges its history.

    Raises:
        FormatError: not a bundle, or of a newer version.
        ObjectError: an object in it is corrupt; nothing is merged.
        Conflict, UsageError: as `Repository.merge`.
    """
    try:
        with storing(), tarfile.open(file) as archive, tempfile.TemporaryDirectory() as scratch:
            archive.extractall(scratch, filter="data")
            folder = Path(scratch)
            note = json.loads((folder / "bundle.json").read_text("utf-8"))
            if note["format"] > FORMAT:
                raise FormatError(f"{file} is of format {note['format']}; upgrade niwfctl")
            _take_objects(repository, folder / "objects")
            repository.git.plain("fetch", "--quiet", str(folder / "history"), f"+{_REF}:{_REF}")
    except (tarfile.TarError, KeyError, ValueError, FileNotFoundError) as error:
        raise FormatError(f"{file} is not a niwfctl bundle: {error}") from error
    return merge(repository, note["commit"], Resolution(), f"Apply {file.name}")


def _take_objects(repository: Repository, folder: Path) -> None:
    """Stores a bundle's objects, once all of them are known to be whole."""
    paths = sorted(folder.iterdir())
    try:
        for path in paths:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != path.name:
                raise CorruptObject(path.name, f"its content hashes to {found}")
            check_tensors(path)
        for path in paths:
            repository.store.put_file(path)
    except StoreError as error:
        raise ObjectError(f"the bundle is damaged, and nothing of it was taken: {error}") from error
