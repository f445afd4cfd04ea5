"""Behaviour of splitting and hashing examples."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from niwfctl.errors import DataError
from niwfctl.records import Example, Message
from niwfctl.training.data import data_hash, share_to_hold_out, split, spread


def user(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def examples_of(*sizes: int) -> list[Example]:
    """Records with the given numbers of answers."""
    return [
        Example(user(f"{record}.{turn}"), "yes", f"file:{record}")
        for record, size in enumerate(sizes)
        for turn in range(size)
    ]


@given(
    sizes=st.lists(st.integers(1, 3), min_size=2, max_size=30),
    share=st.floats(0, 1, exclude_min=True, exclude_max=True),
    seed=st.integers(0, 2**32),
)
def test_a_split_parts_the_records_in_order_and_by_seed(
    sizes: list[int], share: float, seed: int
) -> None:
    examples = examples_of(*sizes)
    training, held_out = split(examples, share, seed)
    assert training and held_out
    assert {e.origin for e in training}.isdisjoint(e.origin for e in held_out)
    assert sorted(training + held_out, key=examples.index) == examples
    assert training == [e for e in examples if e in training]
    assert held_out == [e for e in examples if e in held_out]
    assert split(examples, share, seed) == (training, held_out)


def test_a_split_holds_out_its_share_of_the_records() -> None:
    training, held_out = split(examples_of(*[1] * 100), 0.1, seed=0)
    assert (len(training), len(held_out)) == (90, 10)


def test_what_more_rows_held_out_would_not_tell_is_learned_from() -> None:
    training, held_out = split(examples_of(*[1] * 10_000), 0.05, seed=0)
    assert (len(training), len(held_out)) == (9744, 256)
    firsts = [int(example.origin.removeprefix("file:")) < 5_000 for example in held_out]
    assert 100 < sum(firsts) < 156  # of both halves alike


@given(count=st.integers(0, 200), most=st.integers(1, 50))
def test_rows_are_picked_at_even_distances(count: int, most: int) -> None:
    picked = spread(range(count), most)
    assert len(picked) == min(count, most)
    steps = {after - before for before, after in itertools.pairwise([*picked, count])}
    assert not picked or (picked[0] == 0 and max(steps) - min(steps) <= 1)


@given(copies=st.lists(st.integers(0, 5), min_size=2, max_size=40), seed=st.integers(0, 2**32))
def test_equal_records_stay_on_one_side(copies: list[int], seed: int) -> None:
    examples = [
        Example(user(f"{content}"), "yes", f"file:{line}") for line, content in enumerate(copies)
    ]
    different = set(copies)
    if len(different) < 2:
        with pytest.raises(DataError, match=r"^at least 2 different records .* holds 1"):
            split(examples, 0.5, seed)
        return
    training, held_out = split(examples, 0.5, seed)
    assert {e.messages for e in training}.isdisjoint(e.messages for e in held_out)
    assert len({e.messages for e in held_out}) == max(round(len(different) / 2), 1)
    assert sorted(training + held_out, key=examples.index) == examples


@given(answers=st.lists(st.integers(1, 6), min_size=2, max_size=40), seed=st.integers(0, 2**32))
def test_all_answers_to_one_prompt_stay_on_one_side(answers: list[int], seed: int) -> None:
    examples = [
        Example(user(f"{prompt}"), f"{answer}", f"file:{prompt}.{answer}")
        for prompt, count in enumerate(answers)
        for answer in range(count)
    ]
    training, held_out = split(examples, 0.3, seed)
    assert {e.messages for e in training}.isdisjoint(e.messages for e in held_out)
    assert training and held_out


def test_records_that_share_their_only_prompt_are_still_split() -> None:
    examples = [Example(user("Write a poem."), f"{n}", f"file:{n}") for n in range(100)]
    training, held_out = split(examples, 0.1, seed=0)
    assert (len(training), len(held_out)) == (90, 10)


def test_the_rows_of_long_chats_are_counted_one_by_one() -> None:
    training, held_out = split(examples_of(*[10] * 6000), 0.05, seed=0)
    assert len(held_out) == 250
    training, held_out = split(examples_of(300, 300), 0.05, seed=0)
    assert (len(training), len(held_out)) == (300, 300)


def test_another_seed_splits_otherwise() -> None:
    examples = examples_of(*[1] * 100)
    assert split(examples, 0.5, seed=0) != split(examples, 0.5, seed=1)


def test_a_split_is_the_same_on_every_machine() -> None:
    _, held_out = split(examples_of(*[1] * 10), 0.3, seed=0)
    assert [example.origin for example in held_out] == ["file:3", "file:5", "file:7"]


@pytest.mark.parametrize("sizes", [[], [1], [3]])
def test_fewer_than_two_records_cannot_be_split(sizes: list[int]) -> None:
    with pytest.raises(DataError, match=f"^at least 2 different records .* holds {len(sizes)}"):
        split(examples_of(*sizes), 0.5, seed=0)


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(DataError, match=f"a share of {share} cannot be held out"):
        split(examples_of(1, 1), share, seed=0)


def test_any_change_of_the_examples_changes_the_hash() -> None:
    prompt = (Message("system", "a"), Message("user", "b"))
    variants = [
        [],
        [Example(prompt, "c", "o")],
        [Example(prompt, "d", "o")],
        [Example(prompt[1:], "c", "o")],
        [Example((*prompt[:1], Message("tool", "b")), "c", "o")],
        [Example((*prompt[:1], Message("user", "c")), "b", "o")],
        [Example(prompt, "c", "o"), Example(prompt, "d", "o")],
        [Example(prompt, "d", "o"), Example(prompt, "c", "o")],
    ]
    assert len({data_hash(variant) for variant in variants}) == len(variants)


def test_the_hash_is_that_of_the_canonical_form() -> None:
    example = Example(user("Why π?"), "Because.", "anywhere")
    # printf '%s\n' '[[["user","Why \u03c0?"]],"Because."]' | sha256sum
    assert data_hash([example]) == (
        "sha256:578d11034d4e10cf86273d17b2698c98fafe299c48d8c64fbf46ddb0a00f66c7"
    )


@pytest.mark.parametrize(
    ("prompts", "held_out"),
    [(2, 1), (5, 1), (9, 1), (10, 2), (20, 4), (39, 7), (40, 8), (147, 8), (160, 8), (400, 20)],
)
def test_of_few_prompts_more_are_held_out_where_no_share_is_given(
    prompts: int, held_out: int
) -> None:
    for sizes in ([1] * prompts, [3] * prompts):
        examples = examples_of(*sizes)
        share = share_to_hold_out(examples, 0.05)
        assert len(split(examples, share, seed=0)[1]) == held_out * sizes[0]
    same = [Example(user("Poem!"), f"{n}", f"file:{n}") for n in range(prompts)]
    assert len(split(same, share_to_hold_out(same, 0.05), seed=0)[1]) == held_out
