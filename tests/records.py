"""Records of data, and what refuses them."""

import pytest

from niwfctl.errors import DataError
from niwfctl.records import Message
from niwfctl.training.data import read_examples

ALPACA = {"instruction": "Add.", "input": "1 and 2", "output": "3"}
PAIR = {"prompt": "Why?", "completion": "Because."}
CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "Farewell"},
    ]
}
SHAREGPT = {
    "conversations": [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "Hello"},
    ]
}


def refusal(*sources: str) -> str:
    """The message of the refusal; checks that it is one sentence of one line."""
    with pytest.raises(DataError) as refused:
        read_examples(sources)
    message = str(refused.value)
    assert "\n" not in message and not message.endswith(".")
    return message


def user(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)
