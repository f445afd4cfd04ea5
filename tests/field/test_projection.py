"""Behaviour of the plane that shows cells apart."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from niwfctl.field.cell import Cell
from niwfctl.field.projection import COVERAGE, Ellipse, discriminant

SEEDS = st.integers(0, 2**31 - 1)


def cell(seed: int, dim: int) -> Cell:
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=random, dtype=torch.float64)
    z = torch.randn(80, dim, generator=random, dtype=torch.float64) @ mixing
    z += 3 * torch.randn(dim, generator=random, dtype=torch.float64)
    return Cell.fit(z[:60], z[60:])


def at(*mean: float, variances: tuple[float, ...]) -> Cell:
    factor = torch.tensor(variances, dtype=torch.float64).sqrt().diag()
    return Cell(torch.tensor(mean, dtype=torch.float64), factor, torch.tensor(1.0))


def cells(seed: int, count: int, dim: int) -> list[Cell]:
    return [cell(seed + index, dim) for index in range(count)]


def share_inside(points: Tensor, ellipse: Ellipse) -> float:
    x, y = (points - torch.tensor([ellipse.x, ellipse.y])).T
    cos, sin = math.cos(ellipse.angle), math.sin(ellipse.angle)
    along, across = (cos * x + sin * y) / ellipse.major, (cos * y - sin * x) / ellipse.minor
    return (along**2 + across**2 <= 1).double().mean().item()


@settings(deadline=None, max_examples=50)
@given(seed=SEEDS, count=st.integers(1, 6), dim=st.integers(2, 12), data=st.data())
def test_the_plane_does_not_depend_on_the_order_of_the_cells(
    seed: int, count: int, dim: int, data: st.DataObject
) -> None:
    there = cells(seed, count, dim)
    one, other = discriminant(there), discriminant(data.draw(st.permutations(there)))
    torch.testing.assert_close(one.axes, other.axes, atol=1e-6, rtol=1e-6)
    assert one.shown == pytest.approx(other.shown)


def test_equal_cells_are_shown_alike_every_time() -> None:
    one, other = (discriminant(cells(7, 4, 6)) for _ in range(2))
    assert torch.equal(one.axes, other.axes)
    assert one.ellipse(cell(7, 6)) == other.ellipse(cell(7, 6))


@settings(deadline=None, max_examples=25)
@given(seed=SEEDS, count=st.integers(1, 5), dim=st.integers(2, 12))
def test_an_ellipse_holds_its_share_of_the_gaussian(seed: int, count: int, dim: int) -> None:
    there = cells(seed, count, dim)
    plane, shown = discriminant(there), there[-1]
    random = torch.Generator().manual_seed(seed)
    drawn = torch.randn(8000, dim, generator=random, dtype=torch.float64)
    points = plane(shown.mean + drawn @ shown.factor.T)
    assert share_inside(points, plane.ellipse(shown)) == pytest.approx(COVERAGE, abs=0.015)


@settings(deadline=None, max_examples=50)
@given(seed=SEEDS, count=st.integers(1, 6), dim=st.integers(2, 12))
def test_in_the_plane_the_mean_cell_is_round(seed: int, count: int, dim: int) -> None:
    there = cells(seed, count, dim)
    axes = discriminant(there).axes
    mean = torch.stack([one.factor @ one.factor.T for one in there]).mean(0)
    torch.testing.assert_close(axes @ mean @ axes.T, torch.eye(2, dtype=torch.float64))


@settings(deadline=None, max_examples=50)
@given(seed=SEEDS, count=st.integers(3, 6), dim=st.integers(3, 12))
def test_no_other_plane_shows_the_cells_further_apart(seed: int, count: int, dim: int) -> None:
    there = cells(seed, count, dim)
    plane = discriminant(there)
    means = torch.stack([one.mean for one in there])
    within = torch.stack([one.factor @ one.factor.T for one in there]).mean(0)
    other = torch.randn(2, dim, generator=torch.Generator().manual_seed(seed)).double()
    other = torch.linalg.inv(torch.linalg.cholesky(other @ within @ other.T)) @ other

    def scatter(axes: Tensor) -> float:
        return float(((means - means.mean(0)) @ axes.T).square().sum())

    assert scatter(plane.axes) >= scatter(other)
    assert 0 < plane.shown <= 1 + 1e-12


def test_cells_that_differ_in_two_directions_are_shown_whole() -> None:
    there = [at(x, 0, y, 0, variances=(4, 1, 9, 1)) for x, y in ((0, 0), (8, 0), (0, 6))]
    plane = discriminant(there)
    base, east, north = (plane(one.mean) for one in there)
    assert base.tolist() == [0, 0] and plane.shown == pytest.approx(1)
    assert (east - base).norm() == pytest.approx(4) and (north - base).norm() == pytest.approx(2)


def test_where_fewer_than_three_cells_leave_a_direction_open_the_widest_is_shown() -> None:
    alone = discriminant([at(0, 0, 0, variances=(1, 4, 9))])
    assert alone.shown is None
    torch.testing.assert_close(alone.axes, torch.tensor([[0, 0, 1 / 3], [0, 0.5, 0]]).double())
    pair = discriminant([at(x, 0, 0, variances=(1, 4, 9)) for x in (0, 5)])
    assert pair.shown == pytest.approx(1)
    torch.testing.assert_close(pair.axes, torch.tensor([[1, 0, 0], [0, 0, 1 / 3]]).double())


def test_a_space_of_one_dimension_is_a_line() -> None:
    plane = discriminant([at(x, variances=(4,)) for x in (0, 2, 6)])
    assert plane(torch.tensor([[2.0], [6.0]])).tolist() == [[1, 0], [3, 0]]
    ellipse = plane.ellipse(at(6, variances=(4,)))
    assert (ellipse.x, ellipse.minor, ellipse.angle) == (3, 0, 0)


def test_an_outline_lies_on_its_ellipse() -> None:
    ellipse = Ellipse(1.0, -2.0, 3.0, 0.5, 0.7)
    points = torch.tensor(ellipse.outline(60))
    shrunk = Ellipse(1.0, -2.0, 2.999, 0.499, 0.7)
    grown = Ellipse(1.0, -2.0, 3.001, 0.501, 0.7)
    assert share_inside(points, grown) == 1 and share_inside(points, shrunk) == 0
