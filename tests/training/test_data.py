"""Behaviour of reading records."""

from collections.abc import Callable

import pytest
from records import ALPACA, CHAT, PAIR, SHAREGPT, refusal, user

from niwfctl.errors import DataError
from niwfctl.records import Example, Message
from niwfctl.training.data import read, read_examples

Write = Callable[..., str]


def test_an_alpaca_record_is_one_user_message_and_its_output(write: Write) -> None:
    path = write("a.jsonl", ALPACA)
    assert read_examples([path]) == [Example(user("Add.\n\n1 and 2"), "3", f"{path}:1")]


@pytest.mark.parametrize("rest", [{}, {"input": ""}, {"input": " "}, {"input": None}])
def test_an_alpaca_record_without_input_is_its_instruction_alone(write: Write, rest: dict) -> None:
    path = write("a.jsonl", {"instruction": "Add.", "output": "3"} | rest)
    assert read_examples([path])[0].messages == user("Add.")


def test_a_prompt_and_its_completion_are_read(write: Write) -> None:
    path = write("a.jsonl", PAIR)
    assert read_examples([path]) == [Example(user("Why?"), "Because.", f"{path}:1")]


def test_a_prompt_and_completion_of_messages_learn_only_the_completion(write: Write) -> None:
    *prompt, last = CHAT["messages"]
    path = write("a.jsonl", {"prompt": prompt, "completion": [last]})
    (example,) = read_examples([path])
    assert example.answer == "Farewell"
    assert example.messages == tuple(Message(**turn) for turn in prompt)


def test_every_assistant_turn_of_a_chat_is_an_example_of_the_same_origin(write: Write) -> None:
    path = write("a.jsonl", CHAT)
    turns = tuple(Message(**turn) for turn in CHAT["messages"])
    assert read_examples([path]) == [
        Example(turns[:2], "Hello", f"{path}:1"),
        Example(turns[:4], "Farewell", f"{path}:1"),
    ]


def test_conversations_are_chats_with_other_names(write: Write) -> None:
    (example,) = read_examples([write("a.jsonl", SHAREGPT)])
    assert example.messages == (Message("system", "Be brief."), Message("user", "Hi"))
    assert example.answer == "Hello"


def test_formats_may_be_mixed_and_other_columns_are_ignored(write: Write) -> None:
    path = write("a.jsonl", ALPACA | {"id": 7}, PAIR | {"messages": None}, SHAREGPT)
    assert [example.answer for example in read_examples([path])] == ["3", "Because.", "Hello"]


@pytest.mark.parametrize("label", [0, 7, -12, 2**80])
def test_a_whole_number_is_learned_as_its_digits_as_in_csv(write: Write, label: int) -> None:
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": label}]
    answers = (PAIR | {"completion": label}, {"instruction": "Why?", "output": label})
    found = read_examples([write("a.jsonl", *answers, {"messages": turns})])
    csv = read_examples([write("a.csv", f"prompt,completion\nWhy?,{label}\n".encode())])
    assert {one.answer for one in found} == {csv[0].answer} and len(found) == 3


def test_text_is_kept_as_it_is_written(write: Write) -> None:
    path = write("a.jsonl", {"prompt": "  def f():\n", "completion": "\n  π\u2028🙂\n"})
    assert read_examples([path]) == [Example(user("  def f():\n"), "\n  π\u2028🙂\n", f"{path}:1")]


def test_a_system_or_tool_turn_may_be_empty(write: Write) -> None:
    turns = [{"role": "system", "content": ""}, *CHAT["messages"][1:3]]
    (example,) = read_examples([write("a.jsonl", {"messages": turns})])
    assert example.messages[0] == Message("system", "")


def test_a_chat_may_have_a_developer_and_content_in_parts_as_serve_takes_them(
    write: Write,
) -> None:
    parts = [{"type": "text", "text": "Say "}, {"type": "text", "text": "apple.", "image": None}]
    turns = [
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": [{"type": "text", "text": "apple"}]},
    ]
    asked = (Message("system", "Be brief."), *user("Say apple."))
    path = write("a.jsonl", {"messages": turns})
    assert read_examples([path]) == [Example(asked, "apple", f"{path}:1")]


def test_a_turn_of_weight_0_is_read_and_not_learned(write: Write) -> None:
    turns = [
        turn | ({"weight": 0} if place == 2 else {}) for place, turn in enumerate(CHAT["messages"])
    ]
    (example,) = read_examples([write("a.jsonl", {"messages": turns})])
    assert example.answer == "Farewell" and example.messages[2].content == "Hello"
    none = write("b.jsonl", {"messages": [turn | {"weight": 0} for turn in turns]})
    with pytest.raises(DataError, match="has no answer"):
        read_examples([none])


GREETED = [{"role": "assistant", "content": "Hi, I am Ada."}, *CHAT["messages"][1:]]


def test_what_an_assistant_says_first_is_read_and_not_learned_and_this_is_told(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    path = write("a.jsonl", PAIR, {"messages": GREETED})
    turns = tuple(Message(**turn) for turn in GREETED)
    assert read_examples([path])[1:] == [
        Example(turns[:2], "Hello", f"{path}:2"),
        Example(turns[:4], "Farewell", f"{path}:2"),
    ]
    (said,) = caplog.messages
    assert said.startswith(f"1 of 2 records, the first being {path}:2, begin with a turn of the")


def test_a_first_turn_of_weight_0_is_read_without_a_word(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    turns = [GREETED[0] | {"weight": 0}, *GREETED[1:]]
    (first, _) = read_examples([write("a.jsonl", {"messages": turns})])
    assert first.messages[0] == Message("assistant", "Hi, I am Ada.")
    assert not caplog.messages


@pytest.mark.parametrize("record", [ALPACA, PAIR, {"conversations": SHAREGPT["conversations"][1:]}])
def test_a_system_column_is_the_first_turn(write: Write, record: dict) -> None:
    (example,) = read_examples([write("a.jsonl", record | {"system": "Be brief."})])
    (plain,) = read_examples([write("b.jsonl", record | {"system": ""})])
    assert example.messages == (Message("system", "Be brief."), *plain.messages)
    assert example.answer == plain.answer


@pytest.mark.parametrize("empty", [None, [], "", "[]", {}])
def test_columns_that_hold_nothing_are_no_matter(write: Write, empty: object) -> None:
    read_examples(
        [
            write(
                "a.jsonl",
                ALPACA | {"tools": empty, "history": empty, "chat_template_kwargs": empty},
            )
        ]
    )


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (ALPACA | {"history": [["a", "b"]]}, "has `history`, which is not supported"),
        (CHAT | {"tools": [{"name": "f"}]}, "has `tools`, which is not supported"),
        (
            {"messages": [*CHAT["messages"][:-1], CHAT["messages"][-1] | {"tool_calls": [{}]}]},
            "has `messages[4].tool_calls`, which is not supported",
        ),
        (
            CHAT | {"chat_template_kwargs": {"enable_thinking": False}},
            "has `chat_template_kwargs`, which are the same for all rows here: remove the column, "
            "and give them to `niwfctl init` as --template-arg NAME=VALUE",
        ),
        (CHAT | {"system": "Be long."}, "has both `system` and a system turn"),
        (ALPACA | {"system": 7}, "has the value 7 for `system`: expected a string"),
        ([ALPACA], "is an array where an object is needed: expected `instruction` and `output`"),
        ("text", "is a string where an object is needed"),
        (None, "is null where an object is needed"),
        (7, "is the value 7 where an object is needed"),
        ({"question": "a", "answer": "b"}, "has the wrong columns (`question`, `answer`)"),
        ({}, "has the wrong columns (none)"),
        ({"instruction": "a", "output": None}, "has an empty `output`: write one"),
        (PAIR | {"completion": ""}, "has an empty `completion`"),
        (PAIR | {"completion": " \n"}, "has an empty `completion`"),
        ({"prompt": "a", "completion": None, "messages": None}, "has an empty `completion`"),
        (PAIR | {"completion": 3.0}, "has the value 3.0 for `completion`: expected a string"),
        (PAIR | {"completion": True}, "has the value True for `completion`: expected a string"),
        (PAIR | {"prompt": 3}, "has the value 3 for `prompt`: expected a string"),
        (PAIR | {"completion": ["a"]}, "has an array for `completion`: expected a string"),
        (PAIR | {"prompt": ""}, "has an empty `prompt`"),
        (PAIR | {"prompt": []}, "has an array for `prompt`: expected a string"),
        (PAIR | {"prompt": "\ud83d"}, "has half a surrogate pair in `prompt`"),
        (ALPACA | {"instruction": ""}, "has an empty `instruction`"),
        (ALPACA | {"input": {}}, "has an object for `input`: expected a string"),
        (ALPACA | {"output": True}, "has the value True for `output`: expected a string"),
        ({"messages": "Hi"}, "has a string for `messages`: expected an array of turns"),
        ({"messages": []}, "has no answer: expected at least one turn of the assistant"),
        ({"messages": CHAT["messages"][:2]}, "has no answer"),
        ({"messages": GREETED[:2]}, "has no prompt: expected a turn before"),
        ({"messages": GREETED[:1]}, "has no prompt: expected a turn before"),
        ({"messages": ["Hi"]}, "has a wrong `messages[0]`: expected an object with `role` and"),
        ({"messages": [{"role": "user"}]}, "has a wrong `messages[0]`"),
        (
            {"messages": [{"role": "robot", "content": "a"}]},
            "has the unknown role 'robot' in `messages[0]`: expected system, user, assistant, tool",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "has a wrong `messages[0].content`: only text can be read: give a string, or parts",
        ),
        (
            {"messages": [{"role": "user", "content": []}]},
            "has an empty `messages[0].content`",
        ),
        ({"messages": [{"role": "human", "content": "a"}]}, "has the unknown role 'human'"),
        ({"messages": [{"role": [], "content": "a"}]}, "has the unknown role []"),
        (
            {"messages": [CHAT["messages"][1], {"role": "assistant", "content": ""}]},
            "has an empty `messages[1].content`",
        ),
        (
            {"messages": [{"role": "user", "content": None}]},
            "has null for `messages[0].content`: expected a string",
        ),
        (
            {"conversations": CHAT["messages"]},
            "has a wrong `conversations[0]`: expected an object with `from` and `value`",
        ),
        ({"conversations": [{"from": "bot", "value": "a"}]}, "has the unknown from 'bot'"),
        ({"prompt": [], "completion": CHAT["messages"][2:3]}, "has no prompt"),
        ({"prompt": CHAT["messages"], "completion": []}, "has no answer"),
    ],
)
def test_a_wrong_record_is_refused_by_file_and_line(
    write: Write, record: object, message: str
) -> None:
    path = write("a.jsonl", ALPACA, record)
    assert refusal(path).startswith(f"{path}:2 {message}")


EMPTY = [PAIR | {"completion": answer} for answer in ("", None, " \n")]
SILENT = {"messages": [*CHAT["messages"][:2], {"role": "assistant", "content": None}]}


def test_empty_answers_are_counted_and_named_in_one_refusal(write: Write) -> None:
    path = write("a.jsonl", PAIR, *EMPTY)
    assert refusal(path) == (
        f"3 of 4 records have an empty answer ({path}:2, {path}:3, {path}:4): write one, or leave "
        "the record out, as `train` and `import` do with --skip-empty"
    )
    many = write("b.jsonl", PAIR, *EMPTY, *EMPTY)
    assert f"{many}:6 and 1 more): write" in refusal(many)


def test_records_with_an_empty_answer_can_be_left_out(write: Write) -> None:
    path = write("a.jsonl", *EMPTY, SILENT, PAIR)
    found = read([path], skip_empty=True)
    assert found.examples == [Example(user("Why?"), "Because.", f"{path}:5")] and found.empty == 4


def test_nothing_is_left_out_if_every_answer_is_empty(write: Write) -> None:
    path = write("a.jsonl", *EMPTY)
    with pytest.raises(DataError, match="has an empty `completion`, as has every record: write"):
        read([path], skip_empty=True)
    assert "--skip-empty" not in refusal(path)


def test_wrong_columns_are_answered_with_the_accepted_formats(write: Write) -> None:
    message = refusal(write("a.jsonl", {"text": "a"}))
    assert "`text`" in message
    for column in ("instruction", "input", "output", "prompt", "completion", "messages"):
        assert f"`{column}`" in message
