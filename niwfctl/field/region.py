"""A region: everything that the result of one training is computed from."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from niwfctl.field.basis import Basis, Site
from niwfctl.field.cell import Cell
from niwfctl.field.generator import Generator
from niwfctl.field.naming import under

SAMPLED_ANCHORS = 256
OCCUPIED_ANCHORS = 512
FOLDS = 20  # of the cross-fit; with 5, coordinates look farther off than they are
LEAST_FOLDED = 10  # coordinates; of fewer, none can be left out of a fit


@dataclass(frozen=True)
class Region:
    """A frozen region of the field.

    Attributes:
        cell: the Gaussian cell it occupies.
        generator: z → gates; no parameter requires a gradient.
        bases: the bases its gates weight, in the generator's order.
        scale: α/r.
        layers: the adapted layers of the backbone, in the generator's order.
        sampled: anchors drawn from the cell, float32 [n, dim]; they witness the field.
        occupied: coordinates seen in training, float32 [m, dim]; they lock routing.
        fresh: log-densities at `occupied` by cells that were fitted without them, float64 [m]; None
            if there were too few, and in old regions.
        snapshot: gates at `sampled` then `occupied`, float32 [n + m, layers, bases].
    """

    cell: Cell
    generator: Generator
    bases: tuple[Basis, ...]
    scale: float
    layers: tuple[int, ...]
    sampled: Tensor
    occupied: Tensor
    fresh: Tensor | None
    snapshot: Tensor

    @classmethod
    def seal(
        cls,
        generator: Generator,
        bases: tuple[Basis, ...],
        *,
        scale: float,
        layers: tuple[int, ...],
        coordinates: Tensor,
        held_out: Tensor,
        seed: int,
    ) -> Region:
        """Fits the cell, draws the anchors and takes the snapshot.

        Args:
            generator: the trained generator; its gradients are turned off.
            bases: the bases its gates weight, in its order.
            scale: α/r.
            layers: the adapted layers, in the generator's order.
            coordinates: [n, dim], occupied in training.
            held_out: [m, dim], for the cell's conformal radius.
            seed: of the choice of anchors.
        """
        generator = generator.requires_grad_(False)
        cell = Cell.fit(coordinates, held_out)
        picked = torch.randperm(len(coordinates), generator=torch.Generator().manual_seed(seed))
        picked = picked[:OCCUPIED_ANCHORS]
        occupied, fresh = coordinates.float()[picked], None
        if len(coordinates) >= LEAST_FOLDED:
            folds = min(FOLDS, len(coordinates))
            fresh = Cell.cross_fit(coordinates, folds, freedom=None)[1][picked]
        sampled = cell.sample(SAMPLED_ANCHORS, seed).float()
        snapshot = generator(torch.cat([sampled, occupied]))
        return cls(cell, generator, bases, scale, layers, sampled, occupied, fresh, snapshot)

    @property
    def anchors(self) -> Tensor:
        """All anchors, float32 [n + m, dim]; float64 in old regions."""
        return torch.cat([self.sampled, self.occupied])

    def on(self, device: torch.device) -> Region:
        """A copy that computes on a device."""
        bases = tuple(basis.to(device=device, dtype=basis.dtype) for basis in self.bases)
        return replace(self, bases=bases, generator=copy.deepcopy(self.generator).to(device))

    @torch.no_grad()
    def gates(self, z: Tensor) -> Tensor:
        """Gates, float32 [..., layers, bases], at z [..., dim]."""
        return self.generator(z)

    @torch.no_grad()
    def weight_changes(self, z: Tensor) -> Iterator[tuple[str, Tensor]]:
        """(site name, ΔW [out, in], float32) for each site: ΔW(z) = (α/r) Σ_b g_b(z) B_b A_b.

        The reference that tests and benchmarks compare the adapter with; it forms full matrices.

        Args:
            z: one coordinate, [dim].
        """
        gates = self.gates(z)
        for name in self.bases[0].down:
            layer = self.layers.index(Site.parse(name)[0])
            yield (
                name,
                sum(
                    self.scale
                    * gates[layer, i]
                    * (basis.up[name].float() @ basis.down[name].float())
                    for i, basis in enumerate(self.bases)
                ),
            )

    def differing_anchors(self, tolerance: float = 0.0) -> list[tuple[int, int]]:
        """(anchor, layer) pairs where the recomputed gates differ from the snapshot.

        Args:
            tolerance: largest absolute difference that counts as equal; 0 requires equal bits.
        """
        difference = (self.gates(self.anchors) - self.snapshot).abs().amax(-1)
        places = (~(difference <= tolerance)).nonzero().tolist()
        return [(anchor, self.layers[layer]) for anchor, layer in places]

    def tensors(self) -> dict[str, Tensor]:
        """Everything except the bases, which are objects of their own."""
        anchors = {"sampled": self.sampled, "occupied": self.occupied}
        if self.fresh is not None:
            anchors["fresh"] = self.fresh
        parts: dict[str, Mapping[str, Tensor]] = {
            "cell": self.cell.tensors(),
            "generator": self.generator.state_dict(),
            "anchors": anchors,
        }
        named = {f"{part}.{k}": v for part, tensors in parts.items() for k, v in tensors.items()}
        return named | {"snapshot": self.snapshot}

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, Tensor],
        bases: tuple[Basis, ...],
        scale: float,
        layers: tuple[int, ...],
    ) -> Region:
        """Rebuilds the frozen region from what `tensors()` returned, and its bases."""
        return cls(
            Cell.from_tensors(under(tensors, "cell")),
            Generator.from_tensors(under(tensors, "generator"), len(layers)).requires_grad_(False),
            bases,
            scale,
            layers,
            tensors["anchors.sampled"],
            tensors["anchors.occupied"],
            tensors.get("anchors.fresh"),
            tensors["snapshot"],
        )
