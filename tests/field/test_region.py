"""Behaviour of cells, generators and sealed regions."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from regions import make_region

from niwfctl.field.basis import Basis
from niwfctl.field.cell import SLACK, Cell
from niwfctl.field.coordinates import CoordinateMap, pool
from niwfctl.field.generator import Generator
from niwfctl.field.region import Region


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31 - 1))
def test_a_region_read_back_from_its_tensors_has_the_same_bits(seed: int) -> None:
    region = make_region(seed)
    bases = tuple(Basis.from_tensors(basis.tensors()) for basis in region.bases)
    again = Region.from_tensors(region.tensors(), bases, region.scale, region.layers)
    z = torch.randn(50, 4)
    assert torch.equal(again.gates(z), region.gates(z))
    for (name, left), (other, right) in zip(
        region.weight_changes(z[0]), again.weight_changes(z[0]), strict=True
    ):
        assert name == other
        assert torch.equal(left, right)


def test_a_sealed_region_asks_for_no_gradient() -> None:
    region = make_region(0)
    assert not any(parameter.requires_grad for parameter in region.generator.parameters())


def test_an_untouched_region_has_no_differing_anchor() -> None:
    assert make_region(1).differing_anchors() == []


def test_a_changed_generator_is_named_by_anchor_and_layer() -> None:
    region = make_region(1)
    tampered = region.snapshot.clone()
    tampered[17, 1, 0] += 1e-6
    changed = dataclasses.replace(region, snapshot=tampered)
    assert changed.differing_anchors() == [(17, 3)]


def test_a_gate_that_is_not_a_number_differs() -> None:
    region = make_region(1)
    tampered = region.snapshot.clone()
    tampered[0, 0, 0] = float("nan")
    assert dataclasses.replace(region, snapshot=tampered).differing_anchors(1.0) == [(0, 2)]


def test_weight_changes_are_the_gated_sum_of_the_bases() -> None:
    region = make_region(3)
    z = torch.randn(4)
    gates = region.gates(z)
    for name, change in region.weight_changes(z):
        layer = region.layers.index(int(name.split(".")[1]))
        expected = torch.zeros(10, 6)
        for index, basis in enumerate(region.bases):
            expected += 2.0 * gates[layer, index] * basis.up[name] @ basis.down[name]
        torch.testing.assert_close(change, expected)


def test_a_fresh_generator_opens_every_gate_to_exactly_one() -> None:
    generator = Generator(dim=4, layers=3, bases=2)
    assert torch.equal(generator(torch.randn(9, 4)), torch.ones(9, 3, 2))


def test_every_sampled_anchor_lies_in_the_cell() -> None:
    region = make_region(5)
    assert region.cell.contains(region.sampled).all()


def test_a_cell_holds_the_promised_share_of_new_coordinates() -> None:
    random = torch.Generator().manual_seed(0)
    mixing = torch.randn(8, 8, generator=random)
    z = torch.randn(4000, 8, generator=random) @ mixing
    cell = Cell.fit(z[:500], z[500:1000], coverage=0.9)
    within = cell.distance(z[1000:]) <= cell.radius / SLACK
    assert 0.87 < within.double().mean() < 0.93
    assert cell.contains(z[1000:]).double().mean() > 0.93


def test_a_cell_of_prompts_that_are_all_alike_holds_them_however_they_are_rounded() -> None:
    z = torch.randn(1, 128).expand(40, 128)
    cell = Cell.fit(z[:30], z[30:])
    assert cell.contains(z + torch.randn(40, 128) * 3e-3).all()
    assert not cell.contains(z + torch.randn(40, 128) * 0.2).any()


def test_the_density_of_heavy_tails_sums_to_one_has_its_covariance_and_falls_slower() -> None:
    sigma = torch.tensor([[2.0]]).double()
    gaussian = Cell(torch.ones(1).double(), sigma, torch.tensor(9.0).double())
    heavy = dataclasses.replace(gaussian, freedom=torch.tensor(5.0).double())
    z = torch.linspace(-400, 400, 400_001, dtype=torch.float64)[:, None]
    for cell in (gaussian, heavy):
        density = cell.log_density(z).exp() * (z[1] - z[0])
        assert density.sum() == pytest.approx(1, abs=1e-4)
        assert ((z[:, 0] - 1).square() * density).sum() == pytest.approx(4, rel=1e-3)
        assert torch.equal(Cell.from_tensors(cell.tensors()).log_density(z), cell.log_density(z))
    far = torch.tensor([[30.0]]).double()
    assert heavy.log_density(far) > gaussian.log_density(far) + 50


def test_a_cross_fitted_score_is_that_of_a_cell_which_has_not_seen_the_coordinate() -> None:
    z = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    cell, scores = Cell.cross_fit(z)
    z[0] += 100
    moved, others = Cell.cross_fit(z)
    fold = torch.arange(40) % 5 == 0  # the one that moved is seen by all cells but this fold's
    assert torch.equal(others[fold][1:], scores[fold][1:]) and others[0] < scores[0]
    assert (others[~fold] != scores[~fold]).all()
    assert cell.contains(z[1:]).all() and moved.radius > cell.radius


def test_a_cell_has_the_density_of_its_gaussian() -> None:
    z = torch.randn(60, 3, dtype=torch.float64)
    cell = Cell.fit(z[:40], z[40:])
    gaussian = torch.distributions.MultivariateNormal(cell.mean, scale_tril=cell.factor)
    torch.testing.assert_close(cell.log_density(z), gaussian.log_prob(z))


def test_the_coordinate_map_whitens_its_calibration_states() -> None:
    states = torch.randn(200, 16) @ torch.randn(16, 16)
    z = CoordinateMap.fit(states, dim=6)(states)
    torch.testing.assert_close(torch.cov(z.T), torch.eye(6), atol=1e-3, rtol=0)


def test_a_dimension_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="dim must be 1 to 9"):
        CoordinateMap.fit(torch.randn(10, 16), dim=10)


def test_pooling_ignores_tokens_outside_the_mask() -> None:
    states = torch.randn(2, 5, 4)
    mask = torch.tensor([[0, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    pooled = pool(states, mask)
    torch.testing.assert_close(pooled[0], states[0, 1:3].mean(0))
    torch.testing.assert_close(pooled[1], states[1].mean(0))


def test_a_generators_shapes_are_compared_before_anything_is_allocated() -> None:
    shapes = {"inner.weight": (1 << 50, 0), "inner.bias": (0,), "outer.weight": (0, 0)}
    claims = {key: torch.empty(shape) for key, shape in (shapes | {"outer.bias": (0,)}).items()}
    with pytest.raises(ValueError, match="shapes that are not those of a generator"):
        Generator.from_tensors(claims, layers=1)  # not that 4 PB cannot be allocated


def test_a_sealed_region_that_is_loaded_draws_nothing_that_a_program_would() -> None:
    region = make_region(seed=1)
    before = torch.get_rng_state()
    again = Region.from_tensors(region.tensors(), region.bases, region.scale, region.layers)
    constant = Generator.constant(4, 2, 1)
    assert torch.equal(torch.get_rng_state(), before)
    z = torch.randn(5, 4)
    assert torch.equal(again.gates(z), region.gates(z))
    assert torch.equal(constant(z), torch.ones(5, 2, 1))
