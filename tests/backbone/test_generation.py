"""Answers in a batch whose rows want different things, and the pieces their text comes in."""

from collections.abc import Sequence
from itertools import count

import pytest
import torch
from calls import Names
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_model, tiny_tokenizer
from transformers import GenerationConfig, PreTrainedModel

from niwfctl.backbone.adapter import ActiveField, FieldAdapter
from niwfctl.backbone.generation import AnswerOptions, Request, answer
from niwfctl.backbone.load import Backbone
from niwfctl.backbone.pieces import Pieces
from niwfctl.backbone.sites import find_sites
from niwfctl.field.basis import Basis
from niwfctl.field.coordinates import CoordinateMap
from niwfctl.field.generator import Generator

TOKENIZER = tiny_tokenizer()
PROMPTS = ["Say apple.", "zzz qqq plum, and then some more of it", "?", "Say pear."]


@pytest.fixture(scope="module")
def adapter() -> FieldAdapter:
    return with_field(tiny_model())


def with_field(model: PreTrainedModel) -> FieldAdapter:
    """A float32 model with a field that depends on the prompt."""
    sites = find_sites(model, 2)
    adapter = FieldAdapter(model, sites, CoordinateMap.fit(torch.randn(50, 64) * 0.1, 4))
    random = torch.Generator().manual_seed(7)
    basis = Basis.initial(sites, 2, random)
    for up in basis.up.values():
        up.normal_(std=0.3, generator=random)
    generator = Generator(4, 2, 1).requires_grad_(False)
    torch.nn.init.normal_(generator.outer.weight)
    adapter.active = ActiveField.of(adapter.groups, [basis], generator, 0.5)
    return adapter


def answered(adapter: FieldAdapter, rows: Sequence[tuple[str, AnswerOptions]]) -> list[Request]:
    made = [Request(TOKENIZER, TOKENIZER(text)["input_ids"], 1, options) for text, options in rows]
    answer(Backbone(adapter.model, TOKENIZER, "tiny"), adapter, made)
    return made


def outcome(row: Request) -> tuple[str, int, str | None]:
    return row.text, row.count, row.ended


def test_rows_that_want_different_things_are_answered_as_if_alone(adapter: FieldAdapter) -> None:
    (free,) = answered(adapter, [(PROMPTS[3], AnswerOptions(30))])
    options = [
        AnswerOptions(40),
        AnswerOptions(7),
        AnswerOptions(20, temperature=1.0, top_p=0.9, seed=4),
        AnswerOptions(30, stop=(free.text[9:12], "never said")),
    ]
    asked = list(zip(PROMPTS, options, strict=True))
    together = answered(adapter, asked)
    assert [outcome(row) for row in together] == [
        outcome(row) for one in asked for row in answered(adapter, [one])
    ]
    assert [row.ended for row in together[1:]] == ["length", "length", "stop"]
    assert together[3].text == free.text[: free.text.index(free.text[9:12])]
    assert together[1].count == 7


def test_what_is_handed_on_is_the_text_and_the_last_piece_says_how_it_ended(
    adapter: FieldAdapter,
) -> None:
    row = Request(TOKENIZER, TOKENIZER(PROMPTS[0])["input_ids"], 1, AnswerOptions(20))
    heard: list[tuple[str, str | None]] = []
    row.hand_on = lambda piece: heard.append((piece, row.ended))
    answer(Backbone(adapter.model, TOKENIZER, "tiny"), adapter, [row])
    assert "".join(piece for piece, _ in heard) == row.text
    assert [ended for _, ended in heard] == [None] * (len(heard) - 1) + ["length"]


def test_a_cancelled_row_ends_at_once_and_leaves_the_others_as_they_are(
    adapter: FieldAdapter,
) -> None:
    made = [
        Request(TOKENIZER, TOKENIZER(text)["input_ids"], 1, AnswerOptions(20))
        for text in PROMPTS[:2]
    ]

    def cancel(piece: str) -> None:
        made[0].cancelled = True

    made[0].hand_on = cancel
    answer(Backbone(adapter.model, TOKENIZER, "tiny"), adapter, made)
    assert made[0].count < 20 and made[0].ended is None
    (alone,) = answered(adapter, [(PROMPTS[1], AnswerOptions(20))])
    assert outcome(made[1]) == outcome(alone)


def taking_turns(
    adapter: FieldAdapter, asked: Sequence[tuple[str, AnswerOptions]], steps: int
) -> list[Request]:
    """Answers in batches that each go on for some steps; every batch but the first has one more."""
    made = [Request(TOKENIZER, TOKENIZER(text)["input_ids"], 1, options) for text, options in asked]
    backbone, waiting, going = Backbone(adapter.model, TOKENIZER, "tiny"), list(made), []
    while waiting or going:
        going.append(waiting.pop()) if waiting else None
        left = count(steps - 1, -1)
        answer(backbone, adapter, going, lambda left=left: next(left) <= 0)
        going = [row for row in reversed(going) if not row.over]
    return made


@pytest.mark.parametrize("steps", [1, 3, 16])
def test_a_row_that_goes_on_in_another_batch_is_answered_as_if_alone(
    adapter: FieldAdapter, steps: int
) -> None:
    (free,) = answered(adapter, [(PROMPTS[3], AnswerOptions(30))])
    options = [
        AnswerOptions(40),
        AnswerOptions(25, temperature=1.0, top_p=0.9, seed=4),
        AnswerOptions(7),
        AnswerOptions(30, stop=(free.text[9:12],)),
    ]
    asked = list(zip(PROMPTS, options, strict=True))
    turns = taking_turns(adapter, asked, steps)
    alone = [row for one in asked for row in answered(adapter, [one])]
    assert [outcome(row) for row in turns] == [outcome(row) for row in alone]
    assert [row.tokens for row in turns] == [row.tokens for row in alone]


@pytest.mark.parametrize(
    "model", [("gemma3_text", {}), ("falcon_h1", {}), ("mistral", {"sliding_window": 16})]
)
def test_a_row_goes_on_whatever_a_model_keeps_of_earlier_tokens(
    model: tuple[str, dict[str, int]],
) -> None:
    """Windows, and states that are not of single tokens."""
    kind, sizes = model
    adapter = with_field(tiny_model(kind, **sizes))
    asked = [(prompt, AnswerOptions(24)) for prompt in PROMPTS[:3]]
    alone = [row for one in asked for row in answered(adapter, [one])]
    assert [row.tokens for row in taking_turns(adapter, asked, 5)] == [row.tokens for row in alone]


def test_a_row_that_goes_on_keeps_the_coordinate_of_its_prompt_to_the_bit(
    adapter: FieldAdapter,
) -> None:
    row = Request(TOKENIZER, TOKENIZER(PROMPTS[0])["input_ids"], 1, AnswerOptions(20))
    other = Request(TOKENIZER, TOKENIZER(PROMPTS[1])["input_ids"], 1, AnswerOptions(20))
    backbone = Backbone(adapter.model, TOKENIZER, "tiny")
    answer(backbone, adapter, [row], lambda: row.count == 5)
    first = adapter.z[0]
    answer(backbone, adapter, [other, row])
    assert torch.equal(adapter.z[1], first) and not torch.allclose(adapter.z[0], first)


def test_sampling_follows_its_seed_and_without_one_differs(adapter: FieldAdapter) -> None:
    def texts(**options) -> set[str]:
        rows = [(PROMPTS[0], AnswerOptions(12, temperature=1.5, **options))] * 6
        return {row.text for row in answered(adapter, rows)}

    assert len(texts(seed=3)) == 1
    assert texts(seed=3) != texts(seed=5)
    assert len(texts()) > 1


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_a_seed_draws_what_multinomial_draws_without_the_checks_that_wait_for_a_gpu(
    top_p: float,
) -> None:
    scores = torch.randn(260, generator=torch.Generator().manual_seed(0)) * 3
    chances, order = scores.softmax(-1), torch.arange(260)
    if top_p < 1:
        chances, order = chances.sort(descending=True)
        chances[1:][(chances.cumsum(-1) - chances)[1:] >= top_p] = 0
    for seed in range(20):
        options = AnswerOptions(1, temperature=1.0, top_p=top_p, seed=seed)
        row, random = Request(TOKENIZER, [1], 1, options), torch.Generator().manual_seed(seed)
        with Names() as called:
            drawn = [int(row.sample(scores)) for _ in range(20)]
        assert "multinomial" not in called.names
        torchs = [int(order[torch.multinomial(chances, 1, generator=random)]) for _ in drawn]
        assert drawn == torchs


def test_hardly_any_temperature_or_probability_takes_the_likeliest_token(
    adapter: FieldAdapter,
) -> None:
    options = [AnswerOptions(12), AnswerOptions(12, temperature=2.0, top_p=0.0)]
    options += [AnswerOptions(12, temperature=low) for low in (1e-5, 1e-30, 1e-50)]
    rows = answered(adapter, [(PROMPTS[0], one) for one in options])
    assert len({row.text for row in rows}) == 1


def test_an_answer_that_is_begun_anew_has_the_same_draws(adapter: FieldAdapter) -> None:
    options = AnswerOptions(12, temperature=1.0, seed=3)
    (first,) = answered(adapter, [(PROMPTS[0], options)])
    row = Request(TOKENIZER, TOKENIZER(PROMPTS[0])["input_ids"], 1, options)
    row.sample(torch.zeros(8))  # of a batch that failed before its first token
    answer(Backbone(adapter.model, TOKENIZER, "tiny"), adapter, [row])
    assert outcome(row) == outcome(first)


@pytest.mark.parametrize(
    "settings", [{"repetition_penalty": 3.0}, {"min_length": 30}, {"stop_strings": ["a"]}]
)
def test_the_settings_of_the_model_do_not_alter_answers(
    adapter: FieldAdapter, settings: dict[str, object]
) -> None:
    (plain,) = answered(adapter, [(PROMPTS[0], AnswerOptions(24))])
    own = adapter.model.generation_config
    adapter.model.generation_config = GenerationConfig(eos_token_id=own.eos_token_id, **settings)
    try:
        (row,) = answered(adapter, [(PROMPTS[0], AnswerOptions(24))])
        assert adapter.model.generation_config.to_dict() | settings == (
            adapter.model.generation_config.to_dict()
        )
    finally:
        adapter.model.generation_config = own
    assert outcome(row) == outcome(plain)


def test_a_row_that_ended_is_padded_with_the_tokenizers_token_even_if_that_is_the_first(
    adapter: FieldAdapter,
) -> None:
    tokenizer, fed = tiny_tokenizer(), []
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    tokens = tokenizer(PROMPTS[0])["input_ids"]
    rows = [Request(tokenizer, tokens, 1, AnswerOptions(count)) for count in (2, 6)]
    embed = adapter.model.get_input_embeddings()
    handle = embed.register_forward_pre_hook(lambda module, args: fed.append(args[0][0, -1]))
    try:
        answer(Backbone(adapter.model, tokenizer, "tiny"), adapter, rows)
    finally:
        handle.remove()
    assert len(fed) == 6 and not any(fed[3:])


def test_sampling_draws_from_the_likeliest_tokens_that_top_p_allows() -> None:
    scores = torch.tensor([0.1, 0.4, 0.2, 0.3]).log()
    for top_p, allowed in ((0.39, {1}), (0.41, {1, 3}), (0.89, {1, 2, 3}), (1.0, {0, 1, 2, 3})):
        row = Request(TOKENIZER, [1], 0, AnswerOptions(1, temperature=1.0, top_p=top_p, seed=0))
        assert {int(row.sample(scores)) for _ in range(300)} == allowed


@given(st.lists(st.integers(0, 257), max_size=30))
def test_pieces_of_any_tokens_make_up_their_text(tokens: list[int]) -> None:
    pieces = Pieces(TOKENIZER)
    text = "".join([*map(pieces.add, tokens), pieces.rest()])
    assert text == TOKENIZER.decode(tokens, skip_special_tokens=True)


@given(
    st.text("abä\n", max_size=20),
    st.lists(st.text("abä\n", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_the_text_ends_before_the_first_stop_text_that_is_complete(
    text: str, stop: list[str]
) -> None:
    pieces = Pieces(TOKENIZER, stop)
    shown = ""
    for token in TOKENIZER(text)["input_ids"]:
        shown += pieces.add(token)
        assert text.startswith(shown) and not any(one in shown for one in stop)
    complete = [(text.index(one) + len(one), text.index(one)) for one in stop if one in text]
    assert shown + pieces.rest() == text[: min(complete)[1] if complete else None]
    assert pieces.stopped == bool(complete)
