"""Answers to a batch of prompts, of which each may want to be answered in another way.

The loop over tokens is transformers' own. What a row wants is decided at each step of it: how its
next token is chosen, whether it has ended, and who gets to hear of its text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.generation import StoppingCriteria

from niwfctl.backbone.adapter import FieldAdapter
from niwfctl.backbone.batch import pad, prompt_mask
from niwfctl.backbone.load import Backbone
from niwfctl.backbone.pieces import Pieces
from niwfctl.backbone.prompts import turn_end
from niwfctl.backbone.quiet import quiet

LOWEST_TEMPERATURE = 1e-4


@dataclass(frozen=True)
class Wishes:
    """How a prompt is to be answered.

    Attributes:
        max_new_tokens: longest answer, in tokens; at least 1.
        temperature: 0 takes the likeliest token each time, as does what is next to it.
        top_p: share of the probability that the tokens to sample from have together, likeliest
            first.
        seed: of the sampling, whatever the other rows of the batch do; None for another each time.
        stop: texts that end the answer and are not part of it.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn; a temperature so low that float32 overflows draws nothing."""
        return self.temperature >= LOWEST_TEMPERATURE


class Row:
    """One prompt, and its answer as far as it has come.

    Attributes:
        prompt: its tokens.
        skip: how many of them come before what the coordinate is read from.
        text: of the answer.
        count: tokens of the answer, with the one that ended it.
        ended: `stop` (by the model, or a stop text) or `length`; None before.
        cancelled: set by whoever wants no more of it; may be set from another thread.
        hand_on: called with each new piece of text, and once, perhaps with none, when it ended.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, prompt: list[int], skip: int, wishes: Wishes
    ) -> None:
        self.prompt, self.skip, self.wishes = prompt, skip, wishes
        self.text, self.count = "", 0
        self.ended: str | None = None
        self.cancelled = False
        self.hand_on: Callable[[str], None] = lambda piece: None
        self._pieces = Pieces(tokenizer, wishes.stop)
        self._random: torch.Generator | None = None

    def rewind(self) -> None:
        """Begins the draws anew, where an answer is begun anew."""
        self._random = None

    def sample(self, scores: Tensor) -> Tensor:
        """The index of a token drawn from scores [vocabulary], int64 [1]."""
        wishes = self.wishes
        if self._random is None:
            self._random = torch.Generator(scores.device)
            self._random.seed() if wishes.seed is None else self._random.manual_seed(wishes.seed)
        chances = ((scores - scores.max()) / wishes.temperature).softmax(-1)
        if wishes.top_p == 1:
            return torch.multinomial(chances, 1, generator=self._random)
        chances, order = chances.sort(descending=True)
        before = chances.cumsum(-1) - chances
        chances[1:][before[1:] >= wishes.top_p] = 0
        return order[torch.multinomial(chances, 1, generator=self._random)]

    def take(self, token: int, ends: bool) -> None:
        """Goes on by one token, which may be one that ends the turn."""
        self.count += 1
        piece = "" if ends else self._pieces.add(token)
        if ends or self._pieces.stopped:
            self.ended = "stop"
        elif self.count == self.wishes.max_new_tokens:
            self.ended = "length"
        if self.ended:
            piece += self._pieces.rest()
        self.text += piece
        if piece or self.ended:
            self.hand_on(piece)


@torch.no_grad()
def answer(backbone: Backbone, adapter: FieldAdapter, rows: Sequence[Row]) -> None:
    """Answers rows in one batch, each as if alone, with what is active in the adapter.

    It returns when every row has ended or is cancelled.
    """
    for row in rows:
        row.rewind()
    model, ends, tokenizer = backbone.model, _ends(backbone), backbone.tokenizer
    padding = tokenizer.pad_token_id
    tokens = pad([row.prompt for row in rows], left=True)
    lengths, width = [len(row.prompt) for row in rows], tokens.shape[1]
    counted = prompt_mask(lengths, width, [row.skip for row in rows], left=True)
    options = GenerationConfig(
        max_new_tokens=max(row.wishes.max_new_tokens for row in rows),
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=tokenizer.eos_token_id if padding is None else padding,
    )
    sampled = any(row.wishes.samples for row in rows)
    with adapter.prompts(counted.to(model.device)), _nothing_but(options, model), quiet():
        model.generate(
            tokens.to(model.device),
            attention_mask=prompt_mask(lengths, width, 0, left=True).long().to(model.device),
            generation_config=options,
            logits_processor=[_Choice(rows)] if sampled else [],
            stopping_criteria=[_Watch(rows, ends)],
        )


@contextmanager
def _nothing_but(options: GenerationConfig, model: PreTrainedModel) -> Iterator[None]:
    """A block in which the model's own settings fill no gap, such as a penalty on repetition.

    With some of them a row's answer would depend on the rows beside it.
    """
    own, model.generation_config = model.generation_config, options
    try:
        yield
    finally:
        model.generation_config = own


class _Choice(LogitsProcessor):
    """Draws the tokens of sampled rows, and leaves their scores no other choice."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        for index, row in enumerate(self._rows):
            if row.wishes.samples and not _over(row):
                scores[index, row.sample(scores[index])] = torch.inf
        return scores


class _Watch(StoppingCriteria):
    """Gives every row its newest token, and says which rows are over."""

    def __init__(self, rows: Sequence[Row], ends: Sequence[int]) -> None:
        self._rows, self._ends = rows, set(ends)

    def __call__(self, input_ids: Tensor, scores: object, **rest: object) -> Tensor:
        for row, token in zip(self._rows, input_ids[:, -1].tolist(), strict=True):
            if not _over(row):
                row.take(token, token in self._ends)
        return torch.tensor([_over(row) for row in self._rows], device=input_ids.device)


def _over(row: Row) -> bool:
    return row.cancelled or row.ended is not None


def _ends(backbone: Backbone) -> list[int]:
    own = backbone.model.generation_config.eos_token_id
    tokenizer = backbone.tokenizer
    ends = {tokenizer.eos_token_id, turn_end(tokenizer)}
    ends |= set(own if isinstance(own, list) else [own])
    return sorted(end for end in ends if end is not None)
