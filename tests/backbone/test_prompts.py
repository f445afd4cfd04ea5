"""Behaviour of prompts as tokens, of padded batches, and of scores on answers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_model, tiny_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from niwfctl.backbone.adapter import ActiveField, FieldAdapter
from niwfctl.backbone.batch import batched, pad, prompt_mask
from niwfctl.backbone.load import resolve
from niwfctl.backbone.prompts import (
    Tokens,
    common_prefix,
    encode,
    opening_skip,
    prompt_tokens,
    turn_end,
)
from niwfctl.backbone.scoring import Scorer
from niwfctl.backbone.sites import find_sites
from niwfctl.backbone.template import chat_template, marks, render
from niwfctl.errors import BackboneError, DataError
from niwfctl.field.basis import Basis
from niwfctl.field.coordinates import CoordinateMap
from niwfctl.field.generator import Generator
from niwfctl.records import Example, Message

ADD = Example((Message("user", "Add 1 and 2."),), "3", "sums.jsonl:7")
BRIEF = Example((Message("system", "Be brief."), *ADD.messages), "3", "sums.jsonl:8")
TALK = Example(
    (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Bye")), "Farewell", "x"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}"
    "{% endif %}[{{ m.content }}]{% endfor %}"
)
# Writes the thoughts of the last turn only, so that an answer changes what was before it.
REWRITING = (
    "{% for m in messages %}{{ '<think>' if loop.last else '' }}{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}|{% endif %}"
)
token_rows = st.lists(st.integers(0, 255), min_size=1, max_size=12)
rows_to_score = st.lists(st.builds(Tokens, token_rows, token_rows), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def chatml() -> PreTrainedTokenizerBase:
    """The embedded backbone's tokenizer, with ChatML as its template."""
    return AutoTokenizer.from_pretrained(resolve("smollm2").folder)


@pytest.fixture
def plain() -> PreTrainedTokenizerBase:
    return tiny_tokenizer()


@pytest.mark.parametrize("example", [ADD, BRIEF, TALK])
def test_a_backbones_own_template_is_used_and_the_answer_ends_with_the_turn(
    chatml: PreTrainedTokenizerBase, example: Example
) -> None:
    tokens = encode(chatml, example)
    assert chatml.decode(tokens.answer) == f"{example.answer}<|im_end|>"
    assert tokens.answer.count(chatml.eos_token_id) == 1
    prompt = chatml.decode(tokens.prompt)
    assert prompt.endswith(
        f"<|im_start|>user\n{example.messages[-1].content}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokens.prompt == prompt_tokens(chatml, example.messages)
    assert len(tokens) == len(tokens.prompt) + len(tokens.answer)


def test_a_system_message_takes_the_place_of_the_templates_own(
    chatml: PreTrainedTokenizerBase,
) -> None:
    assert render(chatml, BRIEF.messages).startswith("<|im_start|>system\nBe brief.<|im_end|>")
    assert "Be brief." not in render(chatml, ADD.messages)


def test_a_backbone_without_a_template_gets_the_documented_one(
    plain: PreTrainedTokenizerBase,
) -> None:
    tokens = encode(plain, BRIEF)
    assert plain.decode(tokens.prompt) == (
        "<s>Be brief.\n\n### Instruction:\nAdd 1 and 2.\n\n### Response:\n"
    )
    assert tokens.prompt[0] == plain.bos_token_id
    assert plain.decode(tokens.answer) == "3</s>"
    assert tokens.answer[-1] == plain.eos_token_id


def test_earlier_turns_are_part_of_the_prompt(plain: PreTrainedTokenizerBase) -> None:
    tokens = encode(plain, TALK)
    assert plain.decode(tokens.prompt) == (
        "<s>### Instruction:\nHi\n\n### Response:\nHello</s>\n\n"
        "### Instruction:\nBye\n\n### Response:\n"
    )
    assert plain.decode(tokens.answer) == "Farewell</s>"


def test_a_template_that_rewrites_the_prompt_still_gives_the_answer_and_its_end(
    plain: PreTrainedTokenizerBase,
) -> None:
    plain.chat_template = REWRITING
    tokens = encode(plain, ADD)
    assert plain.decode(tokens.prompt) == "<think>Add 1 and 2.|"
    assert plain.decode(tokens.answer) == "3</s>"


def test_a_conversation_that_the_template_refuses_is_named_by_its_origin(
    plain: PreTrainedTokenizerBase,
) -> None:
    plain.chat_template = NO_SYSTEM
    assert plain.decode(encode(plain, ADD).prompt) == "[Add 1 and 2.]"
    with pytest.raises(DataError, match=r"^sums\.jsonl:8: .*\(no system role\)") as error:
        encode(plain, BRIEF)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="no system role"):
        prompt_tokens(plain, BRIEF.messages)


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PLAIN_TURNS = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
DATED = "{{ strftime_now('%d %b %Y, %B') }}|{% for m in messages %}{{ m.content }}|{% endfor %}"
# Writes a system turn into the last turn of the user, as Mistral's does.
SYSTEM_LAST = (
    "{{ bos_token }}{% set s = messages[0].content if messages[0].role == 'system' else '' %}"
    "{% for m in messages %}{% if m.role == 'user' %}"
    "[INST] {{ s + '\n\n' if s and loop.last else '' }}{{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)


def test_a_turn_ends_where_the_template_ends_it_whatever_ends_a_text(
    plain: PreTrainedTokenizerBase,
) -> None:
    plain.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    plain.chat_template = CHATML  # of a base model, whose texts end with </s>
    assert plain.decode(turn_end(plain)) == "<|im_end|>"
    assert plain.decode(encode(plain, ADD).answer) == "3<|im_end|>"
    plain.chat_template = None
    assert turn_end(plain) == plain.eos_token_id


@pytest.mark.parametrize("template", [PLAIN_TURNS, CHATML])
@pytest.mark.parametrize("answer", ["3", "three \n\n words "])
def test_where_a_template_ends_turns_in_plain_text_the_end_of_a_text_is_learned_instead(
    plain: PreTrainedTokenizerBase, template: str, answer: str
) -> None:
    plain.chat_template = template  # of whose marks this tokenizer makes no tokens
    for messages in (ADD.messages, TALK.messages):
        tokens = encode(plain, Example(messages, answer, "x"))
        assert plain.decode(tokens.answer) == f"{answer}</s>"
        assert tokens.answer[-1] == turn_end(plain) == plain.eos_token_id
        assert tokens.prompt == prompt_tokens(plain, messages)


def test_of_several_templates_the_default_is_taken(plain: PreTrainedTokenizerBase) -> None:
    plain.chat_template = {"default": "[{{ messages[0].content }}]", "tool_use": "?"}
    assert render(plain, ADD.messages) == "[Add 1 and 2.]"
    plain.chat_template = {"rag": "!", "tool_use": "?"}
    with pytest.raises(BackboneError, match=r"several chat templates \(rag, tool_use\)"):
        render(plain, ADD.messages)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (None, ["### Instruction:", "### Response:"]),  # and <s> and </s>, which HTML has, too
        (CHATML, ["<|im_start|>", "<|im_end|>"]),
        (SYSTEM_LAST, ["[INST]", "[/INST]"]),
        (CHATML.replace("<|im_start|>", "<start_of_turn>"), ["<start_of_turn>", "<|im_end|>"]),
        (CHATML.replace("<|im_start|>", "<｜User｜>"), ["<｜User｜>", "<|im_end|>"]),
        (PLAIN_TURNS, []),
        ("{% if messages|length < 9 %}{{ raise_exception('too short') }}{% endif %}", []),
    ],
)
def test_the_marks_of_a_template_are_those_that_texts_do_not_hold_by_themselves(
    plain: PreTrainedTokenizerBase, template: str | None, expected: list[str]
) -> None:
    plain.chat_template = template
    assert marks(plain) == expected


def test_a_template_that_writes_the_date_writes_the_same_every_day(
    plain: PreTrainedTokenizerBase,
) -> None:
    plain.chat_template = DATED
    assert render(plain, ADD.messages) == "26 Jul 2024, July|Add 1 and 2.|"
    assert chat_template(plain).endswith(DATED)


def test_an_answer_has_the_tokens_that_it_has_after_its_prompt() -> None:
    words = {word: index for index, word in enumerate(["<unk>", "▁ask", "|", "▁|", "▁yes", "yes"])}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="first"), pre_tokenizers.Split("|", "isolated")]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    asked = Example((Message("user", "ask|"),), "yes", "x")
    tokens = encode(tokenizer, asked)
    assert tokenizer.convert_ids_to_tokens(tokens.prompt) == ["▁ask", "|"]
    assert tokenizer.convert_ids_to_tokens(tokens.answer) == ["yes"]  # alone it is ▁yes


@pytest.mark.parametrize("words", ["Be brief.", "", "? A", "Answer in French.\n\nNever explain."])
def test_what_a_system_turn_brings_is_known_from_what_a_user_says(
    chatml: PreTrainedTokenizerBase, words: str
) -> None:
    messages = [Message("system", words), *ADD.messages]
    tokens = prompt_tokens(chatml, messages)
    skip = opening_skip(chatml, messages, tokens)
    assert chatml.decode(tokens[:skip]) == (
        f"<|im_start|>system\n{words}<|im_end|>\n<|im_start|>user\n"
    )
    assert opening_skip(chatml, ADD.messages, prompt_tokens(chatml, ADD.messages)) is None


def test_what_an_assistant_says_first_is_known_from_what_a_user_says(
    chatml: PreTrainedTokenizerBase,
) -> None:
    messages = [Message("assistant", "Hi!"), Message("assistant", "Well?"), *ADD.messages]
    tokens = prompt_tokens(chatml, messages)
    assert chatml.decode(tokens[: opening_skip(chatml, messages, tokens)]).endswith(
        "<|im_start|>assistant\nHi!<|im_end|>\n<|im_start|>assistant\nWell?<|im_end|>\n"
        "<|im_start|>user\n"
    )


def test_a_template_in_which_the_user_speaks_first_says_what_to_do_with_a_greeting(
    plain: PreTrainedTokenizerBase,
) -> None:
    plain.chat_template = (
        "{% if messages[0].role != 'user' %}{{ raise_exception('alternate') }}{% endif %}"
    )
    greeted = Example((Message("assistant", "Hi!"), *ADD.messages), "5", "a.jsonl:3")
    with pytest.raises(DataError, match=r"^a.jsonl:3: .*leave out what .* make it a system turn"):
        encode(plain, greeted)


def test_a_system_turn_that_a_template_writes_later_is_not_looked_for_before(
    plain: PreTrainedTokenizerBase,
) -> None:
    plain.chat_template = SYSTEM_LAST
    system = Message("system", "Be brief.")
    for messages, before in (
        ([system, *ADD.messages], "<s>[INST] Be brief.\n\n"),
        ([system, *TALK.messages], "<s>[INST] "),
    ):
        tokens = prompt_tokens(plain, messages)
        assert plain.decode(tokens[: opening_skip(plain, messages, tokens)]) == before


@given(answer=st.text(st.characters(codec="utf-8"), min_size=1))
def test_prompt_and_answer_are_the_whole_conversation(answer: str) -> None:
    tokenizer = tiny_tokenizer()
    tokens = encode(tokenizer, Example(ADD.messages, answer, "x"))
    whole = render(tokenizer, ADD.messages) + answer + "</s>"
    assert tokens.prompt + tokens.answer == tokenizer(whole, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("rows", "length"),
    [([[1, 2, 3], [1, 2, 4]], 2), ([[1, 2], [1, 2, 4]], 2), ([[1], [2]], 0), ([[1, 2]], 2)],
)
def test_the_common_prefix_is_what_all_rows_begin_with(rows: list, length: int) -> None:
    assert common_prefix(rows) == length


def test_rows_are_padded_on_either_side() -> None:
    assert pad([[1, 2, 3], [4]]).tolist() == [[1, 2, 3], [4, 0, 0]]
    assert pad([[1, 2, 3], [4]], left=True).tolist() == [[1, 2, 3], [0, 0, 4]]


def test_batches_are_runs_of_at_most_so_many_rows() -> None:
    assert list(batched([1, 2, 3, 4, 5], 2)) == [[1, 2], [3, 4], [5]]


@pytest.mark.parametrize(
    ("left", "expected"), [(False, ["0110", "1000", "0111"]), (True, ["0011", "0001", "0111"])]
)
def test_the_mask_leaves_out_the_prefix_but_never_a_rows_last_token(
    left: bool, expected: list[str]
) -> None:
    lengths, skip = [3, 1, 4], 1
    mask = prompt_mask(lengths, 4, skip, left=left)
    assert ["".join(map(str, row)) for row in mask.int().tolist()] == expected
    assert prompt_mask(lengths, 4, 99, left=left).sum(1).tolist() == [1, 1, 1]


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4), skip=st.integers(0, 9))
def test_the_mask_of_rows_at_the_right_edge_is_that_at_the_left_edge_moved(
    lengths: list[int], skip: int
) -> None:
    begun, ended = (prompt_mask(lengths, 9, skip, left=left) for left in (False, True))
    for length, one, other in zip(lengths, begun, ended, strict=True):
        assert one[:length].tolist() == other[9 - length :].tolist()
        assert 1 <= one.sum() == other.sum()


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    """Scores with an active field whose gates differ from prompt to prompt."""
    model = tiny_model()
    sites = find_sites(model, 2)
    random = torch.Generator().manual_seed(3)
    states = torch.randn(50, 64, generator=random) * 0.1
    adapter = FieldAdapter(model, sites, CoordinateMap.fit(states, 4))
    basis = Basis.initial(sites, 2, random)
    for up in basis.up.values():
        up.normal_(std=0.3, generator=random)
    generator = Generator(4, 2, 1).requires_grad_(False)
    torch.nn.init.normal_(generator.outer.weight, generator=random)
    adapter.active = ActiveField.of(adapter.groups, [basis], generator, 1.0)
    return Scorer(adapter, skip=1)


@torch.no_grad()
def plain_loss(scorer: Scorer, row: Tokens) -> float:
    """The row's loss, from the logits of all its tokens."""
    tokens = torch.tensor([row.prompt + row.answer])
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    mask[0, min(1, len(row.prompt) - 1) : len(row.prompt)] = True
    with scorer.adapter.prompts(mask):
        logits = scorer.adapter.model(tokens).logits[0]
    begin = len(row.prompt)
    return torch.nn.functional.cross_entropy(
        logits[begin - 1 : -1], tokens[0, begin:], reduction="sum"
    ).item()


@settings(deadline=None, max_examples=25)
@given(rows=rows_to_score, batch_size=st.integers(1, 4))
def test_a_score_is_the_plain_cross_entropy_of_the_answers(
    scorer: Scorer, rows: list[Tokens], batch_size: int
) -> None:
    score = scorer.score(rows, batch_size)
    assert score.tokens == sum(len(row.answer) for row in rows)
    expected = math.exp(sum(plain_loss(scorer, row) for row in rows) / score.tokens)
    assert score.perplexity == pytest.approx(expected, rel=1e-4)


@settings(deadline=None, max_examples=25)
@given(rows=rows_to_score)
def test_rows_of_different_lengths_are_scored_together_as_if_alone(
    scorer: Scorer, rows: list[Tokens]
) -> None:
    with torch.no_grad():
        together, count = scorer.loss(rows)
        alone = [scorer.loss([row]) for row in rows]
    assert count == sum(tokens for _, tokens in alone)
    torch.testing.assert_close(together, sum(loss for loss, _ in alone), atol=1e-3, rtol=1e-4)


@settings(deadline=None, max_examples=10)
@given(rows=rows_to_score)
def test_coordinates_come_in_the_order_of_the_rows(scorer: Scorer, rows: list[Tokens]) -> None:
    coordinates = scorer.score(rows, 2).coordinates
    for row, z in zip(rows, coordinates, strict=True):
        torch.testing.assert_close(scorer.score([row], 1).coordinates[0], z, atol=1e-4, rtol=1e-4)


@settings(deadline=None, max_examples=10)
@given(rows=rows_to_score, batch_size=st.integers(1, 4), part=st.sampled_from([1, 3, 1000]))
def test_losses_come_in_the_order_of_the_rows(
    scorer: Scorer, rows: list[Tokens], batch_size: int, part: int
) -> None:
    rows = [Tokens([1, 2], []), *rows]  # which has nothing to lose
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("niwfctl.backbone.scoring.LOGITS", part * scorer._vocabulary)
        score = scorer.score(rows, batch_size)
    expected = torch.tensor([0.0, *(plain_loss(scorer, row) for row in rows[1:])]).double()
    torch.testing.assert_close(score.losses, expected, atol=1e-3, rtol=1e-4)
    assert score.perplexity == pytest.approx((score.losses.sum() / score.tokens).exp().item())


@pytest.mark.parametrize("rows", [[], [Tokens([1, 2], [])]])
def test_where_no_row_has_an_answer_there_is_nothing_to_score(
    scorer: Scorer, rows: list[Tokens]
) -> None:
    with pytest.raises(DataError, match="nothing to score: give at least one example"):
        scorer.score(rows, 2)
