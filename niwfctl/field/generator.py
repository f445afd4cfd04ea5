"""The generator: maps a coordinate to the gates of a region's bases."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from niwfctl.field.precision import full_precision

HIDDEN_WIDTH = 64


class Generator(nn.Module):
    """z → gates in (0, 2), one per adapted layer and basis.

    gates = 2 σ(W₂ tanh(W₁ z + c₁) + c₂). W₂ and c₂ start at zero, so every gate starts at
    exactly 1 and training begins as plain low-rank adaptation.
    """

    def __init__(
        self,
        dim: int,
        layers: int,
        bases: int,
        hidden: int = HIDDEN_WIDTH,
        gain: Tensor | None = None,
    ) -> None:
        """
        Args:
            dim: number of coordinates d.
            layers: number of adapted layers.
            bases: number of bases the region uses.
            hidden: width of the hidden layer.
            gain: constant factor of each basis's gates, float32 [bases]; None: 1. Bases that were
                sealed under another α/r than the region's own need one.
        """
        super().__init__()
        self.layers, self.bases = layers, bases
        self.inner = nn.Linear(dim, hidden, dtype=torch.float32)
        self.outer = nn.Linear(hidden, layers * bases, dtype=torch.float32)
        self.register_buffer("gain", gain)  # if None, it is not in the state dict
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    @full_precision()
    def forward(self, z: Tensor) -> Tensor:
        """Gates, float32 [..., layers, bases], at coordinates z [..., dim]."""
        logits = self.outer(torch.tanh(self.inner(z.float())))
        gates = 2 * torch.sigmoid(logits).unflatten(-1, (self.layers, self.bases))
        return gates if self.gain is None else gates * self.gain

    @classmethod
    def constant(cls, dim: int, layers: int, bases: int) -> Generator:
        """The smallest generator whose gates are exactly 1 at every z."""
        generator = cls._unset(dim, layers, bases, hidden=1)
        for parameter in generator.parameters():
            nn.init.zeros_(parameter)
        return generator

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], layers: int) -> Generator:
        """The generator of a state dict; its sizes are read from the tensors.

        Raises:
            ValueError, KeyError, RuntimeError: the tensors are not those of a generator.
        """
        hidden, dim = tensors["inner.weight"].shape
        bases = len(tensors["outer.weight"]) // layers
        gates = layers * bases
        shapes = {"inner.bias": (hidden,), "outer.weight": (gates, hidden), "outer.bias": (gates,)}
        # Before anything is allocated: a shape with a zero in it takes no bytes of the file, so it
        # may claim any other size.
        if 0 in (hidden, dim, gates) or any(tensors[k].shape != v for k, v in shapes.items()):
            raise ValueError("the tensors have shapes that are not those of a generator")
        generator = cls._unset(dim, layers, bases, hidden, tensors.get("gain"))
        generator.load_state_dict(dict(tensors))
        return generator

    @classmethod
    def _unset(
        cls, dim: int, layers: int, bases: int, hidden: int, gain: Tensor | None = None
    ) -> Generator:
        """One whose numbers are still to be set; what a program draws at random stays the same."""
        with torch.random.fork_rng(devices=[]):  # the meta device would load for half a second
            return cls(dim, layers, bases, hidden, gain)
