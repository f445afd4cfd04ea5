"""The Gaussian cell: which coordinates a region occupies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cell:
    """An ellipsoid {z : (z − μ)ᵀ Σ⁻¹ (z − μ) ≤ radius²} under a Gaussian N(μ, Σ).

    Attributes:
        mean: μ, float64 [dim].
        factor: lower Cholesky factor of Σ, float64 [dim, dim].
        radius: Mahalanobis radius, float64 scalar tensor; a conformal quantile.
    """

    mean: Tensor
    factor: Tensor
    radius: Tensor

    @classmethod
    def fit(cls, coordinates: Tensor, held_out: Tensor, coverage: float = 0.95) -> Cell:
        """Fits a cell to occupied coordinates.

        The covariance is shrunk towards its mean variance by d / (n + d), which keeps it well
        conditioned when coordinates are few. The radius is the split-conformal quantile of the
        Mahalanobis distance on coordinates that the fit has not seen, so that a new prompt of the
        same kind falls inside with at least `coverage` probability (Vovk et al., 2005).

        Args:
            coordinates: [n, dim] to fit; n ≥ 2.
            held_out: [m, dim] for the radius; m ≥ 1.
            coverage: share of new coordinates the cell is to hold, in (0, 1).
        """
        coordinates = coordinates.double()
        count, dim = coordinates.shape
        mean = coordinates.mean(0)
        centred = coordinates - mean
        covariance = centred.T @ centred / max(count - 1, 1)
        shrinkage = dim / (count + dim)
        spherical = torch.eye(dim, dtype=torch.float64) * covariance.diagonal().mean()
        covariance = (1 - shrinkage) * covariance + shrinkage * spherical
        covariance += 1e-6 * torch.eye(dim, dtype=torch.float64)
        factor = torch.linalg.cholesky(covariance)
        distances = _distance(held_out.double(), mean, factor).sort().values
        rank = min(math.ceil((len(distances) + 1) * coverage), len(distances))
        return cls(mean, factor, distances[rank - 1].clone())

    @property
    def dim(self) -> int:
        """Number of coordinates d."""
        return self.mean.shape[0]

    def distance(self, z: Tensor) -> Tensor:
        """Mahalanobis distance of z [..., dim] from the mean, float64 [...]."""
        return _distance(z.double(), self.mean, self.factor)

    def contains(self, z: Tensor) -> Tensor:
        """Whether the cell holds z [..., dim]; bool [...]."""
        return self.distance(z) <= self.radius

    def log_density(self, z: Tensor) -> Tensor:
        """log N(z; μ, Σ) for z [..., dim], float64 [...]."""
        log_determinant = 2 * self.factor.diagonal().log().sum()
        norm = self.dim * math.log(2 * math.pi) + log_determinant
        return -0.5 * (self.distance(z).square() + norm)

    def sample(self, count: int, seed: int) -> Tensor:
        """`count` coordinates drawn uniformly from the ellipsoid, float64 [count, dim]."""
        generator = torch.Generator().manual_seed(seed)
        direction = torch.randn(count, self.dim, generator=generator, dtype=torch.float64)
        direction /= direction.norm(dim=1, keepdim=True)
        shell = torch.rand(count, 1, generator=generator, dtype=torch.float64) ** (1 / self.dim)
        return self.mean + self.radius * shell * direction @ self.factor.T

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that define the cell, for sealing."""
        return {"mean": self.mean, "factor": self.factor, "radius": self.radius}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Cell:
        """The cell that `tensors()` described."""
        return cls(tensors["mean"], tensors["factor"], tensors["radius"])


def _distance(z: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    flat = (z - mean).reshape(-1, z.shape[-1]).T
    whitened = torch.linalg.solve_triangular(factor, flat, upper=False)
    return whitened.norm(dim=0).reshape(z.shape[:-1])
