"""What becomes of answers under way when the server is told to end."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2 as httpx
import openai
import pytest
from serve.conftest import APPLES, Served, held, serving, wait_until

from niwfctl.repository import Repository
from niwfctl.repository.model import Model

LONG = {"model": "apple", "prompt": APPLES, "max_tokens": 200}


def health(served: Served) -> httpx.Response:
    return httpx.get(served.url.removesuffix("/v1") + "/health")


def test_who_bears_no_key_may_ask_how_the_server_is(orchard: Path, model: Model) -> None:
    with serving(Repository.open(orchard), model, api_key="sesame") as served:
        assert health(served).json() == {"status": "ok"} and health(served).status_code == 200
        served.engine._working.get_loop().call_soon_threadsafe(served.engine._working.cancel)
        wait_until(served.engine._working.done)
        assert health(served).status_code == 503
        assert "restart it" in health(served).json()["error"]["message"]


def test_the_log_says_why_what_answers_has_died(
    orchard: Path, model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(Repository.open(orchard), model) as served:
        assert health(served).status_code == 200  # it runs
        loop = served.engine._working.get_loop()
        loop.call_soon_threadsafe(served.engine._queue.put_nowait, None)  # which is no job
        wait_until(served.engine._working.done)
        assert "its log says why" in health(served).json()["error"]["message"]
        (told,) = (one for one in caplog.records if one.name == "niwfctl.serve.engine")
    assert "no request can be answered" in told.message and told.exc_info[0] is AttributeError


def test_a_probe_may_ask_for_the_head_alone(served: Served) -> None:
    answer = httpx.head(served.url.removesuffix("/v1") + "/health")
    assert answer.status_code == 200 and answer.content == b""


@contextmanager
def terminated(served: Served) -> Iterator[Iterator]:
    """A block after SIGTERM came in the middle of an answer; it gets the rest of the stream."""
    stream = iter(served.client.completions.create(**LONG, stream=True))
    next(stream)
    served.server.handle_exit(signal.SIGTERM, None)
    wait_until(lambda: served.engine._refusing)
    yield stream


def test_after_sigterm_answers_go_on_and_new_requests_are_refused(
    orchard: Path, model: Model
) -> None:
    with serving(Repository.open(orchard), model, grace=60) as served:
        with ThreadPoolExecutor(1) as pool, held(served):
            known = served.engine.jobs
            waiting = pool.submit(served.client.completions.create, **LONG)
            wait_until(lambda: served.engine.jobs > known)
            served.server.handle_exit(signal.SIGTERM, None)
            wait_until(lambda: served.engine._refusing)
            assert health(served).status_code == 503
            with pytest.raises(openai.InternalServerError, match="shutting down") as refused:
                served.client.completions.create(model="base", prompt="x")
            assert refused.value.status_code == 503
        assert waiting.result().usage.completion_tokens == 200
    assert served.server.terminated


def test_an_answer_that_takes_longer_than_the_grace_ends_with_an_error(
    orchard: Path, model: Model
) -> None:
    with (
        serving(Repository.open(orchard), model, grace=0.1) as served,
        terminated(served) as rest,
        pytest.raises(openai.APIError, match="shutting down"),
    ):
        list(rest)


@pytest.mark.parametrize("again", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_answers_at_once(orchard: Path, model: Model, again: int) -> None:
    with (
        serving(Repository.open(orchard), model, grace=60) as served,
        terminated(served) as rest,
    ):
        served.server.handle_exit(again, None)
        with pytest.raises(openai.APIError, match="shutting down"):
            list(rest)
        assert not served.server.force_exit
