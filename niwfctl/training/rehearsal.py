"""The memory that a training will need, taken before it begins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from niwfctl.backbone.batch import batched
from niwfctl.backbone.prompts import Tokens
from niwfctl.backbone.sites import width
from niwfctl.errors import MemoryFull, of_memory
from niwfctl.training.optimizer import moments_to_come

if TYPE_CHECKING:
    from niwfctl.training.loop import Trainer


def rehearse(trainer: Trainer) -> list[Tokens]:
    """Computes the gradients of the largest batch to come, and forgets them.

    Beside them lies what will lie there in training: the gradients of a step's earlier batches, and
    the optimizer's moments. So memory that does not suffice runs out at once, not in the night.

    Returns:
        That batch.

    Raises:
        MemoryFull: memory does not suffice.
    """
    run, size = trainer.run, trainer.options.batch_size
    steps = map(trainer.rows_of, range(run.step, run.steps))
    batches = (
        [trainer.training[index] for index in batch]
        for rows in steps
        for batch in batched(trainer.processes.share(rows), size)
    )
    largest = max(batches, key=lambda rows: _bytes(trainer, rows))
    trainer.adapter.active = trainer.field()
    with _told(largest), _as_in_training(trainer):
        trainer.scorer.loss(largest)[0].backward()
    return largest


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


@contextmanager
def _told(rows: list[Tokens]) -> Iterator[None]:
    """A block in which too little memory is told with the size of a batch."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not of_memory(error):
            raise
        raise MemoryFull(
            f"there is too little memory for the largest batch of this training, {len(rows)} rows "
            f"of {max(map(len, rows))} tokens: train with a smaller --batch-size and more "
            "--grad-accum, with --gradient-checkpointing (--resume takes these, too), or with a "
            "lower --max-length, or stop other programs that use the memory"
        ) from error


def _bytes(trainer: Trainer, rows: list[Tokens]) -> int:
    """About what a batch takes at its peak: enough to tell which of two batches takes more.

    That is what layers keep of every token, padding included, and beside it the logits of the
    answers; or, where layers compute again for the gradient, what one of them keeps meanwhile.
    """
    adapter = trainer.adapter
    itemsize, layers = adapter.model.dtype.itemsize, len(adapter.layers)
    kept = itemsize * sum(site.in_features + site.out_features for site in adapter.sites)
    again = 0
    if trainer.options.gradient_checkpointing:
        kept, again = itemsize * width(adapter.model) * layers, kept // layers
    tokens = len(rows) * max(map(len, rows))
    answers = sum(len(row.answer) for row in rows)
    return tokens * kept + max(tokens * again, trainer.scorer.bytes_of_logits(answers))
