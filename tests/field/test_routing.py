"""Behaviour of routing scores and of the routing lock."""

import math
from dataclasses import replace
from decimal import Decimal, localcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from niwfctl.field.cell import Cell
from niwfctl.field.routing import (
    BASE,
    DISPUTABLE,
    Claim,
    lead,
    locked,
    needed_bias,
    needed_margin,
    owners,
    shadowed,
    upper_bound,
    won,
)

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
    bias = max(needed_bias(lead(new.cell, one), allowed) for one in earlier)
    lost = [won(replace(new, bias=bias), one) for one in earlier]
    assert all(one.sum() <= allowed * len(one) + 1e-9 for one in lost)
    if bias > 0:
        less = [won(replace(new, bias=bias - 1e-5), one) for one in earlier]
        assert any(one.sum() > allowed * len(one) for one in less)


@given(shift=st.floats(-2, 2), allowed=st.floats(0, 0.5), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_the_margin_leaves_the_base_its_anchors_and_is_the_smallest_that_does(
    shift: float, allowed: float, seed: int
) -> None:
    general, new = claim(seed, 0.0), claim(seed + 1, shift)
    base, scores = Cell.cross_fit(general.anchors)
    leads = new.cell.log_density(general.anchors) - scores
    margin = needed_margin(new.cell, general.anchors, scores, allowed)
    assert (leads > margin).sum() <= allowed * len(leads) + 1e-9
    if margin > 0:
        assert (leads > margin - 1e-5).sum() > allowed * len(leads)
    z = general.anchors
    bidding = owners(z, base, [replace(new, margin=margin)]) != BASE
    assert not bidding[new.cell.log_density(z) - base.log_density(z) <= margin].any()


@given(shift=st.floats(-3, 3), seed=st.integers(0, 99), count=st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_disputed_anchors_stay_with_their_owner_wherever_they_lie(
    shift: float, seed: int, count: int
) -> None:
    old, new = claim(seed, 0.0), claim(seed + 1, shift)
    shared = torch.cat([old.anchors[:count], new.anchors[:3]])  # even an anchor that both have
    ceding = replace(new, disputed=shared)
    assert ceding.ceded(shared).all()
    assert not won(ceding, replace(old, anchors=shared)).any()
    assert 0 <= ceding.ceded_share() <= 1 and new.ceded_share() == 0


@given(
    shifts=st.lists(st.floats(-2, 2), min_size=2, max_size=4),
    allowed=st.floats(0, 0.05),
    seed=st.integers(0, 99),
    size=st.integers(1, 150),
)
@settings(max_examples=60, deadline=None)
def test_a_locked_claim_takes_over_no_more_than_it_may_and_disputes_few_anchors(
    shifts: list[float], allowed: float, seed: int, size: int
) -> None:
    *earlier, new = [claim(seed + index, shift) for index, shift in enumerate(shifts)]
    earlier = [replace(one, anchors=one.anchors[:size]) for one in earlier]
    found, disputed = locked(new, earlier, allowed)
    assert found.bias <= max(needed_bias(lead(new.cell, one), allowed) for one in earlier)
    for one, indices in zip(earlier, disputed, strict=True):
        assert won(found, one).sum() <= allowed * size + 1e-9
        assert (
            len(indices) <= max(DISPUTABLE * size, 1) and not won(found, one)[list(indices)].any()
        )


WIDE = 64  # dimensions, in which few coordinates look closer to the cell fitted to them than others


@pytest.fixture(params=range(3))
def neighbours(request: pytest.FixtureRequest) -> tuple[Claim, Claim, Tensor, Tensor]:
    """Two claims that overlap, and new coordinates of the kind of each, [4000, WIDE]."""
    random = torch.Generator().manual_seed(request.param)
    made = []
    for shift, spread in ((0.0, 1.0), (0.15, 1.2)):
        z = torch.randn(4400, WIDE, generator=random, dtype=torch.float64) * spread + shift
        fresh = Cell.cross_fit(z[:150], 20, freedom=None)[1]
        made.append((Claim(Cell.fit(z[:150], z[150:170]), 0.0, z[:150], fresh=fresh), z[400:]))
    (old, of_old), (new, of_new) = made
    return old, new, of_old, of_new


def test_the_bound_on_takeover_holds_for_new_prompts_of_the_earlier_kind(
    neighbours: tuple[Claim, Claim, Tensor, Tensor],
) -> None:
    old, new, of_old, _ = neighbours

    def stated_and_true(old: Claim) -> tuple[float, float]:
        later, _ = locked(new, [old], 0.02)
        hits = won(later, old)
        base = replace(old.cell, mean=old.cell.mean + 1e3)
        true = (owners(of_old, base, [old, later]) == 1).double().mean()
        return upper_bound(int(hits.sum()), len(hits)), float(true)

    stated, true = stated_and_true(old)
    assert true <= stated
    stated, true = stated_and_true(replace(old, fresh=None))
    assert true > stated  # it would not, if anchors were looked at by the cell fitted to them


def test_the_shadow_tells_how_many_new_prompts_others_own(
    neighbours: tuple[Claim, Claim, Tensor, Tensor],
) -> None:
    old, new, _, of_new = neighbours
    later, _ = locked(new, [old], 0.02)
    base = replace(old.cell, mean=old.cell.mean + 1e3)
    true = float((owners(of_new, base, [old, later]) != 1).double().mean())

    def told(claim: Claim) -> float:
        return float((shadowed(claim, [old], base) != 1).double().mean())

    assert abs(told(later) - true) < 0.1
    assert true - told(replace(later, fresh=None)) > 0.3


def test_the_loss_counts_each_of_its_own_anchors_as_if_it_were_new() -> None:
    cell = Cell(torch.zeros(1).double(), torch.eye(1).double(), torch.tensor(9.0).double())
    own = torch.tensor([[0.0], [1.0], [4.0], [5.0]]).double()
    # 4 has a neighbour of its own at 1, and the disputed anchor at 0.5; so have 0 and 1
    assert Claim(cell, 0.0, own, disputed=torch.tensor([[0.5]]).double()).ceded_share() == 0.5


def test_a_general_claim_gets_the_cell_of_the_base_and_nothing_of_earlier_claims() -> None:
    base, old, broad = claim(0, 0.0).cell, claim(1, 1.5), claim(2, 4.0)
    z = torch.randn(500, DIM, generator=torch.Generator().manual_seed(5)).double() * 3
    plain = owners(z, base, [old, broad])
    general = owners(z, base, [old, replace(broad, general=True)])
    bases = (plain == BASE) & base.contains(z)
    assert bases.any() and (general[bases] == 1).all()
    assert (general[~bases] == plain[~bases]).all()
    assert {0, 1, BASE} == set(general.tolist())  # outside every cell the base is bare
    later = [old, replace(broad, general=True), replace(claim(3, 4.0), general=True)]
    assert (owners(z, base, later)[bases] == 1).all()


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


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_the_bound_is_exact_for_however_many_trials(data: st.DataObject) -> None:
    trials = data.draw(st.integers(900, 5000))
    hits = data.draw(st.integers(0, trials - 1))
    bound = upper_bound(hits, trials)
    with localcontext(prec=40):
        rate = Decimal(bound)
        term = tail = (1 - rate) ** trials
        for i in range(hits):
            term *= (trials - i) * rate / ((i + 1) * (1 - rate))
            tail += term
    assert float(tail) == pytest.approx(0.05, rel=1e-7)


@pytest.mark.parametrize(
    ("hits", "trials", "bound"),
    [
        (0, 16, 0.1707497229824817),
        (20, 988, 0.02927987670028039),
        (500, 988, 0.532702847028228),
        (10, 5000, 0.0033900819812554064),
    ],
)
def test_the_bound_is_what_manifests_hold(hits: int, trials: int, bound: float) -> None:
    assert upper_bound(hits, trials) == pytest.approx(bound, rel=2e-15)
