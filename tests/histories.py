"""Histories in which capabilities are revised."""

from niwfstore import ObjectStore

from niwfctl.atlas import ObjectRef
from niwfctl.repository import Repository
from niwfctl.repository.record import record
from niwfctl.tensors import as_bytes, read_tensors


def revise(repository: Repository, name: str, revision: int) -> str:
    """Commits a version of a capability in which one basis of two is another; the commit's id."""
    capability = repository.capability(name)
    (entry,) = capability.regions
    basis = read_tensors(repository.object_path(entry.bases[1].oid))
    changed = {key: value * (revision + 1) for key, value in basis.items()}
    ref = ObjectRef.of(repository.store.put_tensors(as_bytes(changed)))
    revised = entry.model_copy(update={"bases": (entry.bases[0], ref)})
    new = capability.model_copy(update={"regions": (revised,)})
    return record(repository, lambda atlas: atlas | {name: new}, f"Revise {name}")


def cut(repository: Repository) -> None:
    """Leaves only a commit of HEAD's tree, without parents; nothing reaches what was before."""
    git = repository.git.plain
    git("checkout", "--quiet", "--orphan", "cut")
    git("commit", "--quiet", "-m", "Only the end")
    for branch in git("for-each-ref", "--format=%(refname:short)", "refs/heads").split():
        if branch != "cut":
            git("branch", "--quiet", "-D", branch)
    git("reflog", "expire", "--expire=now", "--all")


def stored(store: ObjectStore) -> int:
    """Bytes of all objects."""
    return sum(store.size(oid) for oid in store)
