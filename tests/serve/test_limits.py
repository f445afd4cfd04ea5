"""What one server lets its clients have."""

import http.client
import json
from pathlib import Path

import openai
import pytest
from serve.conftest import APPLES, Served, serving, wait_until

from niwfctl.repository import Repository
from niwfctl.repository.model import Model

BODY = b'{"model": "base", "prompt": "x", "max_tokens": 1}'


def test_no_answer_is_longer_than_the_server_gives(orchard: Path, model: Model) -> None:
    with serving(Repository.open(orchard), model, max_answer_tokens=5) as served:
        create = served.client.completions.create
        with pytest.raises(openai.BadRequestError, match="more than the 5") as refused:
            create(model="base", prompt="x", max_tokens=6)
        assert refused.value.param == "max_tokens"
        assert create(model="base", prompt="x", max_tokens=5).usage.completion_tokens == 5
        assert create(model="base", prompt="x").usage.completion_tokens == 5  # else 16


def test_more_requests_than_may_wait_are_told_to_come_again(orchard: Path, model: Model) -> None:
    with serving(Repository.open(orchard), model, max_queue=1) as served:
        create = served.client.completions.create
        stream = create(model="apple", prompt=APPLES, max_tokens=400, stream=True)
        next(iter(stream))
        with pytest.raises(openai.RateLimitError, match="ask again later") as refused:
            create(model="base", prompt="x", max_tokens=1)
        assert refused.value.code == "rate_limit_exceeded"
        stream.close()
        wait_until(lambda: not served.engine._unanswered)
        assert create(model="base", prompt="x", max_tokens=1).choices


def test_a_request_that_is_being_read_waits_already(orchard: Path, model: Model) -> None:
    with serving(Repository.open(orchard), model, max_queue=1) as served:
        create = served.client.completions.create
        with (
            served.engine.reading(),
            pytest.raises(openai.RateLimitError, match="ask again later"),
        ):
            create(model="base", prompt="x", max_tokens=1)
        assert create(model="base", prompt="x", max_tokens=1).choices


def test_every_text_of_a_request_takes_a_place(orchard: Path, model: Model) -> None:
    with serving(Repository.open(orchard), model, max_queue=2) as served:
        create = served.client.completions.create
        assert len(create(model="base", prompt=["x", "y"], max_tokens=1).choices) == 2
        with pytest.raises(openai.BadRequestError, match="3 prompts are more than the 2"):
            create(model="base", prompt=["x", "y", "z"], max_tokens=1)
        with served.engine.reading(), pytest.raises(openai.RateLimitError):
            create(model="base", prompt=["x", "y"], max_tokens=1)


def begin(served: Served) -> http.client.HTTPConnection:
    """A request of whose body only a part has been sent."""
    connection = http.client.HTTPConnection(served.url.removeprefix("http://").split("/")[0])
    connection.putrequest("POST", "/v1/completions")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(len(BODY)))
    connection.endheaders(BODY[:9])
    wait_until(lambda: served.engine._being_read)
    return connection


def test_a_body_takes_its_place_before_it_is_read(orchard: Path, model: Model) -> None:
    with serving(Repository.open(orchard), model, max_queue=1) as served:
        create = served.client.completions.create
        slow = begin(served)
        with pytest.raises(openai.RateLimitError, match="ask again later"):
            create(model="base", prompt="x", max_tokens=1)
        slow.send(BODY[9:])  # its own place does not stand in its way
        assert slow.getresponse().status == 200
        gone = begin(served)
        gone.close()
        wait_until(lambda: not served.engine._being_read)
        assert create(model="base", prompt="x", max_tokens=1).choices


def test_a_body_that_does_not_come_is_not_waited_for(orchard: Path, model: Model) -> None:
    with serving(Repository.open(orchard), model, patience=0.2, max_queue=1) as served:
        answer = begin(served).getresponse()
        error = json.loads(answer.read())["error"]
        assert answer.status == 408 and "did not come within 0.2 seconds" in error["message"]
        wait_until(lambda: not served.engine._being_read)
        create = served.client.completions.create
        text = create(model="apple", prompt=APPLES, max_tokens=400, stream=True)
        assert sum(1 for _ in text) > 1  # an answer may take longer


@pytest.mark.parametrize("chat", [False, True])
def test_a_prompt_of_many_times_the_context_is_refused_before_it_is_read(
    served: Served, chat: bool
) -> None:
    text, client = "ab " * 1_000_000, served.client
    turn = {"role": "user", "content": text}
    with pytest.raises(openai.BadRequestError, match="whatever tokens") as refused:
        if chat:
            client.chat.completions.create(model="base", messages=[turn])
        else:
            client.completions.create(model="base", prompt=text)
    assert refused.value.code == "context_length_exceeded"
    assert refused.value.param == ("messages" if chat else "prompt")


def test_more_turns_than_the_context_has_tokens_are_refused(served: Served) -> None:
    turns = [{"role": "user", "content": ""}] * (served.model.longest + 1)
    with pytest.raises(openai.BadRequestError, match="whatever tokens"):
        served.client.chat.completions.create(model="base", messages=turns)
