"""How far apart two regions are, computed from cells and factors without full matrices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from niwfctl.field.basis import Site
from niwfctl.field.cell import Cell
from niwfctl.field.frozen import FrozenSum
from niwfctl.field.routing import Claim, won


@dataclass(frozen=True)
class Neighbourhood:
    """How the regions a and b lie relative to each other.

    Attributes:
        bhattacharyya: distance between their Gaussians; 0 when they are equal.
        a_in_b, b_in_a: share of one's anchors that the other's cell holds.
        a_taken, b_taken: share of one's anchors that the other wins, given their biases.
    """

    bhattacharyya: float
    a_in_b: float
    b_in_a: float
    a_taken: float
    b_taken: float


@dataclass(frozen=True)
class SiteDifference:
    """ΔW of two regions compared at one linear, each taken at the mean of its own cell.

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
    def place(self) -> tuple[int, str]:
        """(layer, module) of the linear."""
        return Site.parse(self.site)

    @property
    def relative(self) -> float:
        """The distance over √(‖ΔW_a‖² + ‖ΔW_b‖²); 1 when they share nothing."""
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
    """Distance, overlap and takeover of two regions, the last two estimated from anchors.

    Regions trained on the same data have the same anchors, which neither cell sees as new: both are
    then scored by the cells fitted to those anchors.
    """
    if torch.equal(a.anchors, b.anchors):
        a, b = (replace(one, fresh=None) for one in (a, b))

    def inside(own: Claim, other: Claim) -> float:
        return float(other.cell.contains(own.anchors).double().mean())

    def taken(own: Claim, other: Claim) -> float:
        return float(won(other, own).double().mean())

    distance = bhattacharyya(a.cell, b.cell)
    return Neighbourhood(distance, inside(a, b), inside(b, a), taken(a, b), taken(b, a))


def site_differences(a: FrozenSum, b: FrozenSum) -> list[SiteDifference]:
    """Compares ΔW of both at every linear that either adapts."""
    names = list(dict.fromkeys([*a.names, *b.names]))
    grams = {name: _Gram.of(a, b, name) for name in names}
    found: dict[str, SiteDifference] = {}
    for ranks in {gram.ranks for gram in grams.values()}:
        alike = [name for name in names if grams[name].ranks == ranks]
        downs, ups = (
            torch.stack([getattr(grams[name], kind) for name in alike]).double()
            for kind in ("downs", "ups")
        )
        found |= dict(zip(alike, _differences(alike, ranks[0], downs, ups), strict=True))
    return [found[name] for name in names]


@dataclass(frozen=True)
class _Gram:
    """Gram matrices of the stacked factors of a and b at one linear.

    Attributes:
        ranks: (R_a, R_b); 0 for one that does not adapt the linear.
        downs: of the rows of A, ups: of the columns of B, each float32 [R_a + R_b, R_a + R_b].
    """

    ranks: tuple[int, int]
    downs: Tensor
    ups: Tensor

    @classmethod
    def of(cls, a: FrozenSum, b: FrozenSum, name: str) -> _Gram:
        sides = a.factors(name), b.factors(name)
        downs, ups, weights = zip(*(sides[0] + sides[1]), strict=True)
        down, up = torch.cat(downs).float(), torch.cat(ups, dim=1).float()
        weight = torch.cat([w.expand(len(d)) for w, d in zip(weights, downs, strict=True)])
        ranks = tuple(sum(len(down) for down, _, _ in side) for side in sides)
        return cls(ranks, down @ down.T, (up.T @ up) * torch.outer(weight, weight))


def _differences(
    names: list[str], rank: int, downs: Tensor, ups: Tensor
) -> Iterator[SiteDifference]:
    """Differences from Gram matrices [sites, R, R] whose first `rank` rows and columns are a's.

    ⟨B_a A_a, B_b A_b⟩ = tr((B_bᵀ B_a)(A_a A_bᵀ)): sums over blocks of their product.
    """
    product = downs * ups
    aa = product[:, :rank, :rank].sum((1, 2)).clamp_min(0)
    bb = product[:, rank:, rank:].sum((1, 2)).clamp_min(0)
    ab = product[:, :rank, rank:].sum((1, 2))
    distances = (aa + bb - 2 * ab).clamp_min(0).sqrt()
    norms = (aa * bb).sqrt()
    cosines = torch.where(norms > 0, ab / norms, 0.0)
    columns = zip(aa.sqrt(), bb.sqrt(), distances, cosines, strict=True)
    for name, numbers, angles in zip(names, columns, _angles(ups, rank), strict=True):
        yield SiteDifference(name, *map(float, numbers), angles)


def _angles(ups: Tensor, rank: int) -> list[tuple[float, ...]]:
    """Principal angles between column spaces: the singular values of Q_aᵀ Q_b are cosines."""
    length = ups.diagonal(dim1=1, dim2=2).clamp_min(1e-60).rsqrt()
    ups = ups * length[:, :, None] * length[:, None, :]  # a weight does not turn a column
    one, other = _whitener(ups[:, :rank, :rank]), _whitener(ups[:, rank:, rank:])
    cosines = torch.linalg.svdvals(one @ ups[:, :rank, rank:] @ other.transpose(1, 2)).clamp(0, 1)
    counts = torch.minimum(*(w.any(-1).sum(-1) for w in (one, other)))
    angles = cosines.arccos().tolist()
    return [tuple(found[:count]) for found, count in zip(angles, counts.tolist(), strict=True)]


def _whitener(gram: Tensor) -> Tensor:
    """W with W G Wᵀ = I on the column space of G [sites, R, R], and zero rows for the rest."""
    values, vectors = torch.linalg.eigh(gram)
    kept = values > 1e-6 * values.amax(-1, keepdim=True)  # the others are float32's rounding
    return torch.where(kept, values.rsqrt(), 0.0)[:, :, None] * vectors.transpose(1, 2)
