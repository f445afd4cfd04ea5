"""The routing lock (G3): how the regions of an atlas share coordinate space.

It is a function of the regions and their terms alone, so a merge gives the same result from either
side and in any order of branches.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from niwfctl.atlas import (
    BASE_NAME,
    Atlas,
    Capability,
    RegionEntry,
    Routing,
    Takeover,
    Terms,
    owner_names,
)
from niwfctl.errors import Shadowed, shares_text
from niwfctl.field.cell import Cell
from niwfctl.field.naming import under
from niwfctl.field.routing import (
    BASE,
    Claim,
    locked,
    needed_margin,
    shadowed,
    upper_bound,
    won,
)
from niwfctl.repository.regions import read_coordinates, read_region

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RoutedRegion:
    """A region that takes part in routing, under a capability's name."""

    name: str
    entry: RegionEntry
    claim: Claim


def routed_regions(repository: Repository, atlas: Atlas) -> list[RoutedRegion]:
    """All regions that are routed to, earliest first.

    Raises:
        ObjectError: an object is missing or corrupt.
    """
    routed = _routed(atlas)
    repository.remotes.gather(entry.region.oid for _, entry in routed)
    made = [claim_of(repository, entry) for _, entry in routed]  # one region may have two names
    claims = {entry.id: claim for (_, entry), claim in zip(routed, made, strict=True)}
    superseded = {id for _, entry in routed if entry.terms.general for id in entry.terms.supersedes}
    found = []
    for (name, entry), own in zip(routed, made, strict=True):
        counts = entry.routing.takeover if entry.routing else ()
        claim = replace(
            own,
            general=entry.terms.general and entry.id not in superseded,
            disputed=_anchors(claims, {one.region: one.disputed for one in counts}),
        )
        found.append(RoutedRegion(name, entry, claim))
    return found


def base_cell(repository: Repository) -> Cell:
    """The base's own cell, fitted to the calibration prompts."""
    return Cell.from_tensors(base_tensors(repository))


def claim_of(repository: Repository, entry: RegionEntry) -> Claim:
    """A region's claim to coordinate space, with the bias and margin of its manifest.

    Raises:
        ObjectError: its object is missing, corrupt or not a region.
    """
    tensors = read_region(repository, entry)
    cell = Cell.from_tensors(under(tensors, "cell"))
    bias, margin = (entry.routing.bias, entry.routing.margin) if entry.routing else (0.0, 0.0)
    anchors, fresh = tensors["anchors.occupied"].double(), tensors.get("anchors.fresh")
    return Claim(cell, bias, anchors, margin, fresh=fresh)


def claims_among(repository: Repository, entries: Sequence[RegionEntry]) -> list[Claim]:
    """Claims of one capability's regions, each limited only by the earlier ones among them.

    Their biases depend only on these regions and their terms, so no commit, merge or removal of
    another capability changes which of them acts.

    Raises:
        ObjectError: an object is missing or corrupt.
    """
    claims = [claim_of(repository, entry) for entry in entries]
    done: list[int] = []
    for index in sorted(range(len(entries)), key=lambda index: entries[index].place):
        terms = entries[index].terms or Terms(order=0)
        earlier = [claims[i] for i in done if entries[i].id not in terms.supersedes]
        claims[index], _ = locked(claims[index], earlier, terms.max_takeover)
        done.append(index)
    return claims


def settled(repository: Repository, atlas: Atlas, only: Sequence[str] | None = None) -> Atlas:
    """The atlas with the smallest biases and margins that keep takeover within everyone's terms.

    Args:
        only: names of the capabilities to set; all by default.
    """
    base, done, routings = base_tensors(repository), [], {}
    for routed in routed_regions(repository, atlas):
        if only is None or routed.name in only:
            routed = _settle(routed, done, base)
            routings[routed.name, routed.entry.id] = routed.entry.routing
        done.append(routed)
    return {
        name: _with(capability, routings) if only is None or name in only else capability
        for name, capability in atlas.items()
    }


def require_light(atlas: Atlas, names: Sequence[str], max_shadow: float) -> None:
    """Refuses capabilities if earlier ones own too much of their newest region.

    Raises:
        Shadowed: the message names the owners and the ways out.
    """
    whose = owner_names(atlas)
    for name in names:
        entry = atlas[name].regions[-1]  # an extension keeps earlier ones, which were accepted
        if entry.routing is None:
            continue
        shadow = _owned(entry, whose, superseded=False)
        if sum(shadow.values()) > max_shadow:
            raise Shadowed(name, shadow, max_shadow)


def warn_of_superseded(atlas: Atlas, names: Sequence[str], max_shadow: float) -> None:
    """Warns where those that a newest region supersedes still own too much of it.

    They compete on equal terms, so whose data lie closer wins.
    """
    whose = owner_names(atlas)
    for name in names:
        entry = atlas[name].regions[-1]
        shadow = _owned(entry, whose, superseded=True) if entry.routing else {}
        if sum(shadow.values()) > max_shadow:
            logger.warning(
                "%s of the prompts of %r, since --supersede only lets it compete for them: remove "
                "what it replaces with `niwfctl rm %s`, or ask for %r by name",
                shares_text(shadow, "still owns"),
                name,
                " ".join(sorted(shadow)),
                name,
            )


def newly_shadowed(
    sides: Sequence[Atlas], merged: Atlas, max_shadow: float
) -> dict[str, dict[str, float]]:
    """Capabilities of which others own more than allowed after a merge, unlike on some side of it.

    Returns:
        By capability, the shares of its most shadowed region's anchors by owner.
    """
    allowed = [
        {id for (_, id), shadow in _shadows(side).items() if sum(shadow.values()) <= max_shadow}
        for side in sides
    ]
    found: dict[str, dict[str, float]] = {}
    for (name, id), shadow in _shadows(merged).items():
        share = sum(shadow.values())
        if share > max_shadow and any(id in side for side in allowed):
            found[name] = max(found.get(name, {}), shadow, key=lambda one: sum(one.values()))
    return found


def _shadows(atlas: Atlas) -> dict[tuple[str, str], dict[str, float]]:
    """Shares of every routed region that other capabilities own, by its capability and id."""
    whose = owner_names(atlas)
    return {
        (name, entry.id): {
            owner: share
            for owner, share in _owned(entry, whose, superseded=False).items()
            if owner != name
        }
        for name, capability in atlas.items()
        for entry in capability.regions
        if entry.routing
    }


def _owned(entry: RegionEntry, whose: dict[str, str], *, superseded: bool) -> dict[str, float]:
    """Share of a region's anchors by owner, of those that it supersedes or of the others.

    Neither the base nor an owner that was removed since counts.
    """
    shadow: dict[str, float] = {}
    for owner, share in entry.routing.shadow.items():
        if owner in whose and (owner in entry.terms.supersedes) == superseded:
            shadow[whose[owner]] = shadow.get(whose[owner], 0.0) + share
    return shadow


def _routed(atlas: Atlas) -> list[tuple[str, RegionEntry]]:
    regions = [
        (name, entry)
        for name, capability in atlas.items()
        for entry in capability.regions
        if entry.terms and not entry.terms.manual
    ]
    return sorted(regions, key=lambda one: (*one[1].place, one[0]))


def needed(
    routed: RoutedRegion, earlier: Sequence[RoutedRegion], base: dict[str, Tensor]
) -> tuple[Claim, dict[str, tuple[int, ...]]]:
    """A region's claim as its terms have it, and the anchors it disputes, by region id."""
    terms, margin = routed.entry.terms, 0.0
    if "anchors" in base and not terms.general:
        cell = routed.claim.cell
        margin = needed_margin(cell, base["anchors"], base["scores"], terms.max_base_takeover)
    protected = [one for one in earlier if one.entry.id not in terms.supersedes]
    claim, which = locked(
        replace(routed.claim, margin=margin), [one.claim for one in protected], terms.max_takeover
    )
    return claim, {one.entry.id: found for one, found in zip(protected, which, strict=True)}


def _settle(
    routed: RoutedRegion, earlier: Sequence[RoutedRegion], base: dict[str, Tensor]
) -> RoutedRegion:
    claim, disputed = needed(routed, earlier, base)
    counts = (
        _takeover(one.entry.id, won(claim, one.claim), disputed.get(one.entry.id, ()))
        for one in earlier
    )
    # Those that lose nothing stay out, so that a manifest changes only with regions that concern it
    # and two branches seldom change the same one.
    routing = Routing(
        bias=claim.bias,
        margin=claim.margin,
        takeover=tuple(one for one in counts if one.won or one.disputed),
        base=None if routed.entry.terms.general else won_of_base(claim, base),
        ceded=claim.ceded_share(),
        shadow=_shadow(claim, earlier, Cell.from_tensors(base)),
    )
    return RoutedRegion(routed.name, routed.entry.model_copy(update={"routing": routing}), claim)


def _takeover(region: str, hits: Tensor, disputed: tuple[int, ...] = ()) -> Takeover:
    taken, anchors = int(hits.sum()), len(hits)
    bound = upper_bound(taken + len(disputed), anchors)
    return Takeover(region=region, won=taken, anchors=anchors, bound=bound, disputed=disputed)


def won_of_base(claim: Claim, base: dict[str, Tensor]) -> Takeover | None:
    """What a claim wins of the base's anchors; None if the map has none."""
    if "anchors" not in base:
        return None
    leads = claim.cell.log_density(base["anchors"]) - base["scores"]
    return _takeover(BASE_NAME, leads > claim.margin)


def _shadow(claim: Claim, earlier: Sequence[RoutedRegion], base: Cell) -> dict[str, float]:
    """Shares of a claim's anchors that others own, by region id or `base`."""
    owned = shadowed(claim, [one.claim for one in earlier], base)
    return {
        BASE_NAME if index == BASE else earlier[index].entry.id: float(
            (owned == index).double().mean()
        )
        for index in torch.unique(owned).tolist()
        if index != len(earlier)
    }


def _anchors(claims: Mapping[str, Claim], which: Mapping[str, Sequence[int]]) -> Tensor | None:
    """The chosen anchors of claims, by region id; None if none is left."""
    found = [
        claims[id].anchors[[index for index in chosen if index < len(claims[id].anchors)]]
        for id, chosen in which.items()
        if chosen and id in claims
    ]
    return torch.cat(found) if found else None


def base_tensors(repository: Repository) -> dict[str, Tensor]:
    """The base's cell and, if the map has them, its anchors and their scores."""
    return under(read_coordinates(repository), "base")


def _with(capability: Capability, routings: dict[tuple[str, str], Routing | None]) -> Capability:
    regions = tuple(
        entry.model_copy(update={"routing": routings.get((capability.name, entry.id))})
        for entry in capability.regions
    )
    return capability.model_copy(update={"regions": regions})
