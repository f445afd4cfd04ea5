"""Conversations as text: the backbone's own chat template, or a documented default."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress

from transformers import PreTrainedTokenizerBase

from niwfctl.errors import BackboneError, DataError
from niwfctl.records import Message

# For backbones without a chat template of their own; in the manner of Alpaca.
DEFAULT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'assistant' %}### Response:\n{{ m.content }}{{ eos_token }}\n\n"
    "{% elif m.role == 'system' %}{{ m.content }}\n\n"
    "{% else %}### Instruction:\n{{ m.content }}\n\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}### Response:\n{% endif %}"
)
# Some templates write today's date, which would make the figures of two days incomparable. So it is
# always the day that Llama 3.1's own template falls back to.
_DATE = {"%d": "26", "%-d": "26", "%b": "Jul", "%B": "July", "%m": "07", "%Y": "2024", "%y": "24"}
_DATE |= {"%A": "Friday", "%a": "Fri", "%H": "12", "%I": "12", "%M": "00", "%S": "00", "%p": "PM"}
_SAME_DAY = "{%- macro strftime_now(format) -%}{{ format FILTERS }}{%- endmacro -%}".replace(
    "FILTERS", " ".join(f"| replace('{code}', '{text}')" for code, text in _DATE.items())
)

# <|im_start|>, [INST], <start_of_turn>, ### Response: and the like. Tags as HTML has them, such as
# <s>, are left out, since texts hold them for reasons of their own.
_MARK = re.compile(r"<[|｜][^<>\s]+[|｜]>|<\w+_\w+>|\[/?[A-Z_]+\]|### \w+:")


def chat_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The Jinja template that conversations are written with.

    Raises:
        BackboneError: there are several, and none is called default.
    """
    template = plain_template(tokenizer)
    return _SAME_DAY + template if "strftime_now" in template else template


def plain_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The same for other tools, in which a template may write the date of its use.

    Raises:
        BackboneError: as in `chat_template`.
    """
    return own_template(tokenizer) or DEFAULT_TEMPLATE


def own_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The template that a backbone brings; None if it brings none.

    Raises:
        BackboneError: as in `chat_template`.
    """
    if not tokenizer.chat_template:
        return None
    try:
        return tokenizer.get_chat_template()
    except ValueError as error:
        raise BackboneError(
            f"the backbone has several chat templates ({', '.join(tokenizer.chat_template)}), and "
            "none is called default: call one of them so in its tokenizer_config.json"
        ) from error


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    answer: str | None = None,
    reasoning_content: str | None = None,
) -> str:
    """The conversation as text, as the backbone expects it.

    Args:
        answer: the last turn; without one, the text ends where the answer begins.
        reasoning_content: what that turn thought before it spoke.

    Raises:
        DataError: the template refuses the conversation (some allow no system message).
        BackboneError: as in `chat_template`.
    """
    from jinja2 import TemplateError

    if answer is not None:
        messages = [*messages, Message("assistant", answer, reasoning_content)]
    try:
        return tokenizer.apply_chat_template(
            [_turn(message) for message in messages],
            chat_template=chat_template(tokenizer),
            tokenize=False,
            add_generation_prompt=answer is None,
        )
    except TemplateError as error:
        expected = "expected user and assistant turns in alternation"
        if messages[0].role == "assistant":
            expected = (
                "here the user speaks first, so leave out what the assistant says before, or make "
                "it a system turn"
            )
        raise DataError(
            f"the backbone's chat template refuses this conversation ({error}): {expected}"
        ) from error


def _turn(message: Message) -> dict[str, str]:
    """A turn as templates know it; those without a key for reasoning ignore it."""
    return {key: value for key, value in vars(message).items() if value is not None}


def marks(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The marks that the template itself writes around turns, such as <|im_start|> or [INST].

    Raises:
        BackboneError: as in `chat_template`.
    """
    asked = [Message("user", "?")]
    with suppress(DataError):  # a template that takes nothing so short is not known to have any
        written = render(tokenizer, asked) + render(tokenizer, asked, "!")
        return list(dict.fromkeys(_MARK.findall(written)))
    return []
