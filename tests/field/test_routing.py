"""Behaviour of routing scores and of the routing lock."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from niwfctl.field.cell import Cell
from niwfctl.field.routing import BASE, Claim, needed_bias, owners, takeover, upper_bound

DIM = 3


def claim(seed: int, shift: float, bias: float = 0.0) -> Claim:
    random = torch.Generator().manual_seed(seed)
    z = torch.randn(200, DIM, generator=random, dtype=torch.float64) + shift
    return Claim(Cell.fit(z[:150], z[150:]), bias, z[:150])


@given(
    shifts=st.lists(st.floats(-2, 2), min_size=2, max_size=4),
    allowed=st.floats(0, 0.5),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_the_bias_keeps_takeover_of_everyone_within_the_limit_and_is_the_smallest_that_does(
    shifts: list[float], allowed: float, seed: int
) -> None:
    *earlier, new = [claim(seed + index, shift) for index, shift in enumerate(shifts)]
    bias = needed_bias(new.cell, earlier, allowed)
    counts = [takeover(Claim(new.cell, bias, new.anchors), one) for one in earlier]
    assert all(won <= allowed * anchors + 1e-9 for won, anchors in counts)
    if bias > 0:
        less = Claim(new.cell, bias - 1e-6, new.anchors)
        assert any(won > allowed * anchors for won, anchors in (takeover(less, o) for o in earlier))


def test_far_from_every_cell_the_base_owns() -> None:
    base, one = claim(0, 0.0).cell, claim(1, 5.0)
    far = torch.full((1, DIM), 100.0)
    assert owners(far, base, [one]).tolist() == [BASE]
    assert owners(one.cell.mean[None], base, [one]).tolist() == [0]
    assert owners(base.mean[None], base, [one]).tolist() == [BASE]


def test_a_bias_yields_ground_to_the_neighbour() -> None:
    base = claim(0, -50.0).cell
    old, new = claim(1, 0.0), claim(2, 0.5)
    between = (old.cell.mean + new.cell.mean)[None] / 2 + 0.05
    assert owners(between, base, [old, new]).tolist() == [1]
    assert owners(between, base, [old, Claim(new.cell, 3.0, new.anchors)]).tolist() == [0]


@pytest.mark.parametrize(
    ("hits", "trials", "bound"), [(0, 100, 0.0295), (2, 100, 0.0616), (10, 512, 0.0329), (5, 5, 1)]
)
def test_the_bound_is_the_exact_binomial_one(hits: int, trials: int, bound: float) -> None:
    found = upper_bound(hits, trials)
    assert found == pytest.approx(bound, abs=2e-4)
    if hits < trials:
        tail = sum(
            math.comb(trials, i) * found**i * (1 - found) ** (trials - i) for i in range(hits + 1)
        )
        assert tail == pytest.approx(0.05, abs=1e-6)
