"""What acts at z: how much of each region.

A capability of one region or of several, a composition, the routed union of an atlas, and the rows
of a mixed batch are all mixtures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from niwfctl.atlas import Capability, RegionEntry
from niwfctl.field.cell import Cell
from niwfctl.field.routing import Claim, Claims, nearest
from niwfctl.repository.routing import RoutedRegion, claims_among

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository


@dataclass(frozen=True)
class Mixture:
    """Regions, and how much of each acts on a prompt at z.

    Attributes:
        entries: the regions, each once.
        shares: z [batch, dim] → float32 [batch, regions].
    """

    entries: tuple[RegionEntry, ...]
    shares: Callable[[Tensor], Tensor]

    @property
    def whole(self) -> bool:
        """Whether it is one region that acts everywhere, unweighted."""
        return self.shares is _all_of_it


def of_capability(repository: Repository, capability: Capability) -> Mixture:
    """A capability, given by name.

    Of several regions, the one that owns the prompt among them acts; if no cell holds the prompt,
    the nearest one.

    Raises:
        ObjectError: an object is missing or corrupt.
    """
    if capability.parts:
        return weighted(
            [(part.weight, _of_regions(repository, part.regions)) for part in capability.parts]
        )
    return _of_regions(repository, capability.regions)


def of_owners(routed: Sequence[RoutedRegion], base: Cell) -> tuple[Mixture, Routes]:
    """The routed union: the region that owns a prompt acts, or none where the base does (G3)."""
    routes = Routes([one.name for one in routed], base, [one.claim for one in routed])
    return Mixture(tuple(one.entry for one in routed), routes.shares), routes


def weighted(terms: Sequence[tuple[float | Tensor, Mixture]]) -> Mixture:
    """Σ_i w_i m_i; a weight is a number, or float32 [batch, 1], one for each row."""
    entries = {e.objects: e for _, mixture in terms for e in mixture.entries}
    columns = {objects: index for index, objects in enumerate(entries)}

    def shares(z: Tensor) -> Tensor:
        total = torch.zeros(len(z), len(columns), dtype=torch.float32)
        for weight, mixture in terms:
            places = [columns[entry.objects] for entry in mixture.entries]
            places = torch.tensor(places, dtype=torch.long)
            total.index_add_(1, places, weight * mixture.shares(z))
        return total

    return Mixture(tuple(entries.values()), shares)


BARE = Mixture((), lambda z: torch.zeros(len(z), 0, dtype=torch.float32))
"""The bare backbone."""


Bid = tuple[str | None, float | None]
"""A capability, None for the base, and its score log N(z; μ, Σ) − b, None where it makes no bid."""


class Routes:
    """Who owns which prompts.

    Attributes:
        claimants: name of the capability for each claim; repeated if it has several regions.
        names: who answered each prompt that was given last, in their order: its owner, or under
            `Model.use_each` what was named for it; None for the base.
    """

    def __init__(self, claimants: list[str], base: Cell, claims: Sequence[Claim]) -> None:
        self.claimants = claimants
        self.names: list[str | None] = []
        self._places: Sequence[int | None] | None = None
        self._claims = Claims(base, claims)

    def bids(self, z: Tensor) -> Tensor:
        """Bids of the base and of every claim at z [n, dim]; float64 [n, 1 + claims]."""
        return self._claims.bids(z.cpu())

    def ranked(self, z: Tensor) -> list[list[Bid]]:
        """All candidates for each prompt at z [n, dim], its owner first."""
        names = [None, *self.claimants]
        return [
            [(names[place], bids[place] if math.isfinite(bids[place]) else None) for place in order]
            for bids in self.bids(z).tolist()
            for order in [sorted(range(len(bids)), key=lambda place: (-bids[place], place))]
        ]

    def owners(self, z: Tensor) -> list[str | None]:
        """Owners of the prompts at z [n, dim]; None for the base."""
        return self._named(self._owner(z))

    @contextmanager
    def batch(self, places: Sequence[int | None]) -> Iterator[None]:
        """A block that computes some of the prompts of a call, whose `names` are there already.

        Args:
            places: of the prompts among those of the call; None keeps the name that is there.
        """
        self._places = places
        try:
            yield
        finally:
            self._places = None

    def shares(self, z: Tensor) -> Tensor:
        """1 for the owner of each prompt, 0 for all others; float32 [n, claims]. Sets `names`."""
        owner = self._owner(z)
        found = self._named(owner)
        if self._places is None:
            self.names = found
        else:
            for place, name in zip(self._places, found, strict=True):
                if place is not None:
                    self.names[place] = name
        return _one_of(owner, 1 + len(self.claimants))[:, 1:]

    def _owner(self, z: Tensor) -> Tensor:
        return self.bids(z).argmax(-1)  # 0 is the base, which comes first

    def _named(self, owner: Tensor) -> list[str | None]:
        return [self.claimants[i - 1] if i else None for i in owner.tolist()]


def _of_regions(repository: Repository, entries: tuple[RegionEntry, ...]) -> Mixture:
    if len(entries) == 1:
        return Mixture(entries, _all_of_it)
    claims = claims_among(repository, entries)
    return Mixture(entries, lambda z: _one_of(nearest(z, claims), len(entries)))


def _all_of_it(z: Tensor) -> Tensor:
    return torch.ones(len(z), 1, dtype=torch.float32)


def _one_of(index: Tensor, count: int) -> Tensor:
    return torch.nn.functional.one_hot(index, count).float()
