"""gc and fsck: removes what nothing needs, and checks the rest."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from niwfstore import MissingObject, Pointer

from niwfctl.errors import FormatError, GitError, ObjectError, UsageError
from niwfctl.layout import OBJECTS, QUARANTINE, object_file
from niwfctl.repository.objects import obtain
from niwfctl.repository.pointers import pointed, pointer_problem, read_pointers
from niwfctl.training.run import read_run

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository

logger = logging.getLogger(__name__)

LONGEST_COMMIT = 1.0  # days for which a commit could be in progress


@dataclass(frozen=True)
class Collected:
    """What gc removed, or would.

    Attributes:
        objects: (id, bytes) of each.
        scratch: bytes left by killed commands, and of trainings that only `undo` could reach.
        operations: how many operations can no longer be undone.
    """

    objects: tuple[tuple[str, int], ...]
    scratch: int
    operations: int

    @property
    def size(self) -> int:
        """Bytes freed."""
        return sum(size for _, size in self.objects) + self.scratch


@dataclass(frozen=True)
class Damage:
    """A problem, and where it is."""

    subject: str
    problem: str


@dataclass(frozen=True)
class Checked:
    """What fsck found.

    Attributes:
        objects: how many are here and were hashed.
        damage: what is wrong.
        elsewhere: (id, remote) of each object that is not here but at a remote.
    """

    objects: int
    damage: tuple[Damage, ...]
    elsewhere: tuple[tuple[str, str], ...] = ()


def reachable(repository: Repository) -> set[str]:
    """Ids of the objects that a ref, reflog, stash, work tree, index or training holds."""
    reused = _reused(repository)  # first: a training committed in the meantime then has pointers
    return {*reused, *_pointer_blobs(repository).values(), *_lying_about(repository)}


def _lying_about(repository: Repository) -> Iterator[str]:
    """Ids of the objects with a pointer in a work tree, tracked by git or not."""
    for place in repository.git.work_trees():
        for path in place.glob(f"{OBJECTS}/*.safetensors"):
            yield path.stem


def _reused(repository: Repository) -> Iterator[str]:
    """Ids of the bases that uncommitted trainings read, including those that `undo` may restore.

    Raises:
        FormatError: a training cannot be read, though another version might read it.
    """
    runs = []
    for path in repository.trainings.checkpoints():
        try:
            with suppress(FileNotFoundError):  # committed or undone in the meantime
                runs.append(read_run(path))
        except FormatError as error:
            raise FormatError(
                f"nothing was removed, since a training that cannot be read may need it: {error}"
            ) from error
    for path in repository.private.glob("operations/*/*/checkpoint.safetensors"):
        with suppress(FormatError, FileNotFoundError):  # it could not be committed either
            runs.append(read_run(path))
    return (one.oid for run in runs for one in run.reused)


def _pointer_blobs(repository: Repository, *options: str, damaged: bool = False) -> dict[str, str]:
    """Object id by blob of its pointer, for everything that git can reach."""
    reached = (*options, "--all", "--reflog", "--indexed-objects", "HEAD")
    return pointed(repository.git, *reached, damaged=damaged)


def collect(repository: Repository, keep_days: float, dry_run: bool) -> Collected:
    """Removes objects that nothing can reach and that are older than `keep_days`.

    A commit in progress holds the lock. On a file system without locks, only age shows what such a
    commit may have stored, so anything younger than a day stays. So do scratch folders everywhere,
    since some belong to commands that take no lock.

    Raises:
        FormatError: a training cannot be read, so what it needs is unknown; nothing is removed.
    """
    with repository.writing() as alone:
        if not alone and keep_days < LONGEST_COMMIT:
            logger.warning("this file system has no locks: anything younger than a day is kept")
            keep_days = LONGEST_COMMIT
        kept = reachable(repository)
        oldest = time.time() - keep_days * 86400
        store = repository.store
        others = (oid for oid in store if oid not in kept)
        unreachable = [oid for oid in others if not store.path(oid).is_symlink()]  # not ours
        gone = [oid for oid in unreachable if store.path(oid).stat().st_mtime <= oldest]
        objects = tuple((oid, store.size(oid)) for oid in gone)
        unused = min(oldest, time.time() - LONGEST_COMMIT * 86400)
        scratch = _old(repository.private / "tmp", unused)
        before = datetime.fromtimestamp(oldest, UTC)
        forgotten = repository.operations.older(before)
        aside = [repository.operations.folder_of(operation) for operation in forgotten]
        left = sum(_size(folder) for folder in (*scratch, *aside))
        found = Collected(objects, left, len(forgotten))
        if dry_run:
            return found
        for oid in gone:
            store.remove(oid)
        store.clean_temporary(keep_days * 86400)
        for path in _old(repository.private / QUARANTINE, oldest):
            if path.is_dir() and not path.is_symlink():  # it was in an object's place
                shutil.rmtree(path)
            else:
                path.unlink()
        for folder in scratch:
            shutil.rmtree(folder, ignore_errors=True)
        repository.operations.forget(before)
        return found


def _old(folder: Path, oldest: float) -> list[Path]:
    """Entries of a folder that have not changed since a time."""
    found = []
    for path in folder.glob("*"):
        with suppress(FileNotFoundError):  # its owner may remove it
            if path.lstat().st_mtime <= oldest:
                found.append(path)
    return found


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def check_all(repository: Repository) -> Checked:
    """Checks every object of every reachable commit, and git's own."""
    damage = []
    try:
        repository.git.check()
    except GitError as error:
        damage.append(Damage("git", str(error)))
    try:
        lost = () if repository.git.is_partial() else ("--missing=allow-any",)
        blobs = _pointer_blobs(repository, *lost, damaged=True)
    except UsageError as error:  # git stops at a damaged commit or folder
        return Checked(0, (*damage, Damage("git", str(error))))
    pointers = read_pointers(repository.git, blobs)
    whole = dict.fromkeys(found for found in pointers.values() if isinstance(found, Pointer))
    damage += (
        Damage(object_file(blobs[blob]), str(found))
        for blob, found in pointers.items()
        if isinstance(found, Exception)
    )
    holder, broken = _checked_objects(repository, whole)
    damage += broken
    for commit in repository.git.plain("rev-list", "--all", "HEAD").splitlines():
        damage += _commit_damage(repository, commit, pointers)
    elsewhere = tuple((pointer.oid, remote) for pointer, remote in holder.items())
    here = {pointer.oid for pointer in whole} & set(repository.store)
    return Checked(len(here), tuple(damage), elsewhere)


def _checked_objects(
    repository: Repository, pointers: Iterable[Pointer]
) -> tuple[dict[Pointer, str], list[Damage]]:
    """Which remote has each object that is not here, and the damage of the others."""
    absent, damage = [], []
    for pointer in pointers:
        if pointer.oid not in repository.store:
            absent.append(pointer)
            continue
        try:
            obtain(repository, pointer.oid, pointer.size, repository.store.verify)
        except ObjectError as error:
            damage.append(Damage(object_file(pointer.oid), str(error)))
    holder, otherwise = repository.remotes.holders(absent) if absent else ({}, "")
    for pointer in absent:
        if pointer not in holder:
            problem = f"{MissingObject(pointer.oid)}, and {otherwise}"
            damage.append(Damage(object_file(pointer.oid), problem))
    return holder, damage


def _commit_damage(
    repository: Repository, commit: str, pointers: Mapping[str, Pointer | Exception]
) -> Iterator[Damage]:
    """The damage of a commit whose objects lack their pointers."""
    try:
        atlas = repository.atlas(commit)
        files = repository.git.files(commit, OBJECTS)
    except (FormatError, GitError) as error:
        yield Damage(commit[:12], str(error))
        return
    for capability in atlas.values():
        for ref in capability.objects:
            if problem := pointer_problem(ref, files, pointers):
                yield Damage(f"{capability.name} at {commit[:12]}", problem)
