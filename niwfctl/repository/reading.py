"""Conversations and examples as the tokens of a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from niwfctl.backbone.load import Backbone
from niwfctl.backbone.prompts import Tokens, encode, prompt_tokens, system_skip
from niwfctl.config import FieldConfig
from niwfctl.errors import DataError
from niwfctl.records import Example, Message


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

    def prompt(self, messages: Sequence[Message]) -> tuple[list[int], int]:
        """A conversation's tokens, and how many leading ones its coordinate leaves out.

        Raises:
            DataError: the template refuses it.
        """
        tokens = prompt_tokens(self.backbone.tokenizer, messages)
        own = self._system_skip(messages, tokens)
        return tokens, self.skip if own is None else own

    def _system_skip(self, messages: Sequence[Message], tokens: list[int]) -> int | None:
        if not self._skips_system:
            return None
        return system_skip(self.backbone.tokenizer, messages, tokens)

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
        """
        row = encode(self.backbone.tokenizer, example)
        return replace(row, skip=self._system_skip(example.messages, row.prompt))

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
