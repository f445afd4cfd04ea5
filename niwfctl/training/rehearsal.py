"""The memory that a training will need, taken before it begins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from niwfctl.backbone.batch import batched
from niwfctl.backbone.prompts import Tokens
from niwfctl.training.optimizer import moments_to_come

if TYPE_CHECKING:
    from niwfctl.training.loop import Trainer


def rehearse(trainer: Trainer) -> int:
    """Computes the gradients of the largest batch to come, and forgets them.

    Beside them lies what will lie there in training: the gradients of a step's earlier batches, and
    the optimizer's moments. So memory that does not suffice runs out at once, not in the night.

    Returns:
        Size of that batch in tokens, with padding.
    """
    run, size = trainer.run, trainer.options.batch_size
    steps = map(trainer.rows_of, range(run.step, run.steps))
    batches = (
        [trainer.training[index] for index in batch]
        for rows in steps
        for batch in batched(trainer.processes.share(rows), size)
    )
    largest = max(batches, key=_padded)
    trainer.adapter.active = trainer.field()
    with _as_in_training(trainer):
        trainer.scorer.loss(largest)[0].backward()
    return _padded(largest)


@contextmanager
def _as_in_training(trainer: Trainer) -> Iterator[None]:
    moments = moments_to_come(trainer.options.optimizer, trainer.optimizer)
    if (
        len(trainer.processes.share(range(trainer.options.rows_a_step)))
        > trainer.options.batch_size
    ):
        for parameter in trainer.parameters():
            parameter.grad = torch.zeros_like(parameter)
    try:
        yield
    finally:
        trainer.optimizer.zero_grad()
        moments.clear()


def _padded(rows: list[Tokens]) -> int:
    return len(rows) * max(map(len, rows))
