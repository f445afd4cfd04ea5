"""One loss and one training loop for every method that is not niwfctl's own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from niwfctl.backbone.batch import batched, pad
from niwfctl.backbone.prompts import Tokens
from niwfctl.training.optimizer import LARGEST_GRADIENT, learning_rate
from niwfctl.training.run import TrainingOptions
from rivals.protocol import Answers

SCORED_AT_ONCE = 8


def order(step: int, count: int, options: TrainingOptions) -> list[int]:
    """The rows of a step: those that niwfctl's own trainer takes, in its order."""
    size = options.batch_size
    places = range(step * size, (step + 1) * size)
    orders = {
        epoch: torch.randperm(count, generator=torch.Generator().manual_seed(options.seed + epoch))
        for epoch in {place // count for place in places}
    }
    return [int(orders[place // count][place % count]) for place in places]


def seen(rows: Sequence[Tokens], options: TrainingOptions) -> list[Tokens]:
    """The rows that a training reads, each once."""
    steps = range(options.steps)
    return [rows[i] for i in dict.fromkeys(i for s in steps for i in order(s, len(rows), options))]


def train(
    rows: Sequence[Tokens],
    parameters: Sequence[Tensor] | Sequence[dict],
    options: TrainingOptions,
    loss: Callable[[list[Tokens]], Tensor],
    before_step: Callable[[], None] = lambda: None,
    after_step: Callable[[], None] = lambda: None,
) -> float:
    """Optimizes parameters with AdamW, as niwfctl's trainer does; returns the seconds it took.

    Args:
        parameters: or groups of them, each with a `share` of the learning rate.
        loss: of a batch, to be minimized.
        before_step: called when a batch's gradients are ready.
        after_step: called when the parameters have changed.
    """
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.0)
    trained = [tensor for group in optimizer.param_groups for tensor in group["params"]]
    started = time.perf_counter()
    for step in range(options.steps):
        loss([rows[index] for index in order(step, len(rows), options)]).backward()
        before_step()
        torch.nn.utils.clip_grad_norm_(trained, LARGEST_GRADIENT)
        rate = learning_rate(step, options.steps, options.lr, options.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("share", 1.0)
        optimizer.step()
        optimizer.zero_grad()
        after_step()
    return time.perf_counter() - started


def mean_nats(model: nn.Module, rows: Sequence[Tokens]) -> Tensor:
    """Mean negative log-likelihood of the answers' tokens, nats; keeps the graph."""
    nats, _, _ = _answered(model, rows)
    return nats.mean()


@torch.no_grad()
def answers_of(model: nn.Module, rows: Sequence[Tokens]) -> Answers:
    """How a model answers rows, each batch in one pass.

    Greedy decoding gives exactly the answer if and only if every token of the answer is the
    likeliest after those before it, so nothing needs to be decoded.
    """
    found = Answers.empty(len(rows))
    longest_last = sorted(range(len(rows)), key=lambda index: len(rows[index]))  # less padding
    for places in batched(longest_last, SCORED_AT_ONCE):
        batch = [rows[index] for index in places]
        nats, right, row_of = _answered(model, batch)
        tokens = torch.bincount(row_of, minlength=len(batch))
        summed = torch.zeros(len(batch)).index_add_(0, row_of, nats.cpu())
        hits = torch.zeros(len(batch), dtype=torch.long).index_add_(0, row_of, right.cpu().long())
        found.put(places, Answers(summed, tokens, hits == tokens))
    return found


def _answered(model: nn.Module, rows: Sequence[Tokens]) -> tuple[Tensor, Tensor, Tensor]:
    """(nats, whether it is the likeliest, row) of every answer token.

    The vocabulary is large and answers are short, so the output layer is applied where an answer
    token is predicted, and nowhere else: for every method alike.
    """
    tokens = pad([row.prompt + row.answer for row in rows]).to(model.device)
    states = model.get_decoder()(tokens, use_cache=False).last_hidden_state
    row_of = torch.tensor([i for i, row in enumerate(rows) for _ in row.answer])
    position = torch.tensor([p for row in rows for p in range(len(row.prompt), len(row))])
    logits = model.get_output_embeddings()(states[row_of, position - 1]).float()
    targets = tokens[row_of, position]
    nats = nn.functional.cross_entropy(logits, targets, reduction="none")
    return nats, logits.argmax(-1) == targets, row_of
