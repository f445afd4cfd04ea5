"""The routing lock (G3): how the regions of an atlas share coordinate space.

It is a function of the regions and their terms alone. So a merge gives one outcome, whichever side
it is made from and in whatever order branches are merged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from niwfctl.atlas import Atlas, Capability, RegionEntry, Routing, Takeover
from niwfctl.errors import Shadowed
from niwfctl.field.cell import Cell
from niwfctl.field.routing import BASE, Claim, needed_bias, owners, takeover, upper_bound
from niwfctl.repository.regions import read_coordinates, read_region

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository


@dataclass(frozen=True)
class Stake:
    """A region that takes part in routing."""

    name: str
    entry: RegionEntry
    claim: Claim


@dataclass(frozen=True)
class Excess:
    """A region that wins more of an earlier one's anchors than it may.

    Attributes:
        later, earlier: names of their capabilities.
        won: how many anchors it wins.
        anchors: of how many.
        allowed: share of them that it may win.
    """

    later: str
    earlier: str
    won: int
    anchors: int
    allowed: float

    def __str__(self) -> str:
        return (
            f"{self.later} takes over {self.won} of {self.anchors} anchors of {self.earlier}, more "
            f"than {self.allowed:.0%}"
        )


def stakes(repository: Repository, atlas: Atlas) -> list[Stake]:
    """All regions that are routed to, earliest first.

    Raises:
        ObjectError: an object is missing or corrupt.
    """
    return [Stake(name, entry, claim_of(repository, entry)) for name, entry in _routed(atlas)]


def base_cell(repository: Repository) -> Cell:
    """The base's own cell, of the calibration prompts."""
    stored = read_coordinates(repository)
    prefix = "base."
    return Cell.from_tensors(
        {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}
    )


def claim_of(repository: Repository, entry: RegionEntry) -> Claim:
    """What a region claims of coordinate space, with the bias its manifest states.

    Raises:
        ObjectError: its object is missing or corrupt, or no region.
    """
    tensors = read_region(repository, entry)
    cell = {key: tensors[f"cell.{key}"] for key in ("mean", "factor", "radius")}
    bias = entry.routing.bias if entry.routing else 0.0
    return Claim(Cell.from_tensors(cell), bias, tensors["anchors.occupied"])


def settled(repository: Repository, atlas: Atlas, only: Sequence[str] | None = None) -> Atlas:
    """The atlas with the smallest biases that keep every region's takeover within its terms.

    Args:
        only: names of the capabilities to set; all by default.
    """
    base, done, routings = base_cell(repository), [], {}
    for stake in stakes(repository, atlas):
        if only is None or stake.name in only:
            stake = _settle(stake, done, base)
            routings[stake.name, stake.entry.id] = stake.entry.routing
        done.append(stake)
    return {
        name: _with(capability, routings) if only is None or name in only else capability
        for name, capability in atlas.items()
    }


def require_light(atlas: Atlas, names: Sequence[str], max_shadow: float) -> None:
    """Refuses capabilities of which earlier ones own too much.

    Raises:
        Shadowed: the message names the owners and the ways out.
    """
    names_of = {
        entry.id: name for name, one in atlas.items() for entry in one.regions if entry.routing
    }
    for name in names:
        for entry in atlas[name].regions:
            if entry.routing is None:
                continue
            allowed = {"base", *entry.terms.supersedes}
            shadow = {
                names_of[owner]: share
                for owner, share in entry.routing.shadow.items()
                if owner not in allowed
            }
            if sum(shadow.values()) > max_shadow:
                raise Shadowed(name, shadow, max_shadow)


def excesses(repository: Repository, atlas: Atlas) -> list[Excess]:
    """Where the routing lock does not hold; empty when it does.

    Figures in manifests are not trusted: takeover is counted anew from cells and anchors.

    Raises:
        ObjectError: an object is missing or corrupt.
    """
    found, earlier = [], []
    for stake in stakes(repository, atlas):
        terms = stake.entry.terms
        for other in earlier:
            won, anchors = takeover(stake.claim, other.claim)
            if other.entry.id not in terms.supersedes and won > terms.max_takeover * anchors:
                found.append(Excess(stake.name, other.name, won, anchors, terms.max_takeover))
        earlier.append(stake)
    return found


def _routed(atlas: Atlas) -> list[tuple[str, RegionEntry]]:
    regions = [
        (name, entry)
        for name, capability in atlas.items()
        for entry in capability.regions
        if entry.terms and not entry.terms.manual
    ]
    return sorted(regions, key=lambda one: (one[1].terms.order, one[1].region.oid, one[0]))


def _settle(stake: Stake, earlier: Sequence[Stake], base: Cell) -> Stake:
    terms, cell, anchors = stake.entry.terms, stake.claim.cell, stake.claim.anchors
    protected = [one.claim for one in earlier if one.entry.id not in terms.supersedes]
    claim = Claim(cell, needed_bias(cell, protected, terms.max_takeover), anchors)
    counts = [(one.entry.id, *takeover(claim, one.claim)) for one in earlier]
    owned = owners(anchors, base, [*(one.claim for one in earlier), claim])
    shares = {
        earlier[index].entry.id if index != BASE else "base": float(
            (owned == index).double().mean()
        )
        for index in torch.unique(owned).tolist()
        if index != len(earlier)
    }
    routing = Routing(
        bias=claim.bias,
        takeover=tuple(
            Takeover(region=region, won=won, anchors=total, bound=upper_bound(won, total))
            for region, won, total in counts
        ),
        shadow=shares,
    )
    return Stake(stake.name, stake.entry.model_copy(update={"routing": routing}), claim)


def _with(capability: Capability, routings: dict[tuple[str, str], Routing | None]) -> Capability:
    regions = tuple(
        entry.model_copy(update={"routing": routings.get((capability.name, entry.id))})
        for entry in capability.regions
    )
    return capability.model_copy(update={"regions": regions})
