"""Answers to a batch of prompts, each with options of its own.

The loop over tokens is transformers' own. Each step decides for every request how its next token is
chosen, whether its answer has ended, and who receives its text.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real

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
from niwfctl.backbone.batch import on, pad, prompt_mask
from niwfctl.backbone.load import Backbone
from niwfctl.backbone.pieces import Pieces
from niwfctl.backbone.prompts import turn_end
from niwfctl.backbone.quiet import quiet
from niwfctl.errors import UsageError
from niwfctl.records import SEEDS

LOWEST_TEMPERATURE = 1e-4


def require_positive(name: str, value: object) -> None:
    """Requires a whole number from 1.

    Raises:
        UsageError: it is another value; the message has the argument's name.
    """
    _require(name, value, isinstance(value, Integral) and value >= 1, "a whole number from 1")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and 0 <= value < math.inf


def _require(name: str, value: object, fits: bool, expected: str) -> None:
    if not fits:
        raise UsageError(f"{name} cannot be {reprlib.repr(value)}: give {expected}")


@dataclass(frozen=True)
class AnswerOptions:
    """How to answer a prompt.

    Attributes:
        max_new_tokens: longest answer, in tokens; at least 1.
        temperature: 0, or less than LOWEST_TEMPERATURE, takes the likeliest token each time.
        top_p: only the likeliest tokens that together have this share of the probability are
            sampled from; from 0 to 1.
        seed: of the sampling, independent of the other requests of the batch; None for a new one
            each time.
        stop: texts that end the answer and are not part of it.

    Raises:
        UsageError: one of them is out of its range.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_positive("max_new_tokens", self.max_new_tokens)
        share = _is_number(self.top_p) and self.top_p <= 1
        seed = 0 if self.seed is None else self.seed
        whole = isinstance(seed, Integral) and -SEEDS <= seed < SEEDS  # as many are negative
        texts = isinstance(self.stop, tuple) and all(isinstance(s, str) and s for s in self.stop)
        _require("temperature", self.temperature, _is_number(self.temperature), "a number from 0")
        _require("top_p", self.top_p, share, "a number from 0 to 1")
        _require("seed", seed, whole, "a whole number of 64 bits")
        _require("stop", self.stop, texts, "texts of at least one character")

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn: not at temperatures so low that float32 would overflow."""
        return self.temperature >= LOWEST_TEMPERATURE


class Request:
    """A prompt and its answer so far.

    Attributes:
        prompt: its tokens.
        skip: how many leading tokens the coordinate leaves out.
        z: its coordinate, float32 [dim], once it was read.
        tokens: of the answer.
        text: of the answer.
        ended: `stop` (by the model, or a stop text) or `length`; None while it is unfinished.
        cancelled: set it, from any thread, to end the answer early.
        hand_on: called with each new piece of text, and at the end with the last one, which may be
            empty.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt: list[int],
        skip: int,
        options: AnswerOptions,
    ) -> None:
        self.prompt, self.skip, self.options = prompt, skip, options
        self.z: Tensor | None = None
        self.tokens: list[int] = []
        self.text = ""
        self.ended: str | None = None
        self.cancelled = False
        self.hand_on: Callable[[str], None] = lambda piece: None
        self._pieces = Pieces(tokenizer, options.stop)
        self._random: torch.Generator | None = None

    @property
    def count(self) -> int:
        """Tokens of the answer so far, including the one that ended it."""
        return len(self.tokens)

    @property
    def over(self) -> bool:
        """Whether nothing more is to be generated."""
        return self.cancelled or self.ended is not None

    def rewind(self) -> None:
        """Restarts the random draws of an answer that has not begun."""
        if not self.tokens:
            self._random = None

    def sample(self, scores: Tensor) -> Tensor:
        """The index of a token drawn from scores [vocabulary], int64 [1]."""
        options = self.options
        if self._random is None:
            self._random = torch.Generator(scores.device)
            self._random.seed() if options.seed is None else self._random.manual_seed(options.seed)
        chances = ((scores - scores.max()) / options.temperature).softmax(-1)
        if options.top_p == 1:
            return _drawn(chances, self._random)
        chances, order = chances.sort(descending=True)
        before = chances.cumsum(-1) - chances
        chances[1:][before[1:] >= options.top_p] = 0
        return order[_drawn(chances, self._random)]

    def take(self, token: int, ends: bool) -> None:
        """Adds one token to the answer; `ends` if it ends the turn."""
        self.tokens.append(token)
        piece = "" if ends else self._pieces.add(token)
        if ends or self._pieces.stopped:
            self.ended = "stop"
        elif self.count == self.options.max_new_tokens:
            self.ended = "length"
        if self.ended:
            piece += self._pieces.rest()
        self.text += piece
        if piece or self.ended:
            self.hand_on(piece)


def _drawn(chances: Tensor, random: torch.Generator) -> Tensor:
    """An index drawn with chances [n], int64 [1]: the same that `torch.multinomial` draws.

    That waits for a GPU to check the chances first, for every row and token.
    """
    race = torch.empty_like(chances).exponential_(generator=random)
    return (chances / race).argmax(-1, keepdim=True)


@torch.no_grad()
def answer(
    backbone: Backbone,
    adapter: FieldAdapter,
    requests: Sequence[Request],
    pause: Callable[[], bool] = lambda: False,
) -> None:
    """Answers requests in one batch, each as if alone, with what is active in the adapter.

    It returns when every request has ended or is cancelled, or when told to pause. Given again, in
    whatever batch, a request goes on where it was: its prompt and answer so far are read anew,
    which needs nothing of the earlier batch, and it keeps its coordinate and its draws.

    Args:
        requests: none of them is over.
        pause: asked after each step of the batch.
    """
    for request in requests:
        request.rewind()
    model, tokenizer = backbone.model, backbone.tokenizer
    ends = ending_tokens(tokenizer, model.generation_config)
    padding = tokenizer.pad_token_id
    rows = [request.prompt + request.tokens for request in requests]
    tokens, lengths = pad(rows, left=True), [len(row) for row in rows]
    width, skips = tokens.shape[1], [request.skip for request in requests]
    counted = prompt_mask(lengths, width, skips, left=True)
    options = GenerationConfig(
        max_new_tokens=max(one.options.max_new_tokens - one.count for one in requests),
        do_sample=False,
        eos_token_id=ends or None,
        pad_token_id=tokenizer.eos_token_id if padding is None else padding,
    )
    sampled = any(request.options.samples for request in requests)
    known = {row: one.z for row, one in enumerate(requests) if one.z is not None}
    reading = adapter.prompts(counted, known)
    with reading, nothing_but(options, model), quiet():
        model.generate(
            tokens.to(model.device),
            attention_mask=prompt_mask(lengths, width, 0, left=True).long().to(model.device),
            generation_config=options,
            logits_processor=[_Choice(requests)] if sampled else [],
            stopping_criteria=[_Watch(requests, ends, adapter, pause)],
        )


@contextmanager
def nothing_but(options: GenerationConfig, model: PreTrainedModel) -> Iterator[None]:
    """A block in which the model's own settings, such as a repetition penalty, do not apply.

    With some of them a request's answer would depend on the other requests of the batch.
    """
    own, model.generation_config = model.generation_config, options
    try:
        yield
    finally:
        model.generation_config = own


class _Choice(LogitsProcessor):
    """Draws the tokens of sampled requests, and sets their scores so that these are chosen."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self._requests = requests

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        for index, request in enumerate(self._requests):
            if request.options.samples and not request.over:
                scores[index, request.sample(scores[index])] = torch.inf
        return scores


class _Watch(StoppingCriteria):
    """Gives every request its newest token, and tells which requests are over."""

    def __init__(
        self,
        requests: Sequence[Request],
        ends: Sequence[int],
        adapter: FieldAdapter,
        pause: Callable[[], bool],
    ) -> None:
        self._requests, self._ends = requests, set(ends)
        self._adapter, self._pause = adapter, pause

    def __call__(self, input_ids: Tensor, scores: object, **rest: object) -> Tensor:
        tokens = input_ids[:, -1].tolist()
        for row, (request, token) in enumerate(zip(self._requests, tokens, strict=True)):
            if request.z is None:
                request.z = self._adapter.z[row].clone()
            if not request.over:
                request.take(token, token in self._ends)
        pause = self._pause()
        over = torch.tensor([pause or one.over for one in self._requests])
        return on(input_ids.device, over)[0]


def ending_tokens(tokenizer: PreTrainedTokenizerBase, own: GenerationConfig) -> list[int]:
    """The tokens at which an answer ends, ascending.

    Args:
        own: the model's own settings, which may name some.
    """
    named = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    ends = {tokenizer.eos_token_id, turn_end(tokenizer), *named}
    return sorted(end for end in ends if end is not None)
