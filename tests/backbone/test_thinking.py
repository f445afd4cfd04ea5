"""What a model thinks before it answers, in prompts and in what is learned."""

from collections.abc import Sequence

import pytest
from thinking import ALWAYS, AT_WILL, thinking_tokenizer
from tiny import tiny_tokenizer
from transformers import PreTrainedTokenizerBase

from niwfctl.backbone.prompts import encode
from niwfctl.errors import DataError
from niwfctl.records import Example, Message

ASKED = (Message("user", "2+2?"),)
THOUGHT = Example(ASKED, "4", "sums.jsonl:7", "two and two")
AT_ONCE = Example(ASKED, "4", "sums.jsonl:8")


@pytest.fixture
def at_will() -> PreTrainedTokenizerBase:
    return thinking_tokenizer(AT_WILL)


@pytest.fixture
def always() -> PreTrainedTokenizerBase:
    return thinking_tokenizer(ALWAYS)


def learned(tokenizer: PreTrainedTokenizerBase, example: Example) -> str:
    return tokenizer.decode(encode(tokenizer, example).answer)


def asked(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    return tokenizer.decode(encode(tokenizer, Example(tuple(messages), "")).prompt)


def refusal(tokenizer: PreTrainedTokenizerBase, example: Example) -> str:
    with pytest.raises(DataError) as refused:
        encode(tokenizer, example)
    message = str(refused.value)
    assert "\n" not in message and not message.endswith(".")
    assert message.startswith(f"{example.origin}: ")
    return message


def test_what_is_thought_before_an_answer_is_learned_with_it(
    at_will: PreTrainedTokenizerBase,
) -> None:
    assert learned(at_will, THOUGHT) == "<think>\ntwo and two\n</think>\n\n4<|im_end|>"
    assert learned(at_will, AT_ONCE) == "<think>\n\n</think>\n\n4<|im_end|>"


def test_thoughts_of_earlier_turns_are_dropped_where_the_template_drops_them(
    at_will: PreTrainedTokenizerBase,
) -> None:
    before = (*ASKED, Message("assistant", "4", "two and two"), Message("user", "3+3?"))
    prompt = asked(at_will, before)
    assert prompt.endswith(
        "assistant\n4<|im_end|>\n<|im_start|>user\n3+3?<|im_end|>\n" + "<|im_start|>assistant\n"
    )
    assert learned(at_will, Example(before, "6", "x", "three twice")).startswith(
        "<think>\nthree twice\n</think>\n\n6"
    )


def test_thoughts_between_a_tools_turns_reach_the_prompt_where_the_template_keeps_them(
    at_will: PreTrainedTokenizerBase,
) -> None:
    before = (*ASKED, Message("assistant", "Add.", "a sum"), Message("tool", "4"))
    assert "<think>\na sum\n</think>\n\nAdd.<|im_end|>" in asked(at_will, before)


def test_thoughts_that_a_template_does_not_write_are_refused_by_the_rows_origin() -> None:
    plain = tiny_tokenizer()
    message = refusal(plain, THOUGHT)
    assert "the answer has reasoning, which the backbone's chat template does not write" in message
    earlier = (*ASKED, Message("assistant", "4", "two and two"), Message("user", "3+3?"))
    assert learned(plain, Example(earlier, "6", "x")) == "6</s>"
