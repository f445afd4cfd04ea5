"""From chat messages to tokens: the backbone's own template, or a documented default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from niwfctl.errors import DataError
from niwfctl.records import Example, Message

# For backbones without a chat template of their own; in the manner of Alpaca.
DEFAULT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'assistant' %}### Response:\n{{ m.content }}{{ eos_token }}\n\n"
    "{% elif m.role == 'system' %}{{ m.content }}\n\n"
    "{% else %}### Instruction:\n{{ m.content }}\n\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}### Response:\n{% endif %}"
)


@dataclass(frozen=True)
class Tokens:
    """One example as token ids: a prompt, and the answer with its end-of-turn token."""

    prompt: list[int]
    answer: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    """The conversation as the backbone expects it, ending where the answer begins.

    Raises:
        DataError: the template refuses the conversation (some know no system message).
    """
    return _apply(tokenizer, messages, add_generation_prompt=True)


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Token ids of a conversation, ending where the answer begins.

    Raises:
        DataError: as `render`.
    """
    return _ids(tokenizer, render(tokenizer, messages))


def encode(tokenizer: PreTrainedTokenizerBase, example: Example) -> Tokens:
    """Token ids of an example, without any for the answer where there is none.

    Raises:
        DataError: as `render`; the message names the example's origin.
    """
    try:
        prompt = render(tokenizer, example.messages)
        if not example.answer:
            return Tokens(_ids(tokenizer, prompt), [])
        answered = [*example.messages, Message("assistant", example.answer)]
        whole = _apply(tokenizer, answered, add_generation_prompt=False)
    except DataError as error:
        raise DataError(f"{example.origin}: {error}") from error
    if whole.startswith(prompt):
        answer = _ids(tokenizer, whole.removeprefix(prompt))
        end = tokenizer.eos_token_id
        if end in answer:  # what a template writes after the end of the turn is not the answer
            answer = answer[: len(answer) - answer[::-1].index(end)]
    else:  # a template that rewrites earlier turns once the answer is there
        answer = [*_ids(tokenizer, example.answer), tokenizer.eos_token_id]
    return Tokens(_ids(tokenizer, prompt), answer)


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with: what the template writes before any prompt."""
    length = 0
    for column in zip(*rows, strict=False):
        if len(set(column)) > 1:
            break
        length += 1
    return length


def _apply(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, add_generation_prompt: bool
) -> str:
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(
            [{"role": message.role, "content": message.content} for message in messages],
            chat_template=tokenizer.chat_template or DEFAULT_TEMPLATE,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )
    except TemplateError as error:
        raise DataError(
            f"the backbone's chat template refuses this conversation ({error}): expected user and "
            "assistant turns in alternation"
        ) from error


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]
