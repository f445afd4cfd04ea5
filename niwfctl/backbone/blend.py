"""Several regions in the one forward pass: each prompt of a batch gets its own share of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from niwfctl.backbone.adapter import ActiveField, Factors
from niwfctl.backbone.sites import SiteGroup
from niwfctl.field.region import Region


class Blend:
    """ΔW(z) = Σ_i s_i(z) ΔW_i(z): how much of each region acts, as a function of the prompt.

    Routing, a capability of several regions, a composition, and a batch that mixes capabilities
    differ in their shares alone.
    """

    def __init__(
        self,
        groups: Sequence[SiteGroup],
        shares: Callable[[Tensor], Tensor],
        regions: Callable[[int], Region],
        fields: Callable[[int], ActiveField],
    ) -> None:
        """
        Args:
            groups: the adapted sites.
            shares: z [batch, dim] → float32 [batch, regions], on the CPU.
            regions, fields: a region by its column of the shares; asked for when one first acts.
        """
        self._groups, self._shares = groups, shares
        self._regions, self._fields = regions, fields
        self._stacked: tuple[list[int], Factors] | None = None

    def at(self, z: Tensor) -> ActiveField | None:
        """The field for a batch of prompts, None for the bare backbone.

        Where one whole region answers every row, it is the very field its name stands for, and
        where none answers any, the bare backbone: bit for bit.
        """
        shares = self._shares(z.cpu())
        used = shares.any(0).nonzero().flatten().tolist()
        if not used:
            return None
        if len(used) == 1 and bool((shares[:, used[0]] == 1).all()):
            return self._fields(used[0])
        return self._blended(used, shares[:, used])

    def _blended(self, used: list[int], shares: Tensor) -> ActiveField:
        regions = [self._regions(index) for index in used]

        def gates(z: Tensor) -> Tensor:
            weights = shares.to(z.device).T[..., None, None]
            own = zip(regions, weights, strict=True)
            return torch.cat([region.gates(z) * (region.scale * w) for region, w in own], dim=-1)

        bases = [basis for region in regions for basis in region.bases]
        if self._stacked is None or self._stacked[0] != used:
            self._stacked = used, Factors.stack(self._groups, bases)
        return ActiveField(gates, tuple(b.rank for b in bases), 1.0, self._stacked[1])
