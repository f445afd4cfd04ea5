"""Bases: the low-rank pairs that gates weight."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Site:
    """One adapted linear: its place and its shape.

    Attributes:
        layer: index of the decoder layer in the backbone.
        module: path of the linear inside its layer, for example `self_attn.q_proj`.
    """

    layer: int
    module: str
    in_features: int
    out_features: int

    @property
    def name(self) -> str:
        """`layers.{layer}.{module}`, the key of this linear in a basis."""
        return f"layers.{self.layer}.{self.module}"

    @staticmethod
    def parse(name: str) -> tuple[int, str]:
        """(layer, module) of a site's name."""
        _, layer, module = name.split(".", 2)
        return int(layer), module


@dataclass(frozen=True)
class Basis:
    """One rank-r pair (A, B) for every site.

    Attributes:
        down: A by site name, [rank, in_features].
        up: B by site name, [out_features, rank].
    """

    down: Mapping[str, Tensor]
    up: Mapping[str, Tensor]

    @property
    def rank(self) -> int:
        """Rank r, the same at every site."""
        return next(iter(self.down.values())).shape[0]

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers it changes, in ascending order."""
        return tuple(sorted({Site.parse(name)[0] for name in self.down}))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of all factors."""
        return next(iter(self.down.values())).dtype

    @classmethod
    def initial(cls, sites: Iterable[Site], rank: int, generator: torch.Generator) -> Basis:
        """A trainable float32 basis with ΔW = 0: A uniform as in LoRA (Hu et al., 2021), B zero."""
        down, up = {}, {}
        for site in sites:
            bound = 1 / math.sqrt(site.in_features)
            shape = (rank, site.in_features)
            uniform = torch.rand(shape, generator=generator, dtype=torch.float32)
            down[site.name] = (uniform * 2 - 1) * bound
            up[site.name] = torch.zeros(site.out_features, rank, dtype=torch.float32)
        return cls(down, up)

    def shapes(self) -> dict[str, tuple[int, int]]:
        """(out_features, in_features) of the linears it changes, by site name."""
        return {name: (self.up[name].shape[0], a.shape[1]) for name, a in self.down.items()}

    def fits(self, shapes: Mapping[str, tuple[int, int]]) -> bool:
        """Whether it changes exactly the linears of these shapes, with one rank and one dtype.

        Args:
            shapes: (out_features, in_features) by site name.
        """
        return self.down.keys() == self.up.keys() == shapes.keys() and all(
            self.down[name].shape == (self.rank, width)
            and self.up[name].shape == (height, self.rank)
            and self.down[name].dtype == self.up[name].dtype == self.dtype
            and self.dtype in (torch.bfloat16, torch.float16, torch.float32)
            and min(self.rank, height, width) > 0
            for name, (height, width) in shapes.items()
        )

    def is_finite(self) -> bool:
        """Whether no factor holds a NaN or an infinity."""
        # checking only the largest value is fifty times faster than checking every value
        return all(a.abs().amax().isfinite() for a in (*self.down.values(), *self.up.values()))

    def tensors(self) -> dict[str, Tensor]:
        """`{site}.A` and `{site}.B`, for sealing."""
        return {f"{name}.A": a for name, a in self.down.items()} | {
            f"{name}.B": b for name, b in self.up.items()
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Basis:
        """Rebuilds the basis from what `tensors()` returned."""
        down = {key[:-2]: value for key, value in tensors.items() if key.endswith(".A")}
        up = {key[:-2]: value for key, value in tensors.items() if key.endswith(".B")}
        return cls(down, up)

    def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype) -> Basis:
        """A copy in another dtype and, if given, on another device."""
        return Basis(
            {name: a.to(device=device, dtype=dtype) for name, a in self.down.items()},
            {name: b.to(device=device, dtype=dtype) for name, b in self.up.items()},
        )
