"""The learning rate that a backbone gets when none is given."""

import pytest

from niwfctl.training.run import TrainingOptions, default_rate, generator_share


@pytest.mark.parametrize(
    ("width", "rate"), [(4096, 2e-4), (8192, 1e-4), (576, 1.42e-3), (64, 3e-3)]
)
def test_the_rate_is_inverse_to_the_width_up_to_a_largest(width: int, rate: float) -> None:
    assert default_rate(width) == rate


def test_a_given_rate_is_kept_at_any_width() -> None:
    given = TrainingOptions(lr=0.01)
    assert given.for_width(4096) == given
    assert TrainingOptions().for_width(4096).lr == 2e-4


@pytest.mark.parametrize("width", [64, 576, 4096])
def test_generators_learn_equally_fast_on_every_backbone(width: int) -> None:
    rate = TrainingOptions().for_width(width).lr * generator_share(width)
    assert rate == pytest.approx(7.1e-4)
