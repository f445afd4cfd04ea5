"""Whether the routing lock (G3) holds, found without trusting the figures in manifests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from niwfctl.field.cell import Cell
from niwfctl.field.routing import Claim, shadowed, won
from niwfctl.repository.routing import RoutedRegion, needed, won_of_base

SLACK = 1e-3  # nats by which a platform that rounds differently may find another bias or margin
NOTICEABLE = 0.02  # of a region's anchors


@dataclass(frozen=True)
class Excess:
    """A region that wins more of an earlier one's anchors than allowed.

    Attributes:
        later, earlier: names of their capabilities.
        won: how many anchors it wins.
        anchors: out of how many.
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


@dataclass(frozen=True)
class Silenced:
    """A region that is held back more than its terms ask for.

    Attributes:
        name: of its capability.
        lost: share of its own anchors that it therefore does not win.
    """

    name: str
    lost: float

    def __str__(self) -> str:
        return (
            f"{self.name} is held back more than its terms ask for, and loses {self.lost:.0%} of "
            "its own anchors by it"
        )


@dataclass(frozen=True)
class Audit:
    """What an audit of the routing lock found.

    Attributes:
        excesses: where it does not hold.
        most: the capability with the region that loses the largest share of its anchors to all
            later ones together, and that share; None if no region comes after another.
    """

    excesses: tuple[Excess, ...]
    most: tuple[str, float] | None


def audited(base: dict[str, Tensor], regions: Sequence[RoutedRegion]) -> Audit:
    """Counts takeover again from cells and anchors.

    Args:
        base: what `base_tensors` has of it.
        regions: the routed ones of an atlas, in their order.
    """
    found: list[Excess] = []
    earlier: list[RoutedRegion] = []
    lost: dict[int, Tensor] = {}
    for routed in regions:
        terms = routed.entry.terms
        for index, other in enumerate(earlier):
            if other.entry.id not in terms.supersedes:
                hits = won(routed.claim, other.claim)
                count = (int(hits.sum()), len(hits))
                found.append(Excess(routed.name, other.name, *count, terms.max_takeover))
                lost[index] = hits | lost.get(index, False)
        of_base = won_of_base(routed.claim, base)
        if of_base and not terms.general:
            count = (of_base.won, of_base.anchors)
            found.append(Excess(routed.name, "the base", *count, terms.max_base_takeover))
        earlier.append(routed)
    shares = {index: float(hits.double().mean()) for index, hits in lost.items()}
    worst = max(shares, key=shares.__getitem__, default=None)
    return Audit(
        tuple(one for one in found if one.won > one.allowed * one.anchors + 1e-9),
        None if worst is None else (earlier[worst].name, shares[worst]),
    )


def silenced(base: dict[str, Tensor], regions: Sequence[RoutedRegion]) -> list[Silenced]:
    """The regions that the lock would hold back less today than their manifests do.

    That may be a figure that someone edited; but a removal also leaves one, since it changes no
    other capability.

    Args:
        base, regions: as of `audited`.
    """
    lost = ((one.name, _held_back(one, regions[:i], base)) for i, one in enumerate(regions))
    return [Silenced(name, share) for name, share in lost if share]


def _held_back(
    routed: RoutedRegion, earlier: Sequence[RoutedRegion], base: dict[str, Tensor]
) -> float:
    """Share of a region's anchors that only a needlessly large bias or margin takes from it."""
    claim = routed.claim
    limited = claim.bias or _disputes(claim)  # else no earlier one holds it back
    due, _ = needed(routed, earlier if limited else (), base)
    more = claim.bias > due.bias + SLACK or claim.margin > due.margin + SLACK
    if not more and _disputes(claim) <= _disputes(due):
        return 0.0
    cell, others = Cell.from_tensors(base), [one.claim for one in earlier]

    def kept(one: Claim) -> float:
        return float((shadowed(one, others, cell) == len(others)).double().mean())

    share = kept(due) - kept(claim)
    return share if share > NOTICEABLE else 0.0


def _disputes(claim: Claim) -> int:
    return 0 if claim.disputed is None else len(claim.disputed)
