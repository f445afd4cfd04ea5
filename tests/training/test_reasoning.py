"""Records that tell what an assistant thought before it answered."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import QUICK
from records import refusal, user
from thinking import AT_WILL, thinking_tokenizer
from tiny import tiny_model

from niwfctl.errors import DataError
from niwfctl.records import Example, Message
from niwfctl.repository import Repository
from niwfctl.training.data import data_hash, read_examples, split

Write = Callable[..., str]
SAID = {"role": "assistant", "content": "4"}
NONE = [None, "", "\n\n", [], False]


def chat(**more: object) -> dict:
    return {"messages": [{"role": "user", "content": "2+2?"}, SAID | more]}


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_what_a_turn_thought_is_kept_under_any_of_its_names(write: Write, key: str) -> None:
    later = [{"role": "user", "content": "3+3?"}, {"role": "assistant", "content": "6"}]
    turns = chat(**{key: "two and two"})["messages"] + later
    path = write("a.jsonl", {"messages": turns})
    thought = Message("assistant", "4", "two and two")
    assert read_examples([path]) == [
        Example(user("2+2?"), "4", f"{path}:1", "two and two"),
        Example((*user("2+2?"), thought, *user("3+3?")), "6", f"{path}:1"),
    ]


def test_sharegpt_and_completions_of_turns_keep_it_too(write: Write) -> None:
    said = {"from": "gpt", "value": "4", "thinking": [{"type": "text", "text": "hm"}]}
    shared = {"conversations": [{"from": "human", "value": "2+2?"}, said]}
    turns = chat(reasoning="hm", reasoning_content="hm")["messages"]
    pair = {"prompt": turns[:1], "completion": turns[1:]}
    found = read_examples([write("a.jsonl", shared, pair)])
    assert [one.reasoning_content for one in found] == ["hm", "hm"]


@pytest.mark.parametrize("nothing", NONE)
def test_an_empty_reasoning_is_none(write: Write, nothing: object) -> None:
    path = write("a.jsonl", chat(reasoning_content=nothing, thinking=nothing))
    assert read_examples([path]) == [Example(user("2+2?"), "4", f"{path}:1")]


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        ({"reasoning": 7}, "has the value 7 for `messages[1].reasoning`: expected a string"),
        (
            {"reasoning": "a", "thinking": "b"},
            "has different texts for `messages[1].reasoning` and `messages[1].thinking`",
        ),
        (
            {"reasoning": "a", "content": "<think>a</think>4"},
            "has reasoning in `messages[1].reasoning` and in what it says",
        ),
    ],
)
def test_reasoning_that_is_no_text_or_told_twice_is_refused(
    write: Write, turn: dict, message: str
) -> None:
    path = write("a.jsonl", chat(**turn))
    assert refusal(path).startswith(f"{path}:1 {message}")


def test_reasoning_counts_towards_the_hash_of_data_and_its_absence_does_not() -> None:
    asked, thought = user("2+2?"), Message("assistant", "4", "hm")
    variants = [
        [Example(asked, "4", "o")],
        [Example(asked, "4", "o", "hm")],
        [Example(asked, "4", "o", "so")],
        [Example((*asked, thought, *asked), "4", "o")],
        [Example((*asked, Message("assistant", "4"), *asked), "4", "o")],
    ]
    assert len({data_hash(variant) for variant in variants}) == len(variants)
    # printf '%s\n' '[[["user","2+2?"]],"4","hm"]' | sha256sum
    assert (
        data_hash(variants[1])
        == "sha256:556abf6c09a8e656f6dea0f01b3bbd7c04695a812717cf0b6b5850bf6cc39cb0"
    )


def test_records_that_differ_only_in_their_reasoning_are_different_records() -> None:
    rows = [Example(user("2+2?"), "4", origin, origin) for origin in ("a", "b")]
    assert all(len(part) == 1 for part in split(rows, 0.5, 0))


def test_a_turn_of_a_conversation_takes_only_text_for_its_reasoning() -> None:
    with pytest.raises(DataError, match="has int for its reasoning_content: expected text"):
        Message("assistant", "4", 7)


def test_a_training_learns_the_reasoning(tmp_path: Path) -> None:
    tiny_model("qwen3", vocab_size=270).save_pretrained(tmp_path / "backbone")
    thinking_tokenizer(AT_WILL).save_pretrained(tmp_path / "backbone")
    repository = Repository.init(tmp_path / "field", model=str(tmp_path / "backbone"), dim=8)
    runs = []
    for name, thought in (("at-once", None), ("thought", "two and two are four")):
        turns = [[{"role": "user", "content": f"{n}+2?"}, SAID] for n in range(20)]
        records = [{"messages": [one, two | {"thinking": thought}]} for one, two in turns]
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps(one) + "\n" for one in records))
        runs.append(repository.train(name, [file], QUICK))
    assert runs[0].data_hash != runs[1].data_hash
    assert runs[0].perplexity != runs[1].perplexity
