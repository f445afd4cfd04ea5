"""The text of an answer, in pieces that can be shown as soon as they come."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerBase


class Pieces:
    """Turns tokens into text as they come.

    No piece ends within a character, or with what may be the beginning of a stop text.

    Attributes:
        stopped: whether a stop text came; what follows it is not part of the answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()) -> None:
        """
        Args:
            tokenizer: of the backbone.
            stop: non-empty texts that end the answer and are not part of it.
        """
        self.stopped = False
        self._tokenizer, self._stop = tokenizer.backend_tokenizer, stop
        self._stream = DecodeStream(skip_special_tokens=True)
        self._tokens: list[int] = []
        self._length = 0  # characters that the stream has returned
        self._held = ""

    def add(self, token: int) -> str:
        """The text that this token makes certain."""
        self._tokens.append(token)
        return self._until_stop(self._stream.step(self._tokenizer, token) or "")

    def rest(self) -> str:
        """The text that was held back, to be called after the last token."""
        whole = self._tokenizer.decode(self._tokens, skip_special_tokens=True)
        text = self._until_stop(whole[self._length :])
        held, self._held = self._held, ""
        return text + held

    def _until_stop(self, text: str) -> str:
        self._length += len(text)
        if self.stopped:
            return ""
        text = self._held + text
        found = [(text.index(stop) + len(stop), -len(stop)) for stop in self._stop if stop in text]
        if found:  # the one that ends first, and of those the longest
            end, length = min(found)
            self.stopped, self._held = True, ""
            return text[: end + length]
        kept = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of a text are the beginning of a stop text."""
    lengths = range(min(len(text), len(stop) - 1), 0, -1)
    return next((length for length in lengths if text.endswith(stop[:length])), 0)
