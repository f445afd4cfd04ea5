"""The Gaussian cell: which coordinates a region occupies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

COVERAGE = 0.99
SLACK = 1.2  # with few prompts, their largest distance is a poor quantile
LEAST_VARIANCE = 1e-3  # per coordinate; ordinary tasks have 0.2 or more, rounding alone makes 1e-5
FREEDOM = 10.0  # of the base's Student t; 5 and 30 route about the same


@dataclass(frozen=True)
class Cell:
    """An ellipsoid {z : (z − μ)ᵀ Σ⁻¹ (z − μ) ≤ radius²} under a density of covariance Σ.

    Attributes:
        mean: μ, float64 [dim].
        factor: lower Cholesky factor of Σ, float64 [dim, dim].
        radius: Mahalanobis radius, float64 scalar tensor; a conformal quantile.
        freedom: degrees of freedom of a Student t, over 2, float64 scalar tensor; None: a Gaussian.
    """

    mean: Tensor
    factor: Tensor
    radius: Tensor
    freedom: Tensor | None = None

    @classmethod
    def fit(cls, coordinates: Tensor, held_out: Tensor, coverage: float = COVERAGE) -> Cell:
        """Fits a cell to occupied coordinates.

        The covariance is shrunk towards its mean variance by d / (n + d), which keeps it well
        conditioned when coordinates are few. The radius is a fifth larger than the split-conformal
        quantile of the Mahalanobis distance on coordinates that the fit has not seen: given enough
        of them, a new prompt of the same kind falls inside with probability at least `coverage`
        (Vovk et al., 2005). The radius only limits what a cell can hold; near the edge the
        densities of other cells decide. Prompts that are all alike get a small cell, but one wider
        than the rounding differences of one prompt between batches.

        Args:
            coordinates: [n, dim] to fit; n ≥ 1. A single one gets the least variance.
            held_out: [m, dim] for the radius; m ≥ 1.
            coverage: share of new coordinates that the cell should hold, in (0, 1).
        """
        coordinates = coordinates.double()
        count, dim = coordinates.shape
        mean = coordinates.mean(0)
        centred = coordinates - mean
        covariance = centred.T @ centred / max(count - 1, 1)
        shrinkage = dim / (count + dim)
        variance = covariance.diagonal().mean().clamp_min(LEAST_VARIANCE)
        spherical = torch.eye(dim, dtype=torch.float64) * variance
        covariance = (1 - shrinkage) * covariance + shrinkage * spherical
        covariance += 1e-6 * torch.eye(dim, dtype=torch.float64)
        factor = torch.linalg.cholesky(covariance)
        distances = _whiten(held_out.double(), mean, factor).norm(dim=-1).sort().values
        rank = min(math.ceil((len(distances) + 1) * coverage), len(distances))
        return cls(mean, factor, SLACK * distances[rank - 1].clamp_min(dim**0.5))

    @classmethod
    def cross_fit(
        cls, coordinates: Tensor, folds: int = 5, freedom: float | None = FREEDOM
    ) -> tuple[Cell, Tensor]:
        """Fits a cell to all coordinates, and scores each with a cell that has not seen it.

        Args:
            coordinates: [n, dim]; n > folds.
            freedom: degrees of freedom of a Student t, whose heavy tails cover points that are far
                from everything; None: a Gaussian.

        Returns:
            The cell, with the largest radius of any fold, and the log-densities at the coordinates,
            float64 [n], each by the cell that was fitted without its fold.
        """
        fold = torch.arange(len(coordinates)) % folds
        scores = torch.empty(len(coordinates), dtype=torch.float64)
        radii = []
        tails = None if freedom is None else torch.tensor(freedom, dtype=torch.float64)
        for index in range(folds):
            held_out = coordinates[fold == index]
            cell = replace(cls.fit(coordinates[fold != index], held_out), freedom=tails)
            scores[fold == index] = cell.log_density(held_out)
            radii.append(cell.radius)
        radius = torch.stack(radii).amax()
        return replace(cls.fit(coordinates, coordinates), radius=radius, freedom=tails), scores

    @property
    def dim(self) -> int:
        """Number of coordinates d."""
        return self.mean.shape[0]

    def whiten(self, z: Tensor) -> Tensor:
        """L⁻¹ (z − μ) with Σ = L Lᵀ, for z [..., dim]; float64 [..., dim]."""
        return _whiten(z.double(), self.mean, self.factor)

    def distance(self, z: Tensor) -> Tensor:
        """Mahalanobis distance of z [..., dim] from the mean, float64 [...]."""
        return self.whiten(z).norm(dim=-1)

    def contains(self, z: Tensor) -> Tensor:
        """Whether the cell holds z [..., dim]; bool [...]."""
        return self.distance(z) <= self.radius

    def log_density(self, z: Tensor) -> Tensor:
        """Log-density at z [..., dim], float64 [...]: log N(z; μ, Σ), or that of a Student t."""
        return self.log_density_at(self.distance(z))

    def log_density_at(self, distance: Tensor) -> Tensor:
        """Log-density at a Mahalanobis distance; float64, of the shape of `distance`."""
        half_determinant = self.factor.diagonal().log().sum()
        square = distance.square()
        if self.freedom is None:
            return _log_gaussian(square, self.dim) - half_determinant
        whole = self.freedom + self.dim
        scale = self.freedom - 2  # which makes Σ the covariance
        norm = torch.lgamma(whole / 2) - torch.lgamma(self.freedom / 2)
        norm = norm - self.dim / 2 * torch.log(math.pi * scale) - half_determinant
        return norm - whole / 2 * torch.log1p(square / scale)

    def log_density_inside(self, z: Tensor) -> Tensor:
        """Log-density at z [..., dim] where the cell holds z, −∞ elsewhere; float64 [...]."""
        distance = self.distance(z)
        return torch.where(distance <= self.radius, self.log_density_at(distance), -math.inf)

    def sample(self, count: int, seed: int) -> Tensor:
        """`count` coordinates drawn uniformly from the ellipsoid, float64 [count, dim]."""
        generator = torch.Generator().manual_seed(seed)
        direction = torch.randn(count, self.dim, generator=generator, dtype=torch.float64)
        direction /= direction.norm(dim=1, keepdim=True)
        shell = torch.rand(count, 1, generator=generator, dtype=torch.float64) ** (1 / self.dim)
        return self.mean + self.radius * shell * direction @ self.factor.T

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that define the cell, for sealing."""
        tensors = {"mean": self.mean, "factor": self.factor, "radius": self.radius}
        return tensors if self.freedom is None else tensors | {"freedom": self.freedom}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Cell:
        """Rebuilds the cell from what `tensors()` returned."""
        return cls(*(tensors[key] for key in ("mean", "factor", "radius")), tensors.get("freedom"))


class Cells:
    """Several Gaussian cells, evaluated together: a hundred take little longer than a few."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        """
        Args:
            cells: at least one, none of them a Student t.
        """
        self._means = torch.stack([cell.mean for cell in cells])[:, :, None]
        self._factors = torch.stack([cell.factor for cell in cells])
        self._radii = torch.stack([cell.radius for cell in cells])
        self._half_determinants = self._factors.diagonal(dim1=1, dim2=2).log().sum(-1)

    def ask(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(log-density, whether the cell holds z) of every cell at z [n, dim]; [n, cells] each."""
        flat = torch.linalg.solve_triangular(self._factors, z.double().T - self._means, upper=False)
        distance = flat.norm(dim=1).T
        density = _log_gaussian(distance.square(), z.shape[-1]) - self._half_determinants
        return density, distance <= self._radii


def _whiten(z: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    flat = (z - mean).reshape(-1, z.shape[-1]).T
    return torch.linalg.solve_triangular(factor, flat, upper=False).T.reshape(z.shape)


def _log_gaussian(square: Tensor, dim: int) -> Tensor:
    """log N(z; μ, I) where the squared distance of z from μ is `square`."""
    return -0.5 * (square + dim * math.log(2 * math.pi))
