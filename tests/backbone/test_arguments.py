"""Arguments of a chat template that are fixed at its head."""

import pytest
from thinking import AT_WILL, thinking_tokenizer
from tiny import tiny_tokenizer

from niwfctl.backbone.arguments import pin
from niwfctl.backbone.template import DEFAULT_TEMPLATE, chat_template, render
from niwfctl.errors import BackboneError, UsageError
from niwfctl.records import Message

ASKED = [Message("user", "2+2?")]
TURNS = [{"role": "user", "content": "2+2?"}]
TELLING = (
    "  \n\n{% if not style is defined %}{% set style = 'plain' %}{% endif %}{{ style|tojson }}"
    "{% macro again() %}{{ style }}{% endmacro %}{% for m in messages %}{{ again() }}"
    "{{ m.content }}{% generation %}!{% endgeneration %}{% endfor %}"
)


@pytest.mark.parametrize(
    "value",
    [True, False, 0, -3, 2.5, 1e-7, "", "true", 'a "b" \\ {# %} }} \n\u2028 π 🙂', "{{ x }}"],
)
def test_a_fixed_argument_reaches_the_template_as_transformers_would_pass_it(
    value: bool | int | float | str,
) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TELLING
    expected = tokenizer.apply_chat_template(TURNS, tokenize=False, style=value)
    pin(tokenizer, {"style": value})
    assert render(tokenizer, ASKED) == expected
    assert tokenizer.apply_chat_template(TURNS, tokenize=False, style="other") == expected


def test_without_arguments_a_template_stays_as_it_is() -> None:
    tokenizer = thinking_tokenizer(AT_WILL)
    pin(tokenizer, {})
    assert tokenizer.chat_template == AT_WILL


@pytest.mark.parametrize(
    ("template", "known"),
    [(TELLING, "style"), (AT_WILL, "enable_thinking"), (None, "none"), (DEFAULT_TEMPLATE, "none")],
)
def test_an_argument_that_the_template_does_not_take_is_refused(
    template: str | None, known: str
) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    for name in ("thinking", "messages", "bos_token", "if", "m", "asked", "range"):
        with pytest.raises(UsageError, match=f"takes no argument '{name}': it takes {known}$"):
            pin(tokenizer, {name: True})
    assert tokenizer.chat_template == template


@pytest.mark.parametrize("value", [None, [], {}, float("nan"), float("inf"), "\ud800"])
def test_a_value_that_cannot_be_written_down_is_refused(value: object) -> None:
    with pytest.raises(UsageError, match="the chat template's argument enable_thinking cannot be"):
        pin(thinking_tokenizer(AT_WILL), {"enable_thinking": value})


def test_of_several_templates_the_default_gets_the_arguments() -> None:
    tokenizer = thinking_tokenizer(AT_WILL)
    tokenizer.chat_template = {"default": AT_WILL, "tool_use": "?"}
    pin(tokenizer, {"enable_thinking": False})
    assert render(tokenizer, ASKED).endswith("<think>\n\n</think>\n\n")
    assert chat_template(tokenizer).endswith(AT_WILL)


def test_a_template_that_is_not_jinja_is_named_as_such() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% if %}"
    with pytest.raises(BackboneError, match="chat template cannot be read"):
        pin(tokenizer, {"x": 1})
