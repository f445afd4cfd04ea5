"""Drawing coordinate space: the plane in which cells lie furthest apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from niwfctl.field.cell import Cell

COVERAGE = 0.95
_APART = 1e-6  # standard deviations; means closer together than this count as equal


@dataclass(frozen=True)
class Ellipse:
    """The ellipse that holds `COVERAGE` of a Gaussian's mass in the plane.

    Attributes:
        x, y: its centre.
        major, minor: its semi-axes, the longer one first.
        angle: from the x axis to the major axis, radians in (−π/2, π/2].
    """

    x: float
    y: float
    major: float
    minor: float
    angle: float

    def outline(self, count: int) -> list[tuple[float, float]]:
        """`count` points on it, evenly spaced in angle."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        turns = (2 * math.pi * index / count for index in range(count))
        around = ((self.major * math.cos(t), self.minor * math.sin(t)) for t in turns)
        return [(self.x + cos * u - sin * v, self.y + sin * u + cos * v) for u, v in around]


@dataclass(frozen=True)
class Projection:
    """An affine map of coordinate space onto the plane.

    Attributes:
        origin: the coordinate that is mapped to (0, 0), float64 [dim].
        axes: float64 [2, dim].
        shown: share of the scatter of the cells' means that the plane keeps, in [0, 1]; None if
            they do not scatter.
    """

    origin: Tensor
    axes: Tensor
    shown: float | None

    def __call__(self, z: Tensor) -> Tensor:
        """Points of the plane, float64 [..., 2], for coordinates z [..., dim]."""
        return (z.double() - self.origin) @ self.axes.T

    def ellipse(self, cell: Cell) -> Ellipse:
        """Where most of a cell's Gaussian lies in the plane, whatever its other coordinates."""
        factor = self.axes @ cell.factor
        variances, directions = torch.linalg.eigh(factor @ factor.T)
        reach = math.sqrt(-2 * math.log(1 - COVERAGE))  # quantile of a χ distribution of order 2
        minor, major = (variances.clamp_min(0).sqrt() * reach).tolist()
        along = directions[:, 1]
        angle = math.atan2(*(along * _sign(along)).flip(0).tolist())
        if angle > math.pi / 2:
            angle -= math.pi
        return Ellipse(*self(cell.mean).tolist(), major, minor, angle)


def discriminant(cells: Sequence[Cell]) -> Projection:
    """The plane that shows cells furthest apart (Fisher, 1936; Rao, 1948).

    Its axes maximize the scatter of the means relative to the mean covariance, under which they are
    uncorrelated and of unit variance. If the means scatter along fewer than two axes, principal
    directions of the mean covariance replace the missing ones. The first cell lies at the origin;
    beyond that, the order of the cells does not matter.

    Args:
        cells: one or more, all of the same dimension.
    """
    means = torch.stack([cell.mean for cell in cells]).double()
    within = torch.stack([cell.factor @ cell.factor.T for cell in cells]).double().mean(0)
    lower = torch.linalg.cholesky(within)
    centred = (means - means.mean(0)).T
    whitened = torch.linalg.solve_triangular(lower, centred, upper=False)
    directions, scatter, _ = torch.linalg.svd(whitened)
    apart = min(int((scatter > _APART).sum()), 2)
    found, rest = directions[:, :apart], directions[:, apart:]
    chosen = torch.cat([found, rest @ _principal(lower, rest)], dim=1)[:, :2]
    axes = torch.linalg.solve_triangular(lower.T, chosen, upper=True).T
    axes = torch.stack([axis * _sign(axis) for axis in axes])
    if len(axes) < 2:  # a space of one dimension is drawn as a line
        axes = torch.cat([axes, torch.zeros_like(axes)])
    total = scatter.square().sum()
    shown = float(scatter[:2].square().sum() / total) if apart else None
    return Projection(cells[0].mean.double(), axes, shown)


def _principal(lower: Tensor, rest: Tensor) -> Tensor:
    """Principal axes within whitened directions [dim, n], most variance first, [n, n].

    A whitened direction v is the functional L⁻ᵀv, of unit variance; the shorter it is, the more
    coordinates vary along it.
    """
    functionals = torch.linalg.solve_triangular(lower.T, rest, upper=True)
    return torch.linalg.eigh(functionals.T @ functionals).eigenvectors


def _sign(axis: Tensor) -> Tensor:
    """The sign of the largest component, so that an axis and its opposite are drawn alike."""
    return torch.where(axis[axis.abs().argmax()] < 0, -1.0, 1.0)
