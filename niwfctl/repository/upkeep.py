"""gc and fsck: what can be let go, and whether all that must be there is whole."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from niwfstore import MalformedPointer, MissingObject, Pointer

from niwfctl.errors import FormatError, GitError, ObjectError
from niwfctl.repository.objects import QUARANTINE, object_file, obtain

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository

_POINTER = re.compile(r"(?P<blob>[0-9a-f]{40,64}) objects/(?P<oid>[0-9a-f]{64})\.safetensors")


@dataclass(frozen=True)
class Collected:
    """What gc removed, or would.

    Attributes:
        objects: (id, bytes) of each.
        operations: how many entries of the operation log were forgotten.
    """

    objects: tuple[tuple[str, int], ...]
    operations: int

    @property
    def size(self) -> int:
        """Bytes freed."""
        return sum(size for _, size in self.objects)


@dataclass(frozen=True)
class Damage:
    """One thing that is wrong: its name, and what is wrong with it."""

    subject: str
    problem: str


def reachable(repository: Repository) -> dict[str, str]:
    """Pointer blob by object id: all that a ref, reflog, stash, work tree or index holds."""
    listed = repository.git.plain(
        "rev-list", "--objects", "--all", "--reflog", "--indexed-objects", "HEAD"
    )
    found = (_POINTER.fullmatch(line) for line in listed.splitlines())
    return {match["oid"]: match["blob"] for match in found if match}


def collect(repository: Repository, keep_days: float, dry_run: bool) -> Collected:
    """Removes objects that nothing can reach and that are older than `keep_days`.

    A commit under way holds the lock, and what it has stored is younger than that besides.
    """
    with repository.writing():
        kept = reachable(repository)
        oldest = time.time() - keep_days * 86400
        store = repository.store
        unreachable = [oid for oid in store if oid not in kept]
        gone = [oid for oid in unreachable if store.path(oid).stat().st_mtime <= oldest]
        objects = tuple((oid, store.size(oid)) for oid in gone)
        if dry_run:
            return Collected(objects, 0)
        for oid in gone:
            store.remove(oid)
        store.clean_temporary(keep_days * 86400)
        for path in (repository.private / QUARANTINE).glob("*"):
            if path.lstat().st_mtime <= oldest:
                path.unlink()
        before = datetime.now(UTC) - timedelta(days=keep_days)
        return Collected(objects, repository.operations.forget(before))


def check_all(repository: Repository) -> tuple[int, list[Damage]]:
    """(objects checked, what is wrong): every object of every reachable commit, and git's own."""
    damage = []
    try:
        repository.git.check()
    except GitError as error:
        damage.append(Damage("git", str(error)))
    pointers = reachable(repository)
    texts = repository.git.blobs(pointers.values())
    for oid, blob in pointers.items():
        try:
            pointer = Pointer.parse(texts[blob])
            if pointer.oid != oid:
                damage.append(Damage(object_file(oid), f"it points to {pointer.oid}"))
            elif oid in repository.store:
                obtain(repository, oid, pointer.size, repository.store.verify)
            else:
                missing = f"{MissingObject(oid)}, and {repository.remotes.who_has(pointer)}"
                damage.append(Damage(object_file(oid), missing))
        except (ObjectError, MalformedPointer) as error:
            damage.append(Damage(object_file(oid), str(error)))
    for commit in repository.git.plain("rev-list", "--all", "HEAD").splitlines():
        try:
            for capability in repository.atlas(commit).values():
                damage += [
                    Damage(f"{capability.name} at {commit[:12]}", f"{ref.oid} has no pointer")
                    for ref in capability.objects
                    if ref.oid not in pointers
                ]
        except FormatError as error:
            damage.append(Damage(commit[:12], str(error)))
    return len(pointers), damage
