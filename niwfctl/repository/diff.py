"""Differences between revisions, and between capabilities."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from niwfctl.atlas import Atlas, Capability, ObjectRef, RegionEntry, parse_range
from niwfctl.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from niwfctl.field.distances import Neighbourhood, SiteDifference
    from niwfctl.field.region import Region
    from niwfctl.repository.repository import Repository

BY_REGION = (  # a way out, for messages
    "compare revisions, as in `niwfctl diff HEAD~1 HEAD`, which shows the regions that differ"
)


@dataclass(frozen=True)
class ChangedRegion:
    """A region that only one of two revisions has, or that they route to differently.

    Attributes:
        kind: `added`, `removed` or `changed`; what a region computes never changes.
        before, after: None where it does not exist.
    """

    kind: str
    before: RegionEntry | None
    after: RegionEntry | None

    @property
    def entry(self) -> RegionEntry:
        """The region after the change, or before its removal."""
        return self.after or self.before


@dataclass(frozen=True)
class Changed:
    """A capability that differs between two revisions.

    Attributes:
        kind: `added`, `removed`, `extended` (further regions, the old ones as they were) or
            `changed`.
        before, after: None where it does not exist.
        regions: its own ones that differ.
    """

    kind: str
    name: str
    before: Capability | None
    after: Capability | None
    regions: tuple[ChangedRegion, ...]


@dataclass(frozen=True)
class Compared:
    """Two capabilities side by side.

    Attributes:
        shared: ids of the bases that both use.
        own_a, own_b: bases that only one uses.
        place: how their regions lie relative to each other; None if one is a composition.
        sites: difference of their changes of weights, by linear.
    """

    a: Capability
    b: Capability
    shared: tuple[str, ...]
    own_a: tuple[str, ...]
    own_b: tuple[str, ...]
    place: Neighbourhood | None
    sites: list[SiteDifference]

    @property
    def different(self) -> bool:
        """Whether they are sums of other regions, or with other weights."""
        return _weights(self.a) != _weights(self.b)


def revisions(before: Atlas, after: Atlas) -> list[Changed]:
    """What differs between two atlases, by name."""
    found = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old != new:
            found.append(Changed(_kind(old, new), name, old, new, tuple(_regions(old, new))))
    return found


def sides(repository: Repository, a: str | None, b: str | None) -> tuple[Atlas, Atlas]:
    """The atlases that `diff A B` compares.

    Args:
        a: a revision, or a range as git writes it: `A..B` is A and B, `A...B` is B and where it
            branched off A. HEAD's parent by default, or an empty atlas if it has none.
        b: a revision; HEAD by default.

    Raises:
        UnknownName: there is no such revision.
        UsageError: the histories of `A...B` have nothing in common.
    """
    last = "HEAD" if b is None else b
    if a is None:
        return _before_head(repository), repository.atlas(last)
    if b is None and (found := parse_range(a)):
        a, dots, last = found
        if dots == "...":
            a = _left(repository, a, last)
    return repository.atlas(a), repository.atlas(last)


def _before_head(repository: Repository) -> Atlas:
    parent = parent_of_head(repository)
    return repository.atlas(parent) if parent else {}


def parent_of_head(repository: Repository, way: str = "") -> str | None:
    """Id of HEAD's first parent; None if HEAD is the first commit.

    Args:
        way: what else to do where it is not here, for the message.

    Raises:
        UnknownName: it is not here, in a shallow clone.
    """
    try:
        return repository.git.resolve("HEAD~1")
    except UnknownName:
        if repository.git.has_header(repository.git.resolve("HEAD"), "parent"):
            raise UnknownName(
                "HEAD has a parent that this shallow clone lacks: fetch it with `git fetch "
                f"--deepen=1`{way}"
            ) from None
        return None


def _left(repository: Repository, a: str, b: str) -> str:
    bases = repository.git.merge_bases(*map(repository.git.resolve, (a, b)))
    if not bases:
        raise UsageError(f"{a} and {b} have no commit in common: compare them as {a}..{b}")
    return bases[0]


def capabilities(repository: Repository, a: Capability, b: Capability) -> Compared:
    """Where two capabilities lie, and what each does to the weights.

    Raises:
        ObjectError: an object is missing or corrupt.
        UsageError: one of them has several regions.
    """
    from niwfctl.field.distances import neighbourhood, site_differences
    from niwfctl.field.frozen import FrozenSum
    from niwfctl.repository.routing import claim_of

    one, other = _terms(repository, a), _terms(repository, b)
    bases_a, bases_b = (
        [ref.oid for entry in side.all_regions for ref in entry.bases] for side in (a, b)
    )
    claims = [claim_of(repository, side.regions[0]) for side in (a, b) if side.regions]
    return Compared(
        a,
        b,
        tuple(oid for oid in bases_a if oid in bases_b),
        tuple(oid for oid in bases_a if oid not in bases_b),
        tuple(oid for oid in bases_b if oid not in bases_a),
        neighbourhood(*claims) if len(claims) == 2 else None,
        site_differences(FrozenSum.at_means(one), FrozenSum.at_means(other)),
    )


def _weights(capability: Capability) -> dict[tuple[ObjectRef, ...], float]:
    """The weight of each region, by the objects it is computed from."""
    found = {entry.objects: 1.0 for entry in capability.regions}
    for part in capability.parts:
        for entry in part.regions:
            found[entry.objects] = found.get(entry.objects, 0.0) + part.weight
    return found


def _kind(old: Capability | None, new: Capability | None) -> str:
    if old is None or new is None:
        return "added" if old is None else "removed"
    had, has = old.unrouted.regions, new.unrouted.regions
    kept = all(entry in has for entry in had)  # a merge may put one of the other side between them
    return "extended" if len(has) > len(had) and kept else "changed"


def _regions(old: Capability | None, new: Capability | None) -> Iterator[ChangedRegion]:
    had, has = ({entry.id: entry for entry in one.regions} if one else {} for one in (old, new))
    for id in had | has:
        before, after = had.get(id), has.get(id)
        if before != after:
            kind = "changed" if before and after else "added" if after else "removed"
            yield ChangedRegion(kind, before, after)


def _terms(repository: Repository, capability: Capability) -> list[tuple[float, Region]]:
    """The regions whose weighted sum a capability is."""
    from niwfctl.repository.regions import acting_everywhere, load_region

    found = acting_everywhere(capability, BY_REGION)
    return [(weight, load_region(repository, entry)) for weight, entry in found]
