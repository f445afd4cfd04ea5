"""Measures of continual learning over a matrix of scores, as the literature defines them.

R[i][j] is the score on task j after row i of the history; higher is better. The literature learns
task j in row j. Here a commit may add several capabilities or none, so the row that learnt each
task is given; if every commit adds one, the formulas are exactly the literature's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True)
class Transfer:
    """What learning the tasks one after another did; None if no task counts.

    Attributes:
        average: R in the last row, averaged over the tasks.
        backward: R in the last row minus R in the row that learnt the task, averaged over the tasks
            learnt before the last row. Negative: what was learnt got worse.
        forgetting: the best R of any row before the last minus R in the last row, averaged over
            the same tasks. Positive: some of the best is lost.
        forward: R in the row before the one that learnt the task minus the untrained model's
            score, averaged over the tasks learnt after the first row. Positive: what was learnt
            earlier helps.
    """

    average: float | None
    backward: float | None
    forgetting: float | None
    forward: float | None


def transfer(
    scores: Sequence[Sequence[float]], learnt: Sequence[int | None], untrained: Sequence[float]
) -> Transfer:
    """The four measures of a matrix.

    Args:
        scores: R, at least one row, with one score per task.
        learnt: index of the row that learnt each task; None for one that no row learnt, which
            counts in none of the measures.
        untrained: score of the untrained model on each task.
    """
    last = len(scores) - 1
    rows = [(task, row) for task, row in enumerate(learnt) if row is not None]
    before = [(task, row) for task, row in rows if row < last]
    final = scores[last]
    return Transfer(
        average=_mean(final[task] for task, _ in rows),
        backward=_mean(final[task] - scores[row][task] for task, row in before),
        forgetting=_mean(
            max(row[task] for row in scores[:last]) - final[task] for task, _ in before
        ),
        forward=_mean(scores[row - 1][task] - untrained[task] for task, row in rows if row > 0),
    )


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return fmean(found) if found else None
