"""What a model thinks before it answers, in prompts and in what is learned."""

from collections.abc import Sequence

import pytest
from thinking import ALWAYS, AT_WILL, thinking_tokenizer
from tiny import tiny_tokenizer
from transformers import PreTrainedTokenizerBase

from niwfctl.backbone.arguments import pin
from niwfctl.backbone.prompts import encode, require_learnable
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
        require_learnable(tokenizer, example, encode(tokenizer, example))
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


INLINE = "two and two\n</think>\n\n4"


@pytest.mark.parametrize(
    "answer", [INLINE, f"<think>\n{INLINE}", f"<think>{INLINE}", f"\n<think>\n{INLINE}"]
)
def test_a_block_that_the_prompt_opens_is_not_opened_again(
    always: PreTrainedTokenizerBase, answer: str
) -> None:
    assert asked(always, ASKED) == "<s><｜User｜>2+2?<｜Assistant｜><think>\n"
    assert learned(always, Example(ASKED, answer, "x")) == f"{INLINE}</s>"


def test_reasoning_fills_the_block_that_the_prompt_opens(always: PreTrainedTokenizerBase) -> None:
    assert learned(always, THOUGHT) == f"{INLINE}</s>"
    always.chat_template = always.chat_template.replace("<think>\n", "<think>")
    assert learned(always, THOUGHT) == f"\n{INLINE}</s>"
    before = (*ASKED, Message("assistant", "4", "two and two"), Message("user", "3+3?"))
    assert asked(always, before).count("think>") == 1


@pytest.mark.parametrize("answer", ["4", "<think>\n4", "<think>4"])
def test_an_answer_that_would_never_leave_the_block_is_refused(
    always: PreTrainedTokenizerBase, answer: str
) -> None:
    message = refusal(always, Example(ASKED, answer, "sums.jsonl:9"))
    assert "the prompt ends with <think>, and the answer has no </think>" in message
    assert "`reasoning_content`" in message and "--template-arg" in message


def test_it_is_refused_too_where_the_template_writes_prompt_and_answer_in_one(
    always: PreTrainedTokenizerBase,
) -> None:
    always.chat_template = (
        "{% for m in messages %}{{ '<think>\n' if m.role == 'assistant' else '' }}{{ m.content }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<think>\n' }}{% endif %}"
    )
    assert "has no </think>" in refusal(always, AT_ONCE)
    assert learned(always, Example(ASKED, INLINE, "x")) == f"{INLINE}</s>"


def test_a_template_that_fills_the_block_itself_is_left_to_it(
    always: PreTrainedTokenizerBase,
) -> None:
    written = "'<think>\n' + (m.reasoning_content or '') + '\n</think>\n\n' + m.content"
    always.chat_template = (
        f"{{% for m in messages %}}{{{{ {written} if m.role == 'assistant' else m.content }}}}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<think>\n' }}{% endif %}"
    )
    assert learned(always, THOUGHT) == f"{INLINE}</s>"
    assert learned(always, AT_ONCE) == "\n</think>\n\n4</s>"


@pytest.fixture
def at_once(at_will: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """One whose prompts end with an empty block."""
    pin(at_will, {"enable_thinking": False})
    return at_will


@pytest.mark.parametrize("answer", ["4", "<think>\n\n</think>\n\n4", "<think></think>4"])
def test_an_empty_block_that_is_part_of_the_prompt_is_not_learned_again(
    at_once: PreTrainedTokenizerBase, answer: str
) -> None:
    assert learned(at_once, Example(ASKED, answer, "x")) == "4<|im_end|>"
    at_once.chat_template = ALWAYS.replace("<think>\n", "<think>\n</think>")
    assert learned(at_once, Example(ASKED, answer, "x")) == "4</s>"


@pytest.mark.parametrize("example", [THOUGHT, Example(ASKED, f"<think>\n{INLINE}", "sums.jsonl:7")])
def test_thoughts_after_a_prompt_that_ends_them_are_refused(
    at_once: PreTrainedTokenizerBase, example: Example
) -> None:
    message = refusal(at_once, example)
    assert "the answer has reasoning, which the backbone's chat template does not write" in message


@pytest.mark.parametrize("answer", ["]x", "\n  4\n", "<think>4", "think> 4 </think>"])
def test_an_answer_after_a_prompt_that_does_not_think_stays_as_it_is(answer: str) -> None:
    plain = tiny_tokenizer()
    plain.chat_template = (
        "{% for m in messages %}{{ loop.last }}{{ m.content }}{% endfor %}"
        "{{ '[/INST]' if add_generation_prompt else '' }}"
    )
    assert learned(plain, Example(ASKED, answer, "x")) == f"{answer}</s>"


def test_what_may_not_be_learned_may_still_be_measured(always: PreTrainedTokenizerBase) -> None:
    assert learned(always, AT_ONCE) == "4</s>"
