"""How far apart two regions are, computed from cells and factors; no full matrix is formed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from niwfctl.field.cell import Cell
from niwfctl.field.frozen import FrozenSum
from niwfctl.field.routing import Claim, takeover


@dataclass(frozen=True)
class Neighbourhood:
    """Where the regions a and b lie to each other.

    Attributes:
        bhattacharyya: distance of their Gaussians; 0 when they are equal.
        a_in_b, b_in_a: share of the anchors of one that the cell of the other holds.
        a_taken, b_taken: share of the anchors of one that the other wins, each with its bias.
    """

    bhattacharyya: float
    a_in_b: float
    b_in_a: float
    a_taken: float
    b_taken: float


@dataclass(frozen=True)
class SiteDifference:
    """ΔW of two regions at one linear, each at the mean of its own cell.

    Attributes:
        site: `layers.{i}.{module}`.
        norm_a, norm_b: ‖ΔW‖_F.
        distance: ‖ΔW_a − ΔW_b‖_F.
        cosine: of the two as vectors.
        angles: principal angles between their column spaces, radians, smallest first.
    """

    site: str
    norm_a: float
    norm_b: float
    distance: float
    cosine: float
    angles: tuple[float, ...]

    @property
    def relative(self) -> float:
        """The distance over the norms, √(‖ΔW_a‖² + ‖ΔW_b‖²); 1 when they share nothing."""
        total = (self.norm_a**2 + self.norm_b**2) ** 0.5
        return self.distance / total if total else 0.0


def bhattacharyya(a: Cell, b: Cell) -> float:
    """⅛ δᵀ Σ⁻¹ δ + ½ ln(|Σ| / √(|Σ_a| |Σ_b|)), with Σ the mean covariance (Bhattacharyya, 1943)."""
    one, other = a.factor @ a.factor.T, b.factor @ b.factor.T
    factor = torch.linalg.cholesky((one + other) / 2)
    delta = torch.linalg.solve_triangular(factor, (a.mean - b.mean)[:, None], upper=False)

    def half_log_determinant(lower: Tensor) -> Tensor:
        return lower.diagonal().log().sum()

    mixed = half_log_determinant(factor)
    own = (half_log_determinant(a.factor) + half_log_determinant(b.factor)) / 2
    return float(delta.square().sum() / 8 + mixed - own)


def neighbourhood(a: Claim, b: Claim) -> Neighbourhood:
    """Distance, overlap and takeover of two regions, the last two estimated from anchors."""

    def inside(own: Claim, other: Claim) -> float:
        return float(other.cell.contains(own.anchors).double().mean())

    def taken(own: Claim, other: Claim) -> float:
        won, anchors = takeover(other, own)
        return won / anchors

    distance = bhattacharyya(a.cell, b.cell)
    return Neighbourhood(distance, inside(a, b), inside(b, a), taken(a, b), taken(b, a))


def site_differences(a: FrozenSum, b: FrozenSum) -> list[SiteDifference]:
    """ΔW of both compared at every linear that either adapts."""
    names = dict.fromkeys([*a.names, *b.names])
    return [_difference(name, a.at(name), b.at(name)) for name in names]


def _difference(
    name: str, a: tuple[Tensor, Tensor] | None, b: tuple[Tensor, Tensor] | None
) -> SiteDifference:
    if a is None or b is None:
        norm_a, norm_b = (0.0 if one is None else _inner(one, one) ** 0.5 for one in (a, b))
        return SiteDifference(name, norm_a, norm_b, norm_a + norm_b, 0.0, ())
    norm_a, norm_b = _inner(a, a) ** 0.5, _inner(b, b) ** 0.5
    both = (torch.cat([a[0], b[0]]), torch.cat([a[1], -b[1]], dim=1))
    distance = max(_inner(both, both), 0.0) ** 0.5
    product = norm_a * norm_b
    cosine = _inner(a, b) / product if product else 0.0
    return SiteDifference(name, norm_a, norm_b, distance, cosine, _angles(a[1], b[1]))


def _inner(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> float:
    """⟨B_a A_a, B_b A_b⟩ = tr((B_bᵀ B_a)(A_a A_bᵀ)), from R × R Gram matrices."""
    ups = (b[1].T @ a[1]).double()
    downs = (a[0] @ b[0].T).double()
    return float((ups.T * downs).sum())


def _angles(one: Tensor, other: Tensor) -> tuple[float, ...]:
    """Principal angles between column spaces: the singular values of Q_aᵀ Q_b are cosines."""
    whitened = _whitener(one) @ (one.T @ other).double() @ _whitener(other).T
    cosines = torch.linalg.svdvals(whitened).clamp(0, 1)
    return tuple(cosines.arccos().tolist())


def _whitener(columns: Tensor) -> Tensor:
    """W with W Uᵀ U Wᵀ = I on the column space of U, from its Gram matrix."""
    values, vectors = torch.linalg.eigh((columns.T @ columns).double())
    kept = values > values.max().clamp_min(1e-30) * 1e-10
    return (vectors[:, kept] / values[kept].sqrt()).T
