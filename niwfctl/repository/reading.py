"""Conversations and examples as the tokens of a backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from niwfctl.backbone.load import Backbone
from niwfctl.backbone.prompts import Tokens, encode, opening_skip, prompt_tokens
from niwfctl.config import FieldConfig
from niwfctl.errors import DataError, UsageError
from niwfctl.records import Example, Message

Prompt = str | Sequence[Message | Mapping[str, str]]
"""The user's words, or a conversation; its turns may be dicts with `role` and `content`."""

_EMPTY = "the prompt is empty: give one"


def conversation(prompt: Prompt) -> list[Message]:
    """The turns of a prompt.

    Raises:
        UsageError: it is empty, or is no prompt.
        DataError: a turn has an unknown role, or content that is not text.
    """
    turns = _turns(prompt)
    if not turns[-1].content.strip():
        raise UsageError(_EMPTY)
    return turns


def _turns(prompt: Prompt) -> list[Message]:
    """The same, of which the last may be empty, since a tool's result can be."""
    if isinstance(prompt, str):
        prompt = [Message("user", prompt)] if prompt.strip() else []
    if not isinstance(prompt, Sequence):
        raise UsageError(
            f"a prompt cannot be {_a(prompt)}: give a text, or a list of turns with `role` and "
            "`content`"
        )
    if not prompt:
        raise UsageError(_EMPTY)
    return [_turn(turn) for turn in prompt]


def _turn(turn: object) -> Message:
    if isinstance(turn, Message):
        return turn
    if not isinstance(turn, Mapping):
        raise UsageError(
            f"a turn of a conversation cannot be {_a(turn)}: give a dict with `role` and "
            "`content`; for several prompts, call `answers`"
        )
    if set(turn) != {"role", "content"}:
        raise UsageError(
            f"a turn of a conversation has {', '.join(map(repr, turn)) or 'nothing'}: give it "
            "'role' and 'content', and nothing else"
        )
    return Message(turn["role"], turn["content"])


def prompted(prompts: Sequence[Example | Prompt]) -> list[Example]:
    """Prompts as examples without answers; examples stay as they are.

    Raises:
        UsageError: one is empty, or no prompt.
        DataError: a turn has an unknown role, or content that is not text.
    """
    if isinstance(prompts, str | Mapping | Example):
        raise UsageError(f"several prompts cannot be {_a(prompts)}: give a list of them")
    return [
        one if isinstance(one, Example) else Example(tuple(conversation(one)), "", f"prompt {n}")
        for n, one in enumerate(prompts, 1)
    ]


def _a(thing: object) -> str:
    """A thing's kind, for a message."""
    return f"of type {type(thing).__name__}"


class Reader:
    """What a backbone reads.

    Attributes:
        backbone: with its tokenizer.
        skip: how many leading tokens of a conversation its coordinate leaves out, if it begins
            with no system turn of its own.
    """

    def __init__(self, backbone: Backbone, field: FieldConfig) -> None:
        """
        Args:
            field: what the coordinates of its repository leave out.
        """
        self.backbone, self.skip = backbone, field.skip_tokens
        self._skips_system = field.skip_system

    def prompt(self, messages: Prompt) -> tuple[list[int], int]:
        """A prompt's tokens, and how many leading ones its coordinate leaves out.

        Raises:
            UsageError: it is empty, or is no prompt.
            DataError: a turn has an unknown role, or the template refuses it.
        """
        messages = _turns(messages)
        tokens = prompt_tokens(self.backbone.tokenizer, messages)
        own = self._opening_skip(messages, tokens)
        return tokens, self.skip if own is None else own

    def _opening_skip(self, messages: Sequence[Message], tokens: list[int]) -> int | None:
        if not self._skips_system:
            return None
        return opening_skip(self.backbone.tokenizer, messages, tokens)

    def skipped(self, tokens: Sequence[int]) -> int:
        """How many leading tokens of a plain text its coordinate leaves out.

        The template's, if the text begins with them; otherwise just the first.
        """
        template = prompt_tokens(self.backbone.tokenizer, [Message("user", "?")])[: self.skip]
        return self.skip if list(tokens[: self.skip]) == template else 1

    def encode(self, examples: Sequence[Example]) -> list[Tokens]:
        """Examples as tokens.

        Raises:
            DataError: the template refuses one, or it is longer than the backbone can read.
        """
        rows = [self.encoded(example) for example in examples]
        self._require_readable(examples, rows)
        return rows

    def encoded(self, example: Example) -> Tokens:
        """An example as tokens, of any length.

        Raises:
            DataError: the template refuses it.
            UsageError: it is no example.
        """
        if not isinstance(example, Example):
            raise UsageError(
                f"an example cannot be {_a(example)}: give Examples, as `read_examples` makes them"
            )
        row = encode(self.backbone.tokenizer, example)
        return replace(row, skip=self._opening_skip(example.messages, row.prompt))

    def expected(self, examples: Sequence[Example]) -> list[str]:
        """What `answers` would return if each answer were the example's, template and all.

        Raises:
            DataError: as `encode`.
        """
        decode = self.backbone.tokenizer.decode
        rows = self.encode(examples)
        return [decode(row.answer, skip_special_tokens=True).strip() for row in rows]

    @property
    def longest(self) -> int:
        """How many tokens the backbone can read."""
        config = self.backbone.model.config.get_text_config()
        return getattr(config, "max_position_embeddings", 1 << 30)

    def _require_readable(
        self, examples: Sequence[Example], rows: Sequence[Tokens | list[int]]
    ) -> None:
        for example, row in zip(examples, rows, strict=True):
            if len(row) > self.longest:
                raise DataError(
                    f"{example.origin} has {len(row)} tokens, but the backbone reads at most "
                    f"{self.longest}: shorten it"
                )
