"""Layouts of training records: Alpaca, prompt and completion, chat messages, ShareGPT."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from niwfctl.errors import DataError
from niwfctl.records import OTHER_ROLES, ROLES, Example, Message, joined

ACCEPTED = (
    "expected `instruction` and `output` (with an optional `input`), `prompt` and `completion`, "
    "or `messages` (or `conversations`)"
)
LAYOUTS = ({"instruction", "output"}, {"prompt", "completion"})  # that a table may have
_ROLES = {role: role for role in ROLES} | OTHER_ROLES
_SHAREGPT_ROLES = _ROLES | {"human": "user", "gpt": "assistant"}
# These would change the meaning of a record, and prompts here cannot hold them.
_OF_RECORDS = ("tools", "functions", "history")
_OF_TURNS = ("tool_calls", "function_call")
# What a turn of the assistant thought; the first is transformers' name for it.
_REASONING = ("reasoning_content", "reasoning", "thinking")
_EMPTY = (None, "", [], {}, "[]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_KINDS = {dict: "an object", list: "an array", str: "a string", type(None): "null"}


@dataclass(frozen=True)
class Answers:
    """The answers of a record, each with the turns before it.

    Attributes:
        origin: of the record.
        examples: none if an answer is empty.
        unasked: whether the assistant speaks first, and what it says was not marked as not to be
            learned. Having no prompt, it only stands before the answers that follow.
        empty: what is empty, where an answer is, as `has an empty …`.
    """

    origin: str
    examples: list[Example]
    unasked: bool = False
    empty: str = ""


def answers_of(origin: str, record: object) -> Answers:
    """The answers of a record; columns that are not part of the conversation are ignored.

    Args:
        origin: of the record, for error messages.

    Raises:
        DataError: it has none of the layouts, or a column that is not supported.
    """
    try:
        turns, learned = _chat(record)
    except _Empty as empty:
        return Answers(origin, [], empty=str(empty))
    except _Wrong as wrong:
        raise DataError(f"{origin} {wrong}") from None
    answers = [place for place in learned if turns[place].role == "assistant"]
    if not answers:
        raise DataError(f"{origin} has no answer: expected at least one turn of the assistant")
    asked = next((place for place, turn in enumerate(turns) if turn.role != "assistant"), None)
    if asked is None or answers[-1] < asked:
        raise DataError(f"{origin} has no prompt: expected a turn before one of the assistant's")
    examples = [
        Example(tuple(turns[:place]), turns[place].content, origin, turns[place].reasoning_content)
        for place in answers
        if place > asked
    ]
    return Answers(origin, examples, unasked=answers[0] < asked)


class _Wrong(Exception):
    """What is wrong with a record; the message follows its origin."""


class _Empty(_Wrong):
    """An answer of a record is empty, null or blank."""


def _chat(record: object) -> tuple[list[Message], list[int]]:
    """The turns of a record, and the indices of those to learn."""
    if not isinstance(record, dict):
        raise _Wrong(f"is {_kind(record)} where an object is needed: {ACCEPTED}")
    # a table that mixes formats has null in the columns of the others
    given = {column: value for column, value in record.items() if value is not None}
    _refuse(_OF_RECORDS, given, "")
    _refuse_arguments(given.get("chat_template_kwargs"))
    turns, learned = _turns_of(given, record)
    if "system" not in given or given["system"] == "":
        return turns, learned
    if turns[0].role == "system":
        raise _Wrong("has both `system` and a system turn: leave one of them out")
    system = Message("system", _text("system", given["system"]))
    return [system, *turns], [place + 1 for place in learned]


def _turns_of(given: Mapping[str, object], record: dict) -> tuple[list[Message], list[int]]:
    match given:
        case {"messages": turns}:
            return _turns("messages", turns), _learned(turns)
        case {"conversations": turns}:
            return _turns("conversations", turns, "from", "value"), _learned(turns)
        case {"instruction": prompt, "output": answer, **others}:
            prompt = _text("instruction", prompt)
            more = others.get("input", "")
            if not isinstance(more, str) or more.strip():  # blank means no input
                prompt += "\n\n" + _text("input", more)
            return [Message("user", prompt), Message("assistant", _answer("output", answer))], [1]
        case {"prompt": list(prompt), "completion": list(answer)}:
            before = _turns("prompt", prompt)
            turns = before + _turns("completion", answer)
            return turns, [len(before) + place for place in _learned(answer)]
        case {"prompt": prompt, "completion": answer}:
            prompt, answer = _text("prompt", prompt), _answer("completion", answer)
            return [Message("user", prompt), Message("assistant", answer)], [1]
    for prompt, answer in (("instruction", "output"), ("prompt", "completion")):
        if prompt in given and answer in record:
            _answer(answer, None)
    found = [f"`{column}`" + " (null)" * (value is None) for column, value in record.items()]
    raise _Wrong(
        f"has the wrong columns ({', '.join(found) or 'none'}): {ACCEPTED}, so rename yours"
    )


def _turns(column: str, turns: object, by: str = "role", says: str = "content") -> list[Message]:
    if not isinstance(turns, list):
        raise _Wrong(f"has {_kind(turns)} for `{column}`: expected an array of turns")
    roles = _SHAREGPT_ROLES if by == "from" else _ROLES
    messages = []
    for index, turn in enumerate(turns):
        name = f"{column}[{index}]"
        if not isinstance(turn, dict) or not {by, says} <= turn.keys():
            raise _Wrong(f"has a wrong `{name}`: expected an object with `{by}` and `{says}`")
        _refuse(_OF_TURNS, turn, f"{name}.")
        role = roles.get(str(turn[by]))
        if role is None:
            known = ", ".join(roles)
            found = reprlib.repr(turn[by])
            raise _Wrong(f"has the unknown {by} {found} in `{name}`: expected {known}")
        content = _joined(f"{name}.{says}", turn[says])
        silent = role in ("system", "tool") and content == ""
        read = _answer if role == "assistant" else _text
        content = "" if silent else read(f"{name}.{says}", content)
        reasoning = _reasoning(name, turn, content) if role == "assistant" else None
        messages.append(Message(role, content, reasoning))
    return messages


def _reasoning(name: str, turn: Mapping[str, object], content: str) -> str | None:
    """What a turn of the assistant thought before it spoke; None if it does not say."""
    given = {f"{name}.{key}": _joined(f"{name}.{key}", turn.get(key)) for key in _REASONING}
    texts = {key: _text(key, text) for key, text in given.items() if not _is_blank(text)}
    if len(set(texts.values())) > 1:
        raise _Wrong(f"has different texts for {_list(texts)}: leave one of them out")
    if texts and "</think>" in content:
        raise _Wrong(f"has reasoning in {_list(texts)} and in what it says: leave one of them out")
    return next(iter(texts.values()), None)


def _is_blank(value: object) -> bool:
    """Whether it is no reasoning: what stands in an empty block of thoughts is none, either."""
    return value in (*_EMPTY, False) or (isinstance(value, str) and not value.strip())


def _list(keys: Iterable[str]) -> str:
    return " and ".join(f"`{key}`" for key in keys)


def _learned(turns: Sequence[Mapping[str, object]]) -> list[int]:
    """Indices of the turns to learn: not those of weight 0, as in OpenAI's format."""
    return [place for place, turn in enumerate(turns) if turn.get("weight") != 0]


def _refuse(columns: Sequence[str], given: Mapping[str, object], where: str) -> None:
    for column in columns:
        if given.get(column) not in _EMPTY:
            raise _Wrong(
                f"has `{where}{column}`, which is not supported: put what matters into the turns "
                "and remove it"
            )


def _refuse_arguments(given: object) -> None:
    """Refuses a row's own arguments of the chat template; columns of tables may hold nulls."""
    values = given.values() if isinstance(given, dict) else [given]
    if any(value not in (*_EMPTY, "{}") for value in values):
        raise _Wrong(
            "has `chat_template_kwargs`, which are the same for all rows here: remove the column, "
            "and give them to `niwfctl init` as --template-arg NAME=VALUE"
        )


def _joined(name: str, content: object) -> object:
    try:
        return joined(content)
    except ValueError as error:
        raise _Wrong(f"has a wrong `{name}`: {error}") from None


def _answer(name: str, value: object) -> str:
    """What is to be learned; a whole number, such as the label of a class, as its digits.

    Raises:
        _Empty, _Wrong: it is empty, or neither.
    """
    if type(value) is int:  # not True, which would be written differently elsewhere
        value = str(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise _Empty(f"has an empty `{name}`")
    return _text(name, value)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise _Wrong(f"has {_kind(value)} for `{name}`: expected a string")
    if not value.strip():
        raise _Wrong(f"has an empty `{name}`: write one or leave the record out")
    if _SURROGATE.search(value):
        raise _Wrong(f"has half a surrogate pair in `{name}`: expected text that UTF-8 can hold")
    return value


def _kind(value: object) -> str:
    return _KINDS.get(type(value), f"the value {reprlib.repr(value)}")
