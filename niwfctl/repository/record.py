"""Recording: a new atlas becomes a git commit, and the branch moves to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from niwfstore import Pointer

from niwfctl.atlas import Atlas, ObjectRef
from niwfctl.errors import Busy, GitError
from niwfctl.layout import OBJECTS, manifest_file, object_file

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository

ATTEMPTS = 50  # while others move the branch


def record(
    repository: Repository,
    change: Callable[[Atlas], Atlas],
    message: str,
) -> str:
    """Commits what `change` makes of HEAD's atlas. The objects must already be in the store.

    Order: git objects, work tree and index, branch. A kill in between leaves HEAD unchanged, and
    at most staged files that the next attempt rewrites.

    Args:
        change: makes the new atlas from HEAD's; called again if HEAD has moved.

    Returns:
        Id of the commit.

    Raises:
        UsageError: a file to write has local changes, which would be lost.
        Busy: another git is moving a branch.
        GitError: git refuses.
    """
    git, written = repository.git, set()
    for attempt in range(1, ATTEMPTS + 1):
        head = git.head()
        before = repository.atlas(head)
        after = change(dict(before))
        files = changed_files(before, after) | lacking(repository, head, after)
        new = git.commit(files, message, [head])
        git.refuse_loss(new, files.keys() - written)
        git.await_locks()  # before anything is staged
        git.sync(new, files)
        written |= files.keys()
        try:
            git.advance(new, head, f"niwfctl: {message.splitlines()[0]}")
            return new
        except (Busy, GitError):
            if attempt == ATTEMPTS or git.head() == head:
                git.sync(git.head(), written)  # so that nothing of it stays staged
                raise
    raise AssertionError("unreachable")


def changed_files(before: Atlas, after: Atlas) -> dict[str, bytes | None]:
    """Content of manifests and pointers that differ, by path; None for those to remove."""
    files: dict[str, bytes | None] = {}
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            capability = after.get(name)
            files[manifest_file(name)] = capability.dump().encode() if capability else None
    old, new = _objects(before), _objects(after)
    for oid in sorted(old.keys() - new.keys()):
        files[object_file(oid)] = None
    for oid in sorted(new.keys() - old.keys()):
        files[object_file(oid)] = Pointer(oid, new[oid].size).text().encode()
    return files


def lacking(repository: Repository, commit: str, atlas: Atlas) -> dict[str, bytes | None]:
    """Content, by path, of the pointers to an atlas's objects that are not in a commit.

    Plain `git merge` and `git revert` remove the pointer to a basis with the capability that it was
    trained for, though another one uses it, too.
    """
    there = repository.git.files(commit, OBJECTS)
    return {
        object_file(ref.oid): Pointer(ref.oid, ref.size).text().encode()
        for ref in _objects(atlas).values()
        if object_file(ref.oid) not in there
    }


def _objects(atlas: Atlas) -> dict[str, ObjectRef]:
    return {ref.oid: ref for capability in atlas.values() for ref in capability.objects}
