"""Differences between revisions, and between capabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from niwfctl.atlas import Atlas, Capability
from niwfctl.errors import UsageError

if TYPE_CHECKING:
    from niwfctl.field.distances import Neighbourhood, SiteDifference
    from niwfctl.field.region import Region
    from niwfctl.repository.repository import Repository


@dataclass(frozen=True)
class Changed:
    """A capability that differs between two revisions.

    Attributes:
        kind: `added`, `removed`, `extended` (further regions, the old ones as they were) or
            `changed`.
        before, after: None where it is not there.
    """

    kind: str
    name: str
    before: Capability | None
    after: Capability | None


@dataclass(frozen=True)
class Compared:
    """Two capabilities side by side.

    Attributes:
        shared: ids of the bases that both use.
        own_a, own_b: bases that only one uses.
        place: where their regions lie to each other; None where one is a composition.
        sites: change of weights, linear by linear.
    """

    a: Capability
    b: Capability
    shared: tuple[str, ...]
    own_a: tuple[str, ...]
    own_b: tuple[str, ...]
    place: Neighbourhood | None
    sites: list[SiteDifference]


def revisions(before: Atlas, after: Atlas) -> list[Changed]:
    """What differs between two atlases, by name."""
    found = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old != new:
            found.append(Changed(_kind(old, new), name, old, new))
    return found


def capabilities(repository: Repository, a: Capability, b: Capability) -> Compared:
    """Where two capabilities lie, and what each does to the weights.

    Raises:
        ObjectError: an object is missing or corrupt.
        UsageError: one of them has several regions.
    """
    from niwfctl.field.distances import neighbourhood, site_differences
    from niwfctl.field.frozen import FrozenSum

    one, other = _terms(repository, a), _terms(repository, b)
    bases_a, bases_b = (
        [ref.oid for entry in side.all_regions for ref in entry.bases] for side in (a, b)
    )
    comparable = a.regions and b.regions
    return Compared(
        a,
        b,
        tuple(oid for oid in bases_a if oid in bases_b),
        tuple(oid for oid in bases_a if oid not in bases_b),
        tuple(oid for oid in bases_b if oid not in bases_a),
        neighbourhood(one[0][1], other[0][1]) if comparable else None,
        site_differences(FrozenSum.at_means(one), FrozenSum.at_means(other)),
    )


def _kind(old: Capability | None, new: Capability | None) -> str:
    if old is None or new is None:
        return "added" if old is None else "removed"
    grown = len(new.regions) > len(old.regions)
    return "extended" if grown and new.regions[: len(old.regions)] == old.regions else "changed"


def _terms(repository: Repository, capability: Capability) -> list[tuple[float, Region]]:
    """The regions whose weighted sum a capability is."""
    from niwfctl.repository.regions import load_region

    sums = [(part.weight, part.regions) for part in capability.parts] or [(1.0, capability.regions)]
    if any(len(regions) > 1 for _, regions in sums):
        raise UsageError(
            f"{capability.name!r} has several regions, and which one acts depends on the prompt: "
            "compare revisions of it instead"
        )
    return [(weight, load_region(repository, regions[0])) for weight, regions in sums]
