"""From chat messages to tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import takewhile

from transformers import PreTrainedTokenizerBase

from niwfctl.backbone.template import chat_template, render
from niwfctl.backbone.thoughts import answer_after, require_sound
from niwfctl.errors import DataError
from niwfctl.records import Example, Message

REMEMBERED = 64  # templates, and openings of conversations, for which results are cached


@dataclass(frozen=True)
class Tokens:
    """One example as token ids: a prompt, and the answer with its end-of-turn token.

    Attributes:
        skip: how many leading tokens of the prompt its coordinate leaves out, if a system turn or a
            greeting changes the usual number; else None.
    """

    prompt: list[int]
    answer: list[int]
    skip: int | None = None

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)

    def skipped(self, usual: int) -> int:
        """How many leading tokens its coordinate leaves out.

        Args:
            usual: the number if only the template's own come before the user's words.
        """
        return usual if self.skip is None else self.skip


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Token ids of a conversation, ending where the answer begins.

    Raises:
        DataError: the template refuses the conversation (some allow no system message).
    """
    return _ids(tokenizer, render(tokenizer, messages))


def encode(tokenizer: PreTrainedTokenizerBase, example: Example) -> Tokens:
    """Token ids of an example; those of the answer are empty if it has none.

    Raises:
        DataError: as in `prompt_tokens`, or the prompt has no place for what is thought before
            the answer; the message names the example's origin.
    """
    try:
        text = render(tokenizer, example.messages)
        prompt = _ids(tokenizer, text)
        answer = _answer(tokenizer, example, text, prompt) if example.answer else []
    except DataError as error:
        raise DataError(f"{example.origin}: {error}") from error
    return Tokens(prompt, answer)


def require_learnable(tokenizer: PreTrainedTokenizerBase, example: Example, row: Tokens) -> None:
    """Requires that an example teaches no endless thoughts; it may be measured all the same.

    Args:
        row: the example's tokens.

    Raises:
        DataError: its prompt waits for thoughts in vain; the message names the example's origin.
    """
    try:
        require_sound(tokenizer.decode(row.prompt), tokenizer.decode(row.answer))
    except DataError as error:
        raise DataError(f"{example.origin}: {error}") from error


def _answer(
    tokenizer: PreTrainedTokenizerBase, example: Example, text: str, prompt: list[int]
) -> list[int]:
    """The tokens of an example's answer.

    Args:
        text: the prompt as the template writes it.
        prompt: its tokens.
    """
    whole, end = _whole(tokenizer, example), turn_end(tokenizer)
    if whole.startswith(text) and _is_all_there(tokenizer, example, whole):
        answer = _ids_after(tokenizer, prompt, text, whole)
        if end in answer:  # what the template writes after it is not part of the answer
            answer = answer[: len(answer) - answer[::-1].index(end)]
        elif end is not None:  # nothing that it writes instead would stop a generation
            before = text + whole.removeprefix(text).removesuffix(_closing(tokenizer))
            answer = [*_ids_after(tokenizer, prompt, text, before), end]
    else:  # the template rewrites earlier turns, or what it began, once there is an answer
        said = _ids(tokenizer, answer_after(text, example))
        answer = [*said, *([] if end is None else [end])]
    return answer


def _whole(tokenizer: PreTrainedTokenizerBase, example: Example) -> str:
    """Prompt and answer as the template writes them together."""
    return render(tokenizer, example.messages, example.answer, example.reasoning_content)


def _is_all_there(tokenizer: PreTrainedTokenizerBase, example: Example, whole: str) -> bool:
    """Whether the template writes what is thought before the answer, if anything is.

    What was thought in earlier turns need not be: many templates leave that out on purpose.
    """
    if example.reasoning_content is None:
        return True
    return whole != _whole(tokenizer, replace(example, reasoning_content=None))


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that ends an answer: the first special one that the template writes after it.

    With a base model's tokenizer it differs from the token that ends a text, which is taken if the
    template writes only plain text after an answer.
    """
    return _turn_end(tokenizer, chat_template(tokenizer))


@lru_cache(REMEMBERED)
def _turn_end(tokenizer: PreTrainedTokenizerBase, template: str) -> int | None:
    added = tokenizer.added_tokens_decoder.items()
    special = {*tokenizer.all_special_ids, *(token for token, about in added if about.special)}
    after = _ids(tokenizer, _written_after(tokenizer, template))
    return next((token for token in after if token in special), tokenizer.eos_token_id)


def _closing(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the template writes after an answer."""
    return _written_after(tokenizer, chat_template(tokenizer))


@lru_cache(REMEMBERED)
def _written_after(tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    answer = "niwf"
    try:
        whole = render(tokenizer, [Message("user", "?")], answer)
    except DataError:
        return ""
    return whole.rpartition(answer)[2]


def opening_skip(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tokens: Sequence[int]
) -> int | None:
    """How many leading tokens of a conversation come before its user's first words.

    None if it begins with the user's turn: the number is then the same for every such prompt.
    Otherwise a system turn comes before them, or what the assistant says first.
    """
    first = messages[0].role
    if first not in ("system", "assistant"):
        return None
    opening = (
        messages[:1]
        if first == "system"
        else takewhile(lambda turn: turn.role == "assistant", messages)
    )
    before = _before_user(tokenizer, chat_template(tokenizer), tuple(opening))
    return common_prefix([tokens, before])


@lru_cache(REMEMBERED)
def _before_user(
    tokenizer: PreTrainedTokenizerBase, template: str, opening: tuple[Message, ...]
) -> tuple[int, ...]:
    rows = [prompt_tokens(tokenizer, [*opening, Message("user", word)]) for word in ("?", "A")]
    return tuple(rows[0][: common_prefix(rows)])


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """How many leading tokens all rows share: what the template writes before any prompt."""
    length = 0
    for column in zip(*rows, strict=False):
        if len(set(column)) > 1:
            break
        length += 1
    return length


def _ids_after(
    tokenizer: PreTrainedTokenizerBase, prompt: list[int], text: str, whole: str
) -> list[int]:
    """The tokens after a prompt's; tokenized separately, some tokenizers would begin a word."""
    ids = _ids(tokenizer, whole)
    if ids[: len(prompt)] == prompt:
        return ids[len(prompt) :]
    return _ids(tokenizer, whole.removeprefix(text))  # a token would straddle the border


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]
