"""Bundles: capabilities, their history and their objects as one file, without a remote."""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from niwfstore import CorruptObject, MalformedTensors, StoreError, check_tensors, output_file
from pydantic import BaseModel, Field

from niwfctl.atlas import Atlas
from niwfctl.config import FILE
from niwfctl.errors import FormatError, ObjectError, UsageError
from niwfctl.layout import ATTRIBUTES, ATTRIBUTES_FILE, OBJECTS, object_file
from niwfctl.repository.checkout import commit_called
from niwfctl.repository.merge import Merged, Resolution, merge
from niwfctl.repository.pointers import pointed
from niwfctl.repository.record import changed_files
from niwfctl.storage import storing

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository

FORMAT = 2  # format 1 had no tags, and is still written where there are none
_REF, _TAGS = "refs/niwf/bundle", "refs/tags/"
_NOTE = "bundle.json"  # its first member
_MEMBER = re.compile(r"bundle\.json|history|objects/[0-9a-f]{64}")


class _Note(BaseModel):
    """What a bundle states, in its first member."""

    format: int = Field(ge=1)
    commit: str = Field(pattern=r"^[0-9a-f]{40,64}$")
    names: list[str]
    branch: str | None = None


class Taken(NamedTuple):
    """What a bundle brought, to which no ref refers yet.

    Attributes:
        commit: its id.
        branch: name of the branch that it was made of; None if that was a commit.
        tags: id by full name, of those in its history.
    """

    commit: str
    branch: str | None
    tags: Mapping[str, str]


def create(repository: Repository, file: Path, targets: Sequence[str] = ()) -> list[str]:
    """Implements `Repository.write_bundle`."""
    if file.is_dir() or not file.absolute().parent.is_dir():
        raise UsageError(f"{file} cannot be written: give a file in an existing folder")
    if repository.git.shallow:
        raise UsageError(
            "this is a shallow clone, whose bundle could only be applied where the missing "
            "history exists: fetch it with `git fetch --unshallow`, then create the bundle"
        )
    commit, alone = _chosen(repository, targets)
    branch = None if alone else _branch(repository, targets)
    tags = [] if alone else _tags_in(repository, commit)
    names = sorted(repository.atlas(commit))
    with storing(), repository.git.scratch() as scratch:
        history = scratch / "history"
        _write_history(repository, commit, tags, history)
        note = scratch / _NOTE
        stated = _Note(format=2 if tags else 1, commit=commit, names=names, branch=branch)
        note.write_text(stated.model_dump_json(exclude_none=True))
        objects = dict.fromkeys(pointed(repository.git, commit).values())
        repository.remotes.gather(objects)
        with output_file(file) as whole, tarfile.open(fileobj=whole, mode="w|") as archive:
            archive.add(note, _NOTE, filter=_plain)
            archive.add(history, "history", filter=_plain)
            for oid in objects:
                archive.add(repository.object_path(oid), f"objects/{oid}", filter=_plain)
    return names


def apply(repository: Repository, file: Path) -> Merged:
    """Applies a bundle: checks that it is complete, stores its objects, then merges its history.

    Its tags come with it; those of a name that is taken here stay what they are.

    Raises:
        FormatError: not a bundle, incomplete, or of a newer version; nothing is merged.
        ObjectError: an object in it is corrupt; nothing is merged.
        Conflict, UsageError: as `Repository.merge`.
    """
    with storing(), repository.writing():  # gc waits until history holds the objects
        taken = take(repository, file)
        merged = merge(repository, taken.commit, Resolution(), f"Apply {file.name}")
        add_tags(repository, taken.tags)
        return merged


def add_tags(repository: Repository, tags: Mapping[str, str]) -> None:
    """Adds tags, by their full names, apart from those there are."""
    git = repository.git
    there = set(git.plain("for-each-ref", "--format=%(refname)", _TAGS).split())
    for name in tags.keys() - there:
        git.plain("update-ref", name, tags[name])


def take(repository: Repository, file: Path) -> Taken:
    """Checks that a bundle is complete and stores its history and objects; no ref moves.

    Raises:
        FormatError: not a bundle, incomplete, or of a newer version.
        ObjectError: an object in it is corrupt.
    """
    try:
        with repository.git.scratch() as scratch:
            return _take(repository, file, scratch)
    except (tarfile.TarError, ValueError, FileNotFoundError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise FormatError(f"{file} is not a complete niwfctl bundle: {reason}") from error


def is_bundle(file: Path) -> bool:
    """Whether a file begins as a bundle does."""
    if not file.is_file():
        return False
    try:
        with tarfile.open(file, "r:") as archive:
            first = archive.next()
    except tarfile.TarError:
        return False
    return first is not None and first.name == _NOTE


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """A member without traces of who made it, where and when."""
    return member.replace(uid=0, gid=0, uname="", gname="", mtime=0, mode=0o644, deep=False)


def _chosen(repository: Repository, targets: Sequence[str]) -> tuple[str, bool]:
    """The commit to bundle, and whether it was made for that, of some capabilities."""
    if not targets:
        return repository.git.resolve("HEAD"), False
    if len(targets) == 1 and not repository.names_capability(targets[0]):
        return commit_called(repository, targets[0]), False
    chosen: Atlas = {}
    for target in targets:
        capability = repository.capability(target)
        if capability.name in chosen:
            raise UsageError(f"{target!r}: a bundle can hold only one capability of a name")
        chosen[capability.name] = capability
    return _alone(repository, chosen), True


def _branch(repository: Repository, targets: Sequence[str]) -> str | None:
    """The branch that is bundled, if it is one."""
    name = targets[0] if targets else repository.git.branch()
    return name if name in {ref.name for ref in repository.git.refs("heads")} else None


def _tags_in(repository: Repository, commit: str) -> list[str]:
    """Full names of the tags in a commit's history."""
    options = (f"--merged={commit}", "--format=%(refname)", _TAGS)
    return repository.git.plain("for-each-ref", *options).split()


def _alone(repository: Repository, chosen: Atlas) -> str:
    """A commit of some capabilities only, whose parent is the commit in which the field began.

    Applying it brings these and no others, and any repository of that field can merge it. If the
    parent would bring more, such as files of a project or capabilities of a truncated history, the
    commit has no parent.
    """
    from niwfctl.repository.routing import settled

    head = repository.git.resolve("HEAD")
    began = repository.git.log(head, "%H", "--diff-filter=A", "--", FILE).split()[-1]
    message = f"{', '.join(sorted(chosen))} of {head[:12]}"
    files = changed_files({}, settled(repository, chosen))
    if _only_a_field(repository, began):
        return repository.git.commit(files, message, [began])
    fields = (FILE, object_file(repository.config.field.coordinates))
    files |= {path: repository.git.blob(began, path) for path in fields}
    return repository.git.commit(files | {ATTRIBUTES_FILE: ATTRIBUTES.encode()}, message, [])


def _only_a_field(repository: Repository, began: str) -> bool:
    """Whether a commit and its history contain nothing but an empty field."""
    git = repository.git
    parents = git.log(began, "%P", "--max-count=1").split()
    names = git.plain("ls-tree", "--name-only", began).splitlines()
    empty = not repository.atlas(began)
    return empty and not parents and set(names) <= {FILE, ATTRIBUTES_FILE, OBJECTS}


def _write_history(repository: Repository, commit: str, tags: Sequence[str], file: Path) -> None:
    git = repository.git
    with repository.writing():  # all bundles use the same ref
        git.plain("update-ref", _REF, commit)
        try:
            git.plain("bundle", "create", "--quiet", str(file), _REF, *tags)
        finally:
            git.plain("update-ref", "-d", _REF)


def _take(repository: Repository, file: Path, folder: Path) -> Taken:
    """Unpacks a bundle and stores its history and objects."""
    objects = folder / "objects"
    with tarfile.open(file, "r:") as archive:
        for member in archive.getmembers():
            plain = member.isreg() and not member.issparse()
            if not (plain and _MEMBER.fullmatch(member.name)):
                raise ValueError(f"{member.name!r} does not belong in a bundle")
        archive.extractall(folder, filter="data")
    for part in (_NOTE, "history", "objects"):
        if not (folder / part).exists():
            raise ValueError(f"it has no {part}, so get it again from whoever made it")
    note = _Note.model_validate_json((folder / _NOTE).read_bytes())
    if note.format > FORMAT:
        raise FormatError(f"{file} has format {note.format}: upgrade niwfctl")
    _check_objects(objects)
    try:
        if note.branch:
            repository.git.plain("check-ref-format", f"refs/heads/{note.branch}")
        tags = _take_history(repository, folder / "history", note.commit)
        needed = _needed(repository, note.commit)
    except UsageError as error:
        raise ValueError(str(error)) from error
    for oid in needed:
        if oid not in repository.store and not (objects / oid).exists():
            raise ValueError(f"object {oid} is neither in the bundle nor here")
    for path in sorted(objects.iterdir()):
        repository.store.put_file(path)
    return Taken(note.commit, note.branch, tags)


def _take_history(repository: Repository, history: Path, commit: str) -> dict[str, str]:
    """Stores the git objects of a bundle; returns its tags. No ref refers to them yet."""
    git = repository.git
    heads = git.plain("bundle", "list-heads", str(history)).splitlines()
    tags = {name: id for id, name in (head.split(" ", 1) for head in heads)}
    if tags.pop(_REF, None) != commit or not all(name.startswith(_TAGS) for name in tags):
        raise ValueError("its history is not the one it states")
    checked = ("-c", "fetch.fsckObjects=true")
    quietly = ("--quiet", "--no-write-fetch-head", "--no-tags")
    git.plain(*checked, "fetch", *quietly, str(history), _REF, *tags)
    for name, id in tags.items():
        if git.merge_bases(id, commit) != [git.resolve(id)]:
            raise ValueError(f"its {name.removeprefix(_TAGS)!r} is no tag of its history")
    return tags


def _needed(repository: Repository, commit: str) -> set[str]:
    """Ids of the objects that a commit needs and those that its history adds."""
    new = pointed(repository.git, commit, "--not", "--all").values()
    atlas = repository.atlas(commit)
    return {*new, *(ref.oid for capability in atlas.values() for ref in capability.objects)}


def _check_objects(folder: Path) -> None:
    """Checks that a bundle's objects match their names.

    Raises:
        ObjectError: one does not.
    """
    try:
        for path in sorted(folder.iterdir()):
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != path.name:
                raise CorruptObject(path.name, f"its content hashes to {found}")
            try:
                check_tensors(path)
            except MalformedTensors as error:
                raise CorruptObject(path.name, str(error)) from error
    except StoreError as error:
        raise ObjectError(f"the bundle is damaged, and nothing was applied: {error}") from error
