"""The measures of continual learning, against matrices worked out by hand and the formulas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from niwfctl.continual import Transfer, transfer

SCORES = st.floats(-10, 10)


def test_a_matrix_worked_out_by_hand() -> None:
    scores = [
        [0.90, 0.20, 0.10],
        [0.95, 0.80, 0.30],
        [0.60, 0.70, 0.90],
    ]
    found = transfer(scores, [0, 1, 2], [0.10, 0.15, 0.20])
    assert found.average == pytest.approx((0.60 + 0.70 + 0.90) / 3)
    assert found.backward == pytest.approx((-0.30 - 0.10) / 2)
    assert found.forgetting == pytest.approx((0.35 + 0.10) / 2)
    assert found.forward == pytest.approx((0.05 + 0.10) / 2)


def test_commits_that_learn_several_tasks_or_none() -> None:
    scores = [
        [0.5, 0.6, 0.1, 0.3],
        [0.5, 0.4, 0.2, 0.3],
        [0.4, 0.6, 0.8, 0.3],
        [0.3, 0.6, 0.7, 0.3],
    ]
    found = transfer(scores, [0, 0, 2, None], [0.0, 0.0, 0.0, 0.3])
    assert found.average == pytest.approx((0.3 + 0.6 + 0.7) / 3)
    assert found.backward == pytest.approx((-0.2 + 0.0 - 0.1) / 3)
    assert found.forgetting == pytest.approx((0.2 + 0.0 + 0.1) / 3)
    assert found.forward == pytest.approx(0.2)


def test_what_cannot_be_said_is_none() -> None:
    assert transfer([[0.5]], [0], [0.1]) == Transfer(0.5, None, None, None)
    assert transfer([[0.5]], [None], [0.1]) == Transfer(None, None, None, None)


@given(st.data(), st.integers(2, 6))
def test_one_task_a_commit_gives_the_formulas_of_the_literature(
    data: st.DataObject, count: int
) -> None:
    r = data.draw(arrays(float, (count, count), elements=SCORES))
    b = data.draw(arrays(float, count, elements=SCORES))
    found = transfer(r.tolist(), list(range(count)), b.tolist())
    last, others = count - 1, range(count - 1)
    assert found.average == pytest.approx(sum(r[last]) / count)
    assert found.backward == pytest.approx(sum(r[last, j] - r[j, j] for j in others) / last)
    lost = sum(np.max(r[:last, j]) - r[last, j] for j in others)
    assert found.forgetting == pytest.approx(lost / last)
    ahead = sum(r[j - 1, j] - b[j] for j in range(1, count))
    assert found.forward == pytest.approx(ahead / last)
