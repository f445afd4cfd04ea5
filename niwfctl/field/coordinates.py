"""The coordinate map: where in capability space a prompt lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from niwfctl.field.precision import full_precision


@dataclass(frozen=True)
class CoordinateMap:
    """z = P (mean over prompt tokens of h_k − m), fixed at `init` and never trained.

    Attributes:
        mean: m, float32 [hidden].
        projection: P, float32 [dim, hidden]; the PCA-whitening matrix of the calibration states.
    """

    mean: Tensor
    projection: Tensor

    @property
    def dim(self) -> int:
        """Number of coordinates d."""
        return self.projection.shape[0]

    @classmethod
    def fit(cls, states: Tensor, dim: int) -> CoordinateMap:
        """Fits the map by PCA whitening of pooled calibration states.

        Args:
            states: [prompts, hidden], one mean-pooled state per prompt.
            dim: number of coordinates; at most min(prompts − 1, hidden).

        Raises:
            ValueError: `dim` is out of that range.
        """
        count, hidden = states.shape
        if not 1 <= dim <= min(count - 1, hidden):
            raise ValueError(f"dim must be 1 to {min(count - 1, hidden)}, not {dim}")
        states = states.double()
        mean = states.mean(0)
        _, singular, directions = torch.linalg.svd(states - mean, full_matrices=False)
        deviation = singular[:dim] / (count - 1) ** 0.5
        projection = directions[:dim] / deviation.clamp_min(1e-8)[:, None]
        return cls(mean.float(), projection.float())

    @full_precision()
    def __call__(self, pooled: Tensor) -> Tensor:
        """Coordinates, float32 [..., dim], of pooled states [..., hidden]."""
        return (pooled.float() - self.mean) @ self.projection.T

    def to(self, device: torch.device | str) -> CoordinateMap:
        """The same map on another device."""
        return CoordinateMap(self.mean.to(device), self.projection.to(device))

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that define the map, for sealing."""
        return {"mean": self.mean, "projection": self.projection}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> CoordinateMap:
        """Rebuilds the map from what `tensors()` returned."""
        return cls(tensors["mean"], tensors["projection"])


@full_precision()
def pool(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over the prompt's tokens.

    Args:
        states: [batch, tokens, hidden], the residual stream entering the tap layer.
        mask: bool [batch, tokens], True at the tokens that count.

    Returns:
        float32 [batch, hidden]; zeros for a row in which no token counts.
    """
    weights = mask.float()
    total = torch.einsum("bth,bt->bh", states.float(), weights)
    return total / weights.sum(1, keepdim=True).clamp_min(1.0)
