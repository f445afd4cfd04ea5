"""The capability space in a plane: where regions, anchors and prompts lie, and who owns them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from niwfctl.atlas import Atlas, Capability, RegionEntry, Takeover
from niwfctl.field.projection import Ellipse, discriminant
from niwfctl.field.routing import BASE, owners
from niwfctl.records import Example, Message
from niwfctl.repository.routing import RoutedRegion, base_cell, claim_of, routed_regions

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository


@dataclass(frozen=True)
class Point:
    """A coordinate in the plane.

    Attributes:
        owner: index of the area that owns it (G3); None for the base.
    """

    x: float
    y: float
    owner: int | None


@dataclass(frozen=True)
class Area:
    """A region on the map.

    Attributes:
        name: of its capability.
        label: the name, with the region's number where the capability has several.
        entry: what the manifest says of the region.
        routed: whether prompts are routed to it.
        ellipse: around most of its cell.
        anchors: the coordinates that it occupied in training.
    """

    name: str
    label: str
    entry: RegionEntry
    routed: bool
    ellipse: Ellipse
    anchors: tuple[Point, ...]


@dataclass(frozen=True)
class Map:
    """The capability space of a commit, in the plane that shows its cells furthest apart.

    A unit is a standard deviation of the mean cell. The base's cell lies around (0, 0).

    Attributes:
        commit: whose atlas it is.
        base: the base's own cell.
        areas: the regions in the order of their commits, those that are routed to first.
        composed: capabilities that have no region of their own, only those of others.
        takeovers: (index of a region, index of an earlier one whose anchors it wins, how many).
        prompts: the given ones, and where they fall.
        data: where the prompts of given files fall, by file.
        shown: share of the scatter of the cells' means that the plane keeps; None if they do
            not scatter.
    """

    commit: str
    base: Ellipse
    areas: tuple[Area, ...]
    composed: tuple[Capability, ...]
    takeovers: tuple[tuple[int, int, Takeover], ...]
    prompts: tuple[tuple[str, Point], ...]
    data: dict[str, tuple[Point, ...]]
    shown: float | None


def chart(
    repository: Repository,
    prompts: Sequence[str] = (),
    data: Mapping[str, Sequence[Example]] | None = None,
    batch_size: int = 8,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Map:
    """Computes the map of HEAD's atlas; loads the backbone only if there are prompts.

    Args:
        prompts: to place on it, each by itself.
        data: examples whose prompts to place on it, by the file they come from.
        batch_size: prompts a forward pass.
        progress: called with (prompts read, in all).

    Raises:
        DataError: a prompt is longer than the backbone can read.
        BackboneError: there are prompts, and the backbone is missing or not the pinned one.
        ObjectError: an object is missing or corrupt.
    """
    commit = repository.git.resolve("HEAD")
    atlas = repository.atlas(commit)
    routed, base = routed_regions(repository, atlas), base_cell(repository)
    claims = [region.claim for region in routed]
    there = [*routed, *_never_routed_to(repository, atlas, routed)]
    plane = discriminant([base, *(region.claim.cell for region in there)])

    def points(z: Tensor) -> tuple[Point, ...]:
        found = zip(plane(z).tolist(), owners(z, base, claims).tolist(), strict=True)
        return tuple(Point(*at, None if index == BASE else index) for at, index in found)

    def area(index: int, region: RoutedRegion) -> Area:
        label = _label(atlas[region.name], region.entry)
        ellipse, anchors = plane.ellipse(region.claim.cell), points(region.claim.anchors)
        return Area(region.name, label, region.entry, index < len(routed), ellipse, anchors)

    spoken = [Example((Message("user", one),), "", "--prompt") for one in prompts]
    groups = [spoken, *(data or {}).values()]
    z = torch.empty(0, plane.origin.shape[0], dtype=torch.float32)
    if any(groups):
        examples = [example for group in groups for example in group]
        z = repository.load().coordinates(examples, batch_size, progress)
    own, *others = (points(part) for part in z.split([len(group) for group in groups]))
    return Map(
        commit=commit,
        base=plane.ellipse(base),
        areas=tuple(area(*one) for one in enumerate(there)),
        composed=tuple(atlas[name] for name in sorted(atlas.keys() - {one.name for one in there})),
        takeovers=tuple(_takeovers([region.entry for region in there])),
        prompts=tuple(zip(prompts, own, strict=True)),
        data=dict(zip(data or {}, others, strict=True)),
        shown=plane.shown,
    )


def _never_routed_to(
    repository: Repository, atlas: Atlas, routed: Sequence[RoutedRegion]
) -> list[RoutedRegion]:
    """Regions that no prompt is routed to, each once, even if it has several names."""
    drawn = {region.entry.region.oid for region in routed}
    found = []
    for name, capability in sorted(atlas.items()):
        for entry in capability.regions:
            if entry.region.oid not in drawn:
                drawn.add(entry.region.oid)
                found.append(RoutedRegion(name, entry, claim_of(repository, entry)))
    return found


def _label(capability: Capability, entry: RegionEntry) -> str:
    if len(capability.regions) == 1:
        return capability.name
    return f"{capability.name} {capability.regions.index(entry) + 1}"


def _takeovers(entries: Sequence[RegionEntry]) -> Iterator[tuple[int, int, Takeover]]:
    places = {entry.id: index for index, entry in enumerate(entries)}
    for index, entry in enumerate(entries):
        for one in entry.routing.takeover if entry.routing else ():
            if one.won and one.region in places:
                yield index, places[one.region], one
