"""How long a batch goes on before others join it."""

from collections.abc import Callable

import pytest

from niwfctl.serve import jobs
from niwfctl.serve.jobs import LEAST_STEPS, Turn


class Clock:
    """Seconds that pass only when told."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """How many steps a batch makes, given seconds of the first, of the others, and who waits."""
    clock = Clock()
    monkeypatch.setattr(jobs, "time", clock)

    def count(first: float, later: float, waits_from: int) -> int:
        done = 0
        turn = Turn(lambda: done >= waits_from)
        while True:
            clock.now += later if done else first
            done += 1
            if turn():
                return done

    return count


def test_others_join_at_the_next_step_of_a_batch_that_went_on_for_long(
    steps: Callable[..., int],
) -> None:
    assert steps(0.1, 0.1, waits_from=100) == 100


def test_a_batch_that_has_just_begun_makes_a_few_steps_first(steps: Callable[..., int]) -> None:
    assert steps(0.1, 0.1, waits_from=0) == LEAST_STEPS


def test_a_batch_that_was_long_in_reading_goes_on_for_longer(steps: Callable[..., int]) -> None:
    assert steps(10.0, 0.5, waits_from=0) == pytest.approx(1 + 20 / 0.5, abs=1)
