"""Loss and perplexity on answer tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PretrainedConfig

from niwfctl.backbone.adapter import FieldAdapter
from niwfctl.backbone.batch import by_length, on, pad, prompt_mask
from niwfctl.backbone.prompts import Tokens
from niwfctl.errors import BackboneError, DataError

LOGITS = 2**26  # computed at once: 256 MiB in float32


@dataclass(frozen=True)
class Score:
    """Held-out quality.

    Attributes:
        perplexity: exp of the mean negative log-likelihood of the answer tokens.
        tokens: number of answer tokens in that mean.
        coordinates: z of each row, float32 [rows, dim], in the order of the rows.
        losses: negative log-likelihood of each row's answer, summed over its tokens, in nats,
            float64 [rows], in the order of the rows; 0 where there is no answer.
        lengths: number of tokens of each row's answer, int64 [rows].
    """

    perplexity: float
    tokens: int
    coordinates: Tensor
    losses: Tensor
    lengths: Tensor


class Scorer:
    """Scores answers with whatever field is active in an adapter.

    The vocabulary is large and answers are short, so the output layer is applied only at the
    positions that predict an answer token.
    """

    def __init__(self, adapter: FieldAdapter, skip: int) -> None:
        """
        Args:
            adapter: of the model.
            skip: leading prompt tokens that do not count towards the coordinate, unless a row has
                a number of its own.

        Raises:
            BackboneError: the model computes its logits in an unknown way.
        """
        self.adapter, self.skip = adapter, skip
        self._model = adapter.model
        config = self._model.config.get_text_config()
        self._vocabulary = config.vocab_size
        self._softcap = getattr(config, "final_logit_softcapping", None)
        self._scale = _logit_scale(config)
        self._check()

    def loss(self, rows: Sequence[Tokens]) -> tuple[Tensor, int]:
        """Summed negative log-likelihood of the answer tokens, in nats, and their number."""
        states, targets, _ = self._predicting(rows)
        return self._nats(states, targets), len(targets)

    def _losses(self, rows: Sequence[Tokens]) -> Tensor:
        """Negative log-likelihood of each row's answer, in nats, float64 [rows] on the CPU."""
        states, targets, row_of = self._predicting(rows)
        nats = self._nats(states, targets, "none").cpu().double()
        return torch.zeros(len(rows), dtype=torch.float64).index_add_(0, row_of, nats)

    def _predicting(self, rows: Sequence[Tokens]) -> tuple[Tensor, Tensor, Tensor]:
        """The states [n, width] that predict the answers' tokens, these, and the row of each."""
        tokens = pad([row.prompt + row.answer for row in rows])
        lengths = [len(row.prompt) for row in rows]
        skips = [row.skipped(self.skip) for row in rows]
        mask = prompt_mask(lengths, tokens.shape[1], skips)
        row_of, position = _answer_positions(rows)
        targets = tokens[row_of, position]
        inputs = (tokens, targets, row_of, position - 1)
        tokens, targets, rows_there, before = on(self._model.device, *inputs)
        with self.adapter.prompts(mask):
            states = self._model.get_decoder()(tokens, use_cache=False).last_hidden_state
        return states[rows_there, before], targets, row_of

    @torch.no_grad()
    def score(
        self,
        rows: Sequence[Tokens],
        batch_size: int,
        between: Callable[[], None] = lambda: None,
        during: Callable[[list[int]], AbstractContextManager[None]] = lambda places: nullcontext(),
    ) -> Score:
        """Perplexity over all rows.

        Args:
            between: called after every batch; it may raise.
            during: gives a block for each batch to be computed in, from its places among the rows.

        Raises:
            DataError: no row has an answer.
        """
        if not any(row.answer for row in rows):
            raise DataError("there is nothing to score: give at least one example with an answer")
        lengths = [len(row.answer) for row in rows]
        losses = torch.zeros(len(rows), dtype=torch.float64)
        shape = (len(rows), self.adapter.coordinates.dim)
        coordinates = torch.empty(shape, dtype=torch.float32)
        for places in by_length(rows, batch_size):
            with during(places):
                losses[places] = self._losses([rows[place] for place in places])
            coordinates[places] = self.adapter.z.cpu()
            between()
        perplexity = math.exp(min(losses.sum().item() / sum(lengths), 700.0))
        return Score(perplexity, sum(lengths), coordinates, losses, torch.tensor(lengths))

    def _nats(self, states: Tensor, targets: Tensor, reduction: str = "sum") -> Tensor:
        """Negative log-likelihood of the targets [n] at the states [n, width].

        Their sum, or that of each with the reduction `none`. Logits take many times the memory of
        the states, so of long answers those of one part are computed at a time, and again for the
        gradient.
        """
        most = self._at_once()
        if len(targets) <= most:
            return self._nats_of(states, targets, reduction)
        parts = zip(states.split(most), targets.split(most), strict=True)
        again = {"use_reentrant": False, "preserve_rng_state": False}
        found = [checkpoint(self._nats_of, *part, reduction, **again) for part in parts]
        return torch.cat(found) if reduction == "none" else torch.stack(found).sum()

    def bytes_of_logits(self, answers: int) -> int:
        """What the logits of so many answer tokens take at their peak, with their gradient.

        That is, three times as many numbers in float32, of one part at a time.
        """
        return 3 * 4 * self._vocabulary * min(answers, self._at_once())

    def _at_once(self) -> int:
        """Of how many answer tokens the logits are computed at a time."""
        return max(LOGITS // self._vocabulary, 1)

    def _nats_of(self, states: Tensor, targets: Tensor, reduction: str) -> Tensor:
        logits = self._logits(states)
        return torch.nn.functional.cross_entropy(logits, targets, reduction=reduction)

    def _logits(self, states: Tensor) -> Tensor:
        logits = self._model.get_output_embeddings()(states).float()
        if self._scale != 1.0:
            logits = logits * self._scale
        if self._softcap:
            logits = torch.tanh(logits / self._softcap) * self._softcap
        return logits

    @torch.no_grad()
    def _check(self) -> None:
        tokens = torch.arange(4, device=self._model.device)[None]
        active, self.adapter.active = self.adapter.active, None
        try:
            ours = self._logits(self._model.get_decoder()(tokens, use_cache=False)[0])
            theirs = self._model(tokens, use_cache=False).logits.float()
        finally:
            self.adapter.active = active
        if not torch.allclose(ours, theirs, atol=0.1, rtol=0.1):
            raise BackboneError(
                f"{type(self._model).__name__} is not supported: its logits are not its output "
                "layer applied to its last states"
            )


def _logit_scale(config: PretrainedConfig) -> float:
    """What a model multiplies its output layer's results by: Granite, Cohere and Falcon-H1 do."""
    factors = [getattr(config, key, None) for key in ("logit_scale", "lm_head_multiplier")]
    divisor = getattr(config, "logits_scaling", None)
    return math.prod(factor for factor in factors if factor is not None) / (divisor or 1.0)


def _answer_positions(rows: Sequence[Tokens]) -> tuple[Tensor, Tensor]:
    """(row, position) of every answer token, int64 [answer tokens] each."""
    pairs = [
        (index, position)
        for index, row in enumerate(rows)
        for position in range(len(row.prompt), len(row))
    ]
    row_of, position = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).unbind(1)
    return row_of, position
