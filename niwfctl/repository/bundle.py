"""Bundles: capabilities, their history and their objects as one file, without a remote."""

from __future__ import annotations

import hashlib
import re
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from niwfstore import CorruptObject, StoreError, check_tensors
from niwfstore.atomic import make_dirs
from pydantic import BaseModel, Field

from niwfctl.atlas import Atlas
from niwfctl.config import FILE
from niwfctl.errors import FormatError, ObjectError, UnknownName, UsageError
from niwfctl.repository.merge import Merged, Resolution, merge
from niwfctl.repository.objects import storing
from niwfctl.repository.record import changed_files

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository

FORMAT = 1
_REF = "refs/niwf/bundle"
_MEMBER = re.compile(r"bundle\.json|history|objects/[0-9a-f]{64}")


class _Note(BaseModel):
    """What a bundle says of itself, in `bundle.json`."""

    format: int = Field(FORMAT, ge=1)
    commit: str = Field(pattern=r"^[0-9a-f]{40,64}$")
    names: list[str]


def create(repository: Repository, file: Path, revision: str, names: list[str]) -> Atlas:
    """Writes a bundle: a revision's history and objects, or some of its capabilities alone.

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
    if chosen.keys() != atlas.keys():
        commit = _alone(repository, commit, chosen)
    refs = {ref.oid: ref for capability in chosen.values() for ref in capability.objects}
    oids = [*refs, repository.config.field.coordinates]
    with storing(), tempfile.TemporaryDirectory(dir=file.absolute().parent) as scratch:
        history = Path(scratch) / "history"
        _write_history(repository, commit, history)
        note = Path(scratch) / "bundle.json"
        note.write_text(_Note(commit=commit, names=sorted(chosen)).model_dump_json())
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
    parent = repository.private / "tmp"
    try:
        with storing():
            make_dirs(parent)
            with tempfile.TemporaryDirectory(dir=parent) as scratch:
                commit = _take(repository, file, Path(scratch))
    except (tarfile.TarError, ValueError, FileNotFoundError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise FormatError(f"{file} is not a whole niwfctl bundle: {reason}") from error
    return merge(repository, commit, Resolution(), f"Apply {file.name}")


def _alone(repository: Repository, commit: str, chosen: Atlas) -> str:
    """A commit of some capabilities only, on the one in which the field began.

    So whoever applies it gets these and no others, and whoever shares the field can merge it.
    """
    from niwfctl.repository.routing import settled

    began = repository.git.log(commit, "%H", "--diff-filter=A", "--", FILE).split()[-1]
    message = f"{', '.join(sorted(chosen))} of {commit[:12]}"
    return repository.git.commit(changed_files({}, settled(repository, chosen)), message, [began])


def _write_history(repository: Repository, commit: str, file: Path) -> None:
    git = repository.git
    with repository.writing():  # the name is one for all
        git.plain("update-ref", _REF, commit)
        try:
            git.plain("bundle", "create", "--quiet", str(file), _REF)
        finally:
            git.plain("update-ref", "-d", _REF)


def _take(repository: Repository, file: Path, folder: Path) -> str:
    """Unpacks a bundle, keeps its objects and its history; returns its commit."""
    with tarfile.open(file, "r:") as archive:
        for member in archive.getmembers():
            if not (member.isreg() and _MEMBER.fullmatch(member.name)):
                raise ValueError(f"{member.name!r} has no place in one")
        archive.extractall(folder, filter="data")
    note = _Note.model_validate_json((folder / "bundle.json").read_bytes())
    if note.format > FORMAT:
        raise FormatError(f"{file} is of format {note.format}: upgrade niwfctl")
    history = str(folder / "history")
    try:
        heads = repository.git.plain("bundle", "list-heads", history).split()
        if heads != [note.commit, _REF]:
            raise ValueError("its history is another than it says")
        _take_objects(repository, folder / "objects")
        checked = ("-c", "fetch.fsckObjects=true")
        repository.git.plain(*checked, "fetch", "--quiet", "--no-write-fetch-head", history, _REF)
    except UsageError as error:
        raise ValueError(str(error)) from error
    return note.commit


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
