"""Capabilities with random weights of given shapes: no model of that size is needed."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from zlib import crc32

import torch
from safetensors.torch import load_file, save_file

from niwfctl.field.basis import Basis, Site
from niwfctl.field.generator import Generator
from niwfctl.repository import Repository
from niwfctl.repository.commit import RoutingOptions
from niwfctl.repository.export import export
from niwfctl.training.checkpoint import load, save
from niwfctl.training.run import Reused, TrainingOptions

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from tiny import save_tiny, write_data

DIM = 32
PATTERN = "pattern"


def sites(layers: Sequence[int], shapes: Mapping[str, tuple[int, int]]) -> list[Site]:
    """All linears of some layers; shapes are (in, out) by module."""
    return [Site(layer, module, *shape) for layer in layers for module, shape in shapes.items()]


def empty(folder: Path, model: str | None = None, dim: int = DIM) -> Repository:
    """A repository with one finished training to copy, on a tiny backbone or the one named."""
    backbone = model or save_tiny(folder / "backbone")
    repository = Repository.init(folder / "repository", model=str(backbone), dim=dim)
    data = write_data(folder / "data.jsonl")
    repository.train(PATTERN, [data], TrainingOptions(steps=1, rank=2, val_split=0.2))
    return repository


def train(
    repository: Repository, name: str, where: Sequence[Site], rank: int, new: int, seed: int
) -> None:
    """Leaves a finished training of `name`, as `niwfctl train` would.

    Args:
        new: how many of the two bases are its own; the others come from the previous version.
    """
    run, pattern = load(repository.trainings.checkpoint(PATTERN))
    before = repository.atlas().get(name)
    reused: tuple[Reused, ...] = ()
    if before:
        (entry,) = before.regions
        reused = tuple(
            Reused(of=name, oid=ref.oid, size=ref.size, scale=entry.scale)
            for ref in entry.bases[: 2 - new]
        )
    mode = "revise" if before else "new"
    options = {"rank": rank, "bases": 2 - len(reused), "mode": mode}
    run = run.model_copy(
        update={
            "id": f"{name}-{seed}",
            "name": name,
            "reused": reused,
            "options": run.options.model_copy(update=options),
        }
    )
    random = torch.Generator().manual_seed(seed)
    tensors = {key: pattern[key].clone() for key in ("held_out", "probe")}
    # Each name gets its own place, or routing would refuse one because of another.
    dim = pattern["coordinates"].shape[1]
    place = torch.randn(dim, generator=torch.Generator().manual_seed(crc32(name.encode()))) * 5
    tensors["coordinates"] = pattern["coordinates"] + place
    tensors["held_out"] = pattern["held_out"] + place
    for index in range(2 - len(reused)):
        basis = Basis.initial(where, rank, random)
        for up in basis.up.values():
            up.normal_(std=0.01, generator=random)
        tensors |= {f"bases.{index}.{key}": value for key, value in basis.tensors().items()}
    torch.manual_seed(seed)
    generator = Generator(dim, len({site.layer for site in where}), 2)
    tensors |= {f"generator.{key}": value for key, value in generator.state_dict().items()}
    save(repository.trainings.checkpoint(name), run, tensors)


def commit(repository: Repository, name: str, message: str) -> None:
    """Commits it whatever earlier ones own: only bytes and seconds are measured."""
    repository.commit([name], message, RoutingOptions(accept_shadow=True))


def adapter(repository: Repository, name: str, folder: Path) -> Path:
    """A capability as PEFT's adapter_model.safetensors, in bf16 as its bases are."""
    export(repository, name, "peft", folder, None)
    path = folder / "adapter_model.safetensors"
    tensors = {key: value.bfloat16() for key, value in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    return path
