"""What routing was compared with: densities other than one Gaussian per region, other routers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from niwfctl.field.cell import Cell


@dataclass(frozen=True)
class StudentT(Cell):
    """A Student t for regions, too."""

    @classmethod
    def fit(cls, coordinates: Tensor, held_out: Tensor, coverage: float = 0.99) -> Cell:
        """As `Cell.fit`."""
        cell = Cell.fit(coordinates, held_out, coverage)
        return replace(cell, freedom=torch.tensor(10.0, dtype=torch.float64))


@dataclass(frozen=True)
class SharedCovariance(Cell):
    """All regions share the base's covariance, the identity in whitened coordinates."""

    @classmethod
    def fit(cls, coordinates: Tensor, held_out: Tensor, coverage: float = 0.99) -> SharedCovariance:
        """As `Cell.fit`."""
        mean = coordinates.double().mean(0)
        far = (held_out.double() - mean).norm(dim=1).max()
        return cls(mean, torch.eye(len(mean), dtype=torch.float64), 1.2 * far)


@dataclass(frozen=True)
class HalfShrunk(Cell):
    """A covariance shrunk half-way towards its mean variance."""

    @classmethod
    def fit(cls, coordinates: Tensor, held_out: Tensor, coverage: float = 0.99) -> HalfShrunk:
        """As `Cell.fit`."""
        plain = Cell.fit(coordinates, held_out, coverage)
        covariance = plain.factor @ plain.factor.T
        spherical = torch.eye(plain.dim, dtype=torch.float64) * covariance.diagonal().mean()
        cell = cls(plain.mean, torch.linalg.cholesky((covariance + spherical) / 2), plain.radius)
        return replace(cell, radius=1.2 * cell.distance(held_out).max())


@dataclass(frozen=True)
class Mixture(Cell):
    """Four Gaussians, by k-means, each with its own covariance shrunk towards a common one."""

    parts: tuple[tuple[float, Cell], ...] = ()

    @classmethod
    def fit(cls, coordinates: Tensor, held_out: Tensor, coverage: float = 0.99) -> Mixture:
        """As `Cell.fit`."""
        z = coordinates.double()
        group = _k_means(z, 4)
        common = Cell.fit(z - torch.stack([z[group == g].mean(0) for g in group]), z[:2])
        within = common.factor @ common.factor.T
        parts = []
        for index in group.unique():
            own = z[group == index]
            centred = own - own.mean(0)
            covariance = (centred.T @ centred + z.shape[1] * within) / (len(own) + z.shape[1])
            part = Cell(own.mean(0), torch.linalg.cholesky(covariance), torch.tensor(math.inf))
            parts.append((len(own) / len(z), part))
        whole = Cell.fit(coordinates, held_out, coverage)
        mixture = cls(whole.mean, whole.factor, whole.radius, parts=tuple(parts))
        return replace(mixture, radius=1.2 * mixture.distance(held_out).max())

    def log_density(self, z: Tensor) -> Tensor:
        """As `Cell.log_density`."""
        found = [math.log(weight) + part.log_density(z) for weight, part in self.parts]
        return torch.logsumexp(torch.stack(found), dim=0)

    def distance(self, z: Tensor) -> Tensor:
        """√2 times the root of how far the log-density is below the highest peak's."""
        peak = max(float(part.log_density(part.mean[None])) for _, part in self.parts)
        return (2 * (peak - self.log_density(z))).clamp_min(0).sqrt()


def _k_means(z: Tensor, count: int) -> Tensor:
    random = torch.Generator().manual_seed(0)
    centres = z[torch.randperm(len(z), generator=random)[:1]]
    while len(centres) < count:
        far = torch.cdist(z, centres).amin(1).square()
        centres = torch.cat([centres, z[torch.multinomial(far, 1, generator=random)]])
    for _ in range(25):
        group = torch.cdist(z, centres).argmin(1)
        centres = torch.stack([z[group == g].mean(0) for g in group.unique()])
    return torch.cdist(z, centres).argmin(1)


class NearestMean:
    """The nearest mean of standardized states, with the base's calibration prompts as a class."""

    def __init__(self, calibration: Tensor) -> None:
        """Made from states of calibration prompts [prompts, hidden]."""
        self.mean, self.deviation = calibration.mean(0), calibration.std(0) + 1e-6
        self.means: list[Tensor] = []
        self.add(calibration)

    def add(self, states: Tensor) -> None:
        """Adds a class."""
        self.means.append(self._standard(states).mean(0))

    def leads(self, states: Tensor) -> Tensor:
        """By how much nearer each class but the base is than the base, [n, classes]."""
        distances = self._distances(self._standard(states))
        return distances[:, :1] - distances[:, 1:]

    def _standard(self, states: Tensor) -> Tensor:
        return (states - self.mean) / self.deviation

    def _distances(self, standard: Tensor) -> Tensor:
        return torch.cdist(standard, torch.stack(self.means)).square()


class Mahalanobis(NearestMean):
    """The same, by the covariance within all classes: linear discriminant analysis."""

    def add(self, states: Tensor) -> None:
        """Adds a class."""
        standard = self._standard(states)
        centred = standard - standard.mean(0)
        within = centred.T @ centred / len(centred)
        self.within = within if not self.means else self.within + within
        super().add(states)

    def _distances(self, standard: Tensor) -> Tensor:
        damping = 0.01 * self.within.diagonal().mean() * torch.eye(len(self.within))
        factor = torch.linalg.cholesky((self.within + damping) / len(self.means))
        whitened, means = (
            torch.linalg.solve_triangular(factor, one.T, upper=False).T
            for one in (standard, torch.stack(self.means))
        )
        return torch.cdist(whitened, means).square()


class Ridge:
    """A ridge-regression router on random features; statistics of each class add up.

    Any-SSR's idea, with the base's calibration prompts as a class of its own. Nothing bounds what
    a later class takes from an earlier one.
    """

    def __init__(self, calibration: Tensor, features: int = 2000) -> None:
        """Made from states of calibration prompts [prompts, hidden]."""
        random = torch.Generator().manual_seed(0)
        hidden = calibration.shape[1]
        self.mean, self.deviation = calibration.mean(0), calibration.std(0) + 1e-6
        self.weight = torch.randn(hidden, features, generator=random) / hidden**0.5
        self.shift = torch.randn(features, generator=random) / 2
        self.gram, self.classes = torch.zeros(features + 1, features + 1), []
        self.add(calibration)

    def add(self, states: Tensor) -> None:
        """Adds a class."""
        found = self._features(states)
        self.gram = self.gram + found.T @ found / len(found)
        self.classes.append(found.mean(0))

    def leads(self, states: Tensor) -> Tensor:
        """By how much each class but the base beats the base, [n, classes]."""
        damping = 0.01 * self.gram.diagonal().mean() * torch.eye(len(self.gram))
        weights = torch.linalg.solve(self.gram + damping, torch.stack(self.classes, 1))
        scores = self._features(states) @ weights
        return scores[:, 1:] - scores[:, :1]

    def _features(self, states: Tensor) -> Tensor:
        scaled = (states - self.mean) / self.deviation
        found = torch.relu(scaled @ self.weight + self.shift)
        return torch.cat([found, torch.ones(len(found), 1)], dim=1)
