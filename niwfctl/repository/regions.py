"""Committed regions, read from the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from niwfctl.atlas import ObjectRef, RegionEntry
from niwfctl.errors import ObjectError
from niwfctl.field.basis import Basis
from niwfctl.field.region import Region
from niwfctl.tensors import read_tensors

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository


def load_region(
    repository: Repository, entry: RegionEntry, device: torch.device | str = "cpu"
) -> Region:
    """A committed region, frozen, its bases on `device`; the generator computes on it too.

    Raises:
        ObjectError: an object is missing or corrupt, or not what the manifest takes it for.
    """
    bases = tuple(load_basis(repository, ref, device) for ref in entry.bases)
    tensors = read_object(repository, entry.region)
    try:
        region = Region.from_tensors(tensors, bases, entry.scale, entry.layers)
        fits = _fits_together(region)
    except (KeyError, RuntimeError) as error:
        raise _misfit(entry) from error
    if not fits:
        raise _misfit(entry)
    region.generator.to(device)
    return region


def load_basis(repository: Repository, ref: ObjectRef, device: torch.device | str = "cpu") -> Basis:
    """A sealed basis.

    Raises:
        ObjectError: its object is missing or corrupt.
    """
    tensors = read_object(repository, ref)
    return Basis.from_tensors({key: value.to(device) for key, value in tensors.items()})


def read_object(repository: Repository, ref: ObjectRef) -> dict[str, Tensor]:
    """Tensors of a stored object, mapped from its file.

    Raises:
        ObjectError: it is missing or corrupt.
    """
    return read_tensors(repository.object_path(ref.oid, ref.size))


def _fits_together(region: Region) -> bool:
    """Whether the objects that a manifest names are a region and its bases."""
    sites = region.bases[0].down.keys()
    gates = (len(region.layers), len(region.bases))
    return (
        {int(name.split(".")[1]) for name in sites} == set(region.layers)
        and all(sites == basis.down.keys() == basis.up.keys() for basis in region.bases)
        and (region.generator.layers, region.generator.bases) == gates
        and region.snapshot.shape[1:] == gates
    )


def _misfit(entry: RegionEntry) -> ObjectError:
    return ObjectError(
        f"the objects of region {entry.id} do not belong together: its manifest was changed by "
        "hand; bring it back with `niwfctl rollback`"
    )
