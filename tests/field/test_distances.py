"""Distances from factors and anchors, against full matrices and the definitions."""

import dataclasses
import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from regions import make_region

from niwfctl.field.basis import Basis
from niwfctl.field.cell import Cell
from niwfctl.field.distances import bhattacharyya, neighbourhood, site_differences
from niwfctl.field.frozen import FrozenSum
from niwfctl.field.region import Region
from niwfctl.field.routing import Claim

seeds = st.integers(0, 2**31 - 1)


def full(region: Region) -> dict[str, torch.Tensor]:
    """ΔW at the mean of the cell, as matrices in double precision."""
    return {name: change.double() for name, change in region.weight_changes(region.cell.mean)}


def at_mean(region: Region) -> FrozenSum:
    return FrozenSum.at_means([(1.0, region)])


def column_space(matrix: torch.Tensor) -> torch.Tensor:
    left, values, _ = torch.linalg.svd(matrix, full_matrices=False)
    return left[:, values > values[0] * 1e-5]


@settings(deadline=None, max_examples=30)
@given(seeds, seeds, st.integers(1, 3), st.integers(1, 2))
def test_differences_from_factors_are_those_of_the_full_matrices(
    one: int, other: int, rank: int, bases: int
) -> None:
    a, b = make_region(one, rank, bases), make_region(other)
    left, right = full(a), full(b)
    found = site_differences(at_mean(a), at_mean(b))
    assert [site.site for site in found] == list(left)
    for site in found:
        x, y = left[site.site], right[site.site]
        scale = float(x.norm() * y.norm())
        assert math.isclose(site.norm_a, x.norm(), rel_tol=1e-4)
        assert math.isclose(site.norm_b, y.norm(), rel_tol=1e-4)
        assert abs(site.distance**2 - float((x - y).square().sum())) < 1e-4 * scale
        assert abs(site.cosine - float((x * y).sum()) / scale) < 1e-4
        cosines = torch.linalg.svdvals(column_space(x).T @ column_space(y)).clamp(0, 1)
        assert len(site.angles) == len(cosines)
        for angle, cosine in zip(site.angles, cosines, strict=True):
            assert abs(math.cos(angle) - float(cosine)) < 1e-3


def test_a_region_is_at_no_distance_from_itself_and_at_no_angle() -> None:
    region = make_region(1)
    for site in site_differences(at_mean(region), at_mean(region)):
        assert site.distance < 1e-3 * site.norm_a and abs(site.cosine - 1) < 1e-6
        assert max(site.angles) < 1e-2


def test_no_full_matrix_is_formed() -> None:
    wide = 2_000_000  # a matrix of that many rows and columns has 16 terabytes
    sums = []
    for seed in (0, 1):
        region = make_region(seed, rank=1, bases=1)
        random = torch.Generator().manual_seed(seed)
        basis = Basis(
            {"layers.2.x": torch.randn(1, wide, generator=random)},
            {"layers.2.x": torch.randn(wide, 1, generator=random)},
        )
        sums.append(at_mean(dataclasses.replace(region, bases=(basis,))))
    (site,) = site_differences(*sums)
    assert abs(site.cosine) < 0.01 and abs(site.relative - 1) < 0.01


def gaussian(mean: float, deviation: float, dim: int = 3) -> Cell:
    factor = torch.eye(dim, dtype=torch.float64) * deviation
    return Cell(torch.full((dim,), mean, dtype=torch.float64), factor, torch.tensor(2.0).double())


def test_the_distance_of_gaussians_is_bhattacharyyas() -> None:
    a, b = gaussian(0.0, 1.0), gaussian(2.0, 3.0)
    variance = (1 + 9) / 2
    expected = 3 * (2**2 / variance / 8 + 0.5 * math.log(variance / 3))
    assert math.isclose(bhattacharyya(a, b), expected, rel_tol=1e-9)
    assert bhattacharyya(a, b) == bhattacharyya(b, a)
    assert abs(bhattacharyya(a, a)) < 1e-12


def test_overlap_and_takeover_are_counted_at_anchors_with_the_biases_of_routing() -> None:
    anchors = torch.tensor([[0.0] * 3, [0.1] * 3, [5.0] * 3], dtype=torch.float64)
    wide = Claim(gaussian(0.0, 10.0), 0.0, anchors)
    narrow = Claim(gaussian(0.0, 1.0), 0.0, anchors[:2])
    place = neighbourhood(wide, narrow)
    assert (place.a_in_b, place.b_in_a) == (2 / 3, 1.0)
    assert (place.a_taken, place.b_taken) == (2 / 3, 0.0)
    held_back = Claim(narrow.cell, 50.0, narrow.anchors)
    assert neighbourhood(wide, held_back).a_taken == 0.0
    assert neighbourhood(wide, held_back).b_taken == 1.0


def test_regions_of_the_same_anchors_are_compared_as_both_cells_have_seen_them() -> None:
    anchors = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)).double()
    fresh = Cell.cross_fit(anchors, 20, freedom=None)[1]
    one = Claim(Cell.fit(anchors, anchors), 0.0, anchors, fresh=fresh)
    place = neighbourhood(one, dataclasses.replace(one))
    assert (place.a_taken, place.b_taken) == (0.0, 0.0)
