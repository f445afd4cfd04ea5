"""Several regions in one forward pass: each prompt of a batch has its own share of each."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from niwfctl.backbone.adapter import ActiveField, Factors


class Blend:
    """ΔW(z) = Σ_i s_i(z) ΔW_i(z): how much of each region acts, as a function of the prompt.

    Routing, a capability of several regions, a composition, and a batch that mixes capabilities
    differ only in their shares.
    """

    def __init__(
        self,
        shares: Callable[[Tensor], Tensor],
        fields: Callable[[int], ActiveField],
        factors: Callable[[tuple[int, ...]], Factors],
    ) -> None:
        """
        Args:
            shares: z [batch, dim] → float32 [batch, regions], on the CPU.
            fields: the field of a region, by its column of the shares; called when it acts.
            factors: the joined factors of several regions.
        """
        self._shares, self._fields, self._factors = shares, fields, factors

    def at(self, z: Tensor) -> ActiveField | None:
        """The field for a batch of prompts, None for the bare backbone.

        If a single region has the whole share of every row, it is that region's own field, and if
        no region has any, the bare backbone: bit for bit.
        """
        shares = self._shares(z.cpu())
        used = shares.any(0).nonzero().flatten().tolist()
        if not used:
            return None
        if len(used) == 1 and bool((shares[:, used[0]] == 1).all()):
            return self._fields(used[0])
        return self._blended(used, shares[:, used])

    def _blended(self, used: list[int], shares: Tensor) -> ActiveField:
        fields = [self._fields(index) for index in used]

        def gates(z: Tensor) -> Tensor:
            weights = shares.to(z.device).T[..., None, None]
            own = zip(fields, weights, strict=True)
            return torch.cat([field.gates(z) * (field.scale * w) for field, w in own], dim=-1)

        ranks = tuple(rank for field in fields for rank in field.ranks)
        return ActiveField(gates, ranks, 1.0, self._factors(tuple(used)))
