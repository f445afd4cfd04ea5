"""Committed regions, read from the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from niwfctl.atlas import Capability, ObjectRef, RegionEntry
from niwfctl.config import FILE, restoring
from niwfctl.errors import ObjectError, UsageError
from niwfctl.field.basis import Basis, Site
from niwfctl.field.region import Region
from niwfctl.tensors import read_tensors

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository


_CELL = {"mean", "factor", "radius"}
_REGION = {"anchors.occupied", "probe", *(f"cell.{key}" for key in _CELL)}
# What torch and Python raise where shapes or names are not as expected.
_SHAPELESS = (IndexError, KeyError, RuntimeError, TypeError, ValueError)
_COORDINATES = {"map.mean", "map.projection", "probe", *(f"base.{key}" for key in _CELL)}


def pins(bases: Sequence[ObjectRef], scale: float, layers: Sequence[int]) -> dict[str, Tensor]:
    """How a region's bases act, sealed in its object so that no manifest can say otherwise.

    Returns:
        `pinned.bases` uint8 [bases, 32], their sha256; `pinned.scale` float64 scalar;
        `pinned.layers` int64 [layers].
    """
    digests = [list(bytes.fromhex(ref.oid)) for ref in bases]
    return {
        "pinned.bases": torch.tensor(digests, dtype=torch.uint8),
        "pinned.scale": torch.tensor(scale, dtype=torch.float64),
        "pinned.layers": torch.tensor(layers, dtype=torch.int64),
    }


def load_region(
    repository: Repository,
    entry: RegionEntry,
    device: torch.device | str = "cpu",
    sites: Sequence[Site] | None = None,
) -> Region:
    """A committed region, frozen, its bases on `device`; the generator computes on it too.

    Args:
        sites: the backbone's, which its bases must fit; None if they are not known.

    Raises:
        ObjectError: an object is missing or corrupt, or does not fit its manifest.
    """
    repository.remotes.gather(ref.oid for ref in entry.objects)
    bases = tuple(load_basis(repository, ref, device) for ref in entry.bases)
    tensors = read_region(repository, entry)
    try:
        region = Region.from_tensors(tensors, bases, entry.scale, entry.layers)
        fits = _fits_together(region, sites)
    except _SHAPELESS as error:
        raise _misfit(entry) from error
    if not fits:
        raise _misfit(entry)
    region.generator.to(device)
    return region


def acting_everywhere(capability: Capability, instead: str) -> list[tuple[float, RegionEntry]]:
    """The weighted regions of a capability that act whatever the prompt.

    Args:
        instead: what to do otherwise, for the message.

    Raises:
        UsageError: it or a part of it has several regions, of which one acts for each prompt.
    """
    sums = [(part.weight, part.regions) for part in capability.parts] or [(1.0, capability.regions)]
    if any(len(regions) > 1 for _, regions in sums):
        raise UsageError(
            f"{capability.name!r} has several regions, and which one acts depends on the prompt: "
            f"{instead}"
        )
    return [(weight, regions[0]) for weight, regions in sums]


def load_basis(repository: Repository, ref: ObjectRef, device: torch.device | str = "cpu") -> Basis:
    """A sealed basis.

    Raises:
        ObjectError: its object is missing or corrupt.
    """
    tensors = read_object(repository, ref)
    return Basis.from_tensors({key: value.to(device) for key, value in tensors.items()})


def read_region(repository: Repository, entry: RegionEntry) -> dict[str, Tensor]:
    """Tensors of a region's own object, without its bases'.

    Raises:
        ObjectError: it is missing or corrupt, not a region of this coordinate map, or its radius,
            number of anchors, bases, scale or layers differ from the manifest's (of objects older
            than their pins, the last three are not checked).
    """
    tensors = read_object(repository, entry.region)
    sealed = {key: value for key, value in tensors.items() if key.startswith("pinned.")}
    try:
        fits = (
            _is_region(tensors, repository.config.field.dim)
            and _is_described(tensors, entry)
            and (not sealed or _equal(sealed, pins(entry.bases, entry.scale, entry.layers)))
        )
    except _SHAPELESS as error:
        raise _misfit(entry) from error
    if not fits:
        raise _misfit(entry)
    return tensors


def read_coordinates(repository: Repository) -> dict[str, Tensor]:
    """Tensors of the object that `init` made: `map.*`, the base's cell `base.*`, and `probe`.

    Raises:
        ObjectError: it is missing or corrupt, or not a coordinate map.
    """
    field = repository.config.field
    tensors = read_tensors(repository.object_path(field.coordinates))
    if not (tensors.keys() >= _COORDINATES and _is_map(tensors, field.dim)):
        raise ObjectError(
            f"object {field.coordinates} is not a coordinate map of {field.dim} dimensions, as "
            f"{FILE} states: {restoring(FILE)}"
        )
    return tensors


def read_object(repository: Repository, ref: ObjectRef) -> dict[str, Tensor]:
    """Tensors of a stored object, mapped from its file.

    Raises:
        ObjectError: it is missing or corrupt.
    """
    return read_tensors(repository.object_path(ref.oid, ref.size))


def _is_region(tensors: Mapping[str, Tensor], dim: int) -> bool:
    """Whether the tensors that routing reads are those of a region of `dim` dimensions."""
    if not tensors.keys() >= _REGION:
        return False
    occupied, fresh = tensors["anchors.occupied"], tensors.get("anchors.fresh")
    return (
        _is_cell(tensors, "cell.", dim)
        and occupied.shape == (len(occupied), dim)
        and len(occupied) > 0
        and (fresh is None or fresh.shape == (len(occupied),))
        and _finite(occupied, *([] if fresh is None else [fresh]))
    )


def _is_described(tensors: Mapping[str, Tensor], entry: RegionEntry) -> bool:
    """Whether the manifest tells of the region what it is."""
    anchors = len(tensors["anchors.sampled"]) + len(tensors["anchors.occupied"])
    return (float(tensors["cell.radius"]), anchors) == (entry.radius, entry.anchors)


def _is_map(tensors: Mapping[str, Tensor], dim: int) -> bool:
    mean, projection = tensors["map.mean"], tensors["map.projection"]
    return (
        projection.shape == (dim, mean.numel())
        and mean.dim() == 1
        and _finite(mean, projection)
        and _is_cell(tensors, "base.", dim)
    )


def _is_cell(tensors: Mapping[str, Tensor], prefix: str, dim: int) -> bool:
    mean, factor, radius = (tensors[f"{prefix}{key}"] for key in ("mean", "factor", "radius"))
    freedom = tensors.get(f"{prefix}freedom", radius)
    return (
        (mean.shape, factor.shape, radius.shape, freedom.shape) == ((dim,), (dim, dim), (), ())
        and {mean.dtype, factor.dtype, radius.dtype, freedom.dtype} == {torch.float64}
        and _finite(mean, factor, radius, freedom)
        and bool((factor.diagonal() > 0).all())
    )


def _fits_together(region: Region, sites: Sequence[Site] | None) -> bool:
    """Whether a manifest's objects are a region and its bases, for these sites."""
    generator, dim = region.generator, region.cell.dim
    gates = (len(region.layers), len(region.bases))
    if sites is None:
        shapes = region.bases[0].shapes()
    else:
        shapes = {site.name: (site.out_features, site.in_features) for site in sites}
    return (
        all(basis.fits(shapes) for basis in region.bases)
        and region.bases[0].layers == region.layers
        and (generator.layers, generator.bases) == gates
        and (generator.gain is None or generator.gain.shape == gates[1:])
        and generator.inner.in_features == dim
        and region.sampled.shape == (len(region.sampled), dim)
        and region.snapshot.shape == (len(region.sampled) + len(region.occupied), *gates)
        and _finite(region.sampled, region.snapshot, *generator.state_dict().values())
    )


def _finite(*tensors: Tensor) -> bool:
    # summing takes a third of the time of testing every value
    return all(bool(tensor.sum().isfinite()) for tensor in tensors)


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def _misfit(entry: RegionEntry) -> ObjectError:
    return ObjectError(
        f"the objects of region {entry.id} do not fit each other or this backbone: they or its "
        "manifest were changed by hand; restore it with `niwfctl rollback`"
    )
