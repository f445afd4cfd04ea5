"""Histories in which capabilities are revised, or lie where a test wants them."""

from pathlib import Path

import torch
from niwfstore import ObjectStore

from niwfctl.atlas import ObjectRef
from niwfctl.repository import Repository
from niwfctl.repository.commit import RoutingOptions
from niwfctl.repository.record import record
from niwfctl.repository.regions import pins, read_region
from niwfctl.tensors import as_bytes, read_tensors
from niwfctl.training.checkpoint import load, save

DIM = 8  # of the repositories that tests/conftest.py makes


def revise(repository: Repository, name: str, revision: int) -> str:
    """Commits a version of a capability in which one basis of two is another; the commit's id."""
    capability = repository.capability(name)
    (entry,) = capability.regions
    basis = read_tensors(repository.object_path(entry.bases[1].oid))
    changed = {key: value * (revision + 1) for key, value in basis.items()}
    put = repository.store.put_tensors
    bases = (entry.bases[0], ObjectRef.of(put(as_bytes(changed))))
    region = read_region(repository, entry) | pins(bases, entry.scale, entry.layers)
    whole = ObjectRef.of(put(as_bytes(region)))
    revised = entry.model_copy(update={"region": whole, "bases": bases})
    new = capability.model_copy(update={"regions": (revised,)})
    return record(repository, lambda atlas: atlas | {name: new}, f"Revise {name}")


def place(
    repository: Repository, name: str, *centre: float, mode: str = "new", **routing: object
) -> None:
    """Commits a region that lies around a coordinate, of the finished training `apple`."""
    run, tensors = load(repository.trainings.checkpoint("apple"))
    random = torch.Generator().manual_seed(sum(name.encode()))
    middle = torch.tensor([*centre, *[0.0] * (DIM - len(centre))])
    own = {
        key: torch.randn(len(tensors[key]), DIM, generator=random) * 0.3 + middle
        for key in ("coordinates", "held_out")
    }
    how = run.options.model_copy(update={"mode": mode})
    record = run.model_copy(update={"name": name, "id": f"{name} {centre}", "options": how})
    save(repository.trainings.checkpoint(name), record, tensors | own)
    repository.commit([name], f"Add {name}", RoutingOptions(**routing))


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


def on(repository: Repository, branch: str, start: str) -> None:
    """Begins a branch, or begins it again."""
    repository.git.plain("checkout", "--quiet", "-B", branch, start)


def settled(repository: Repository) -> None:
    """The work tree is HEAD's, and HEAD has the pointers of its capabilities and no other."""
    assert repository.changes() == []
    used = {ref.oid for capability in repository.atlas().values() for ref in capability.objects}
    pointers = repository.git.files("HEAD", "objects")
    assert {Path(path).stem for path in pointers} == used | {repository.config.field.coordinates}


def limit(repository: Repository, name: str, before: float, after: float) -> None:
    """Commits another limit of niwf.toml."""
    config = repository.path / "niwf.toml"
    assert f"{name} = {before}" in config.read_text()
    config.write_text(config.read_text().replace(f"{name} = {before}", f"{name} = {after}"))
    repository.git.plain("commit", "--quiet", "--all", "-m", f"Another {name}")
