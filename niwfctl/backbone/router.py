"""Routing inside the one forward pass: the owner of each prompt's coordinate answers it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from niwfctl.backbone.adapter import ActiveField
from niwfctl.backbone.sites import SiteGroup
from niwfctl.field.cell import Cell
from niwfctl.field.region import Region
from niwfctl.field.routing import BASE, Claim, bids, owners


class Router:
    """Chooses the field for a batch of prompts (G3).

    Attributes:
        owners: of the last batch, index of the claim or BASE; int64 [batch].
    """

    def __init__(
        self,
        groups: Sequence[SiteGroup],
        base: Cell,
        claims: Sequence[Claim],
        regions: Callable[[int], Region],
        fields: Callable[[int], ActiveField],
    ) -> None:
        """
        Args:
            groups: the adapted sites.
            base: the base's own cell.
            claims: of all regions that are routed to.
            regions, fields: a region by the index of its claim; asked for when it first owns one.
        """
        self._groups, self._base, self._claims = groups, base, claims
        self._regions, self._fields = regions, fields
        self.owners = torch.empty(0, dtype=torch.int64)

    def bids(self, z: Tensor) -> Tensor:
        """Bids of the base and of every claim at z [n, dim]; float64 [n, 1 + claims]."""
        return bids(z.cpu(), self._base, self._claims)

    def at(self, z: Tensor) -> ActiveField | None:
        """The owner's field; where a batch mixes owners, their bases with each row's own gates.

        A batch of one owner is answered by the very field that its name stands for, and one that
        the base owns by the bare backbone: bit for bit.
        """
        self.owners = owners(z.cpu(), self._base, self._claims)
        found = self.owners.unique().tolist()
        if found == [BASE]:
            return None
        return self._fields(found[0]) if len(found) == 1 else self._mixed(found)

    def _mixed(self, found: list[int]) -> ActiveField:
        indices = [index for index in found if index != BASE]
        regions = [self._regions(index) for index in indices]
        belongs = self.owners

        def gates(z: Tensor) -> Tensor:
            own = [(belongs == index).to(z.device)[:, None, None] for index in indices]
            return torch.cat(
                [
                    region.gates(z) * region.scale * mine
                    for region, mine in zip(regions, own, strict=True)
                ],
                dim=-1,
            )

        bases = [basis for region in regions for basis in region.bases]
        return ActiveField.of(self._groups, bases, gates, 1.0)
