"""Weight changes at fixed coordinates: the field where gates cannot depend on z."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from niwfctl.field.basis import Basis, Site
from niwfctl.field.region import Region

Term = tuple[float, Region, Tensor]
"""A weight, a region, and the coordinate [dim] at which its gates are taken."""


class FrozenSum:
    """Σ_i w_i ΔW_i(z_i), exact, as one low-rank pair per linear.

    Attributes:
        names: the sites that any of the regions adapts.
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        self._terms = [
            (region, region.gates(z) * (weight * region.scale)) for weight, region, z in terms
        ]
        self.names = list(
            dict.fromkeys(name for region, _ in self._terms for name in region.bases[0].down)
        )

    @classmethod
    def at_means(cls, terms: Sequence[tuple[float, Region]]) -> FrozenSum:
        """Takes each region at the mean of its own cell."""
        return cls([(weight, region, region.cell.mean) for weight, region in terms])

    @property
    def bases(self) -> list[Basis]:
        """The bases of all regions, in the order of the gates."""
        return [basis for region, _ in self._terms for basis in region.bases]

    @property
    def gates(self) -> Tensor:
        """The weights of the bases, α/r and w included, float32 [layers, bases].

        The regions must adapt the same layers, as those of one repository do.
        """
        return torch.cat([gates for _, gates in self._terms], dim=-1)

    def at(self, name: str) -> tuple[Tensor, Tensor] | None:
        """(A [R, in], B [out, R]) of a site, float32: ΔW = B A; None if no region adapts it."""
        found = self.factors(name)
        if not found:
            return None
        downs, ups = zip(*((a.float(), b.float() * w) for a, b, w in found), strict=True)
        return torch.cat(downs), torch.cat(ups, dim=1)

    def factors(self, name: str) -> list[tuple[Tensor, Tensor, Tensor]]:
        """(A [r, in], B [out, r], w []) of each basis that acts at a site: ΔW = Σ w B A."""
        layer, _ = Site.parse(name)
        found = []
        for region, gates in self._terms:
            if name in region.bases[0].down:
                of_layer = gates[region.layers.index(layer)]
                for basis, gate in zip(region.bases, of_layer, strict=True):
                    found.append((basis.down[name], basis.up[name], gate))
        return found
