"""Differences between revisions, and between capabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from niwfctl.atlas import Atlas, Capability, RegionEntry
from niwfctl.errors import UsageError

if TYPE_CHECKING:
    from niwfctl.field.distances import Neighbourhood, SiteDifference
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
        sites: change of weights, linear by linear.
    """

    a: Capability
    b: Capability
    shared: tuple[str, ...]
    own_a: tuple[str, ...]
    own_b: tuple[str, ...]
    place: Neighbourhood
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
    from niwfctl.repository.model import load_region

    one = load_region(repository, _only(a))
    other = load_region(repository, _only(b))
    bases_a = [ref.oid for ref in _only(a).bases]
    bases_b = [ref.oid for ref in _only(b).bases]
    return Compared(
        a,
        b,
        tuple(oid for oid in bases_a if oid in bases_b),
        tuple(oid for oid in bases_a if oid not in bases_b),
        tuple(oid for oid in bases_b if oid not in bases_a),
        neighbourhood(one, other),
        site_differences(one, other),
    )


def _kind(old: Capability | None, new: Capability | None) -> str:
    if old is None or new is None:
        return "added" if old is None else "removed"
    grown = len(new.regions) > len(old.regions)
    return "extended" if grown and new.regions[: len(old.regions)] == old.regions else "changed"


def _only(capability: Capability) -> RegionEntry:
    if len(capability.regions) > 1:
        raise UsageError(
            f"{capability.name!r} has several regions: compare revisions of it instead"
        )
    return capability.regions[0]
