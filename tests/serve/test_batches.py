"""Requests that wait together, and those who do not wait for their answer."""

import json
import logging
import shutil
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import httpx2 as httpx
import openai
import pytest
import torch
from conftest import QUICK
from openai import OpenAI
from serve.conftest import APPLES, PLUMS, Served, held, serving, slowed, wait_until
from tiny import write_data
from torch import Tensor

from niwfctl.backbone.sites import decoder_layers
from niwfctl.errors import BackboneError
from niwfctl.repository import Repository
from niwfctl.repository.model import Model
from niwfctl.serve.engine import Engine
from niwfctl.serve.jobs import Job
from niwfctl.serve.server import listen, serve, url

LONG = {"model": "apple", "prompt": APPLES, "max_tokens": 400}


def asked(model: str, prompt: str, **wishes: object) -> dict:
    return {"model": model, "messages": [{"role": "user", "content": prompt}], **wishes}


@contextmanager
def impatient(served: Served, **wishes: object) -> Iterator[Job]:
    """A client that goes away at the end of the block, whatever has come."""
    known = served.engine.jobs
    host, port = urlsplit(served.url).netloc.split(":")
    connection = HTTPConnection(host, int(port))
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/completions", json.dumps(LONG | wishes), headers)
    wait_until(lambda: served.engine.jobs > known)
    yield served.engine.last
    connection.close()


def test_requests_side_by_side_get_what_each_gets_alone(served: Served) -> None:
    requests = [
        asked("apple", APPLES, max_tokens=30),
        asked("plum", APPLES, max_tokens=9),
        asked("base", PLUMS, max_tokens=17, stop=["e"]),
        asked("auto", APPLES, max_tokens=20),
        asked("auto", PLUMS, max_tokens=20),
        asked("apple@HEAD~1", "?", max_tokens=12, temperature=1.0, seed=7),
        asked("plum", "Say apple, and then say it again.", max_tokens=30, temperature=1.2, seed=1),
        asked("base", "?", max_tokens=1),
    ]
    create = served.client.chat.completions.create
    alone = [create(**one) for one in requests]
    with ThreadPoolExecutor(len(requests)) as pool:
        with held(served):
            known = served.engine.jobs
            waiting = [pool.submit(create, **one) for one in requests]
            wait_until(lambda: served.engine.jobs == known + len(requests))
        together = [one.result() for one in waiting]
    assert len(served.model.adapter.z) == len(requests)  # they were one batch
    for first, second in zip(alone, together, strict=True):
        assert (first.model, first.choices, first.usage) == (
            second.model,
            second.choices,
            second.usage,
        )
    assert {one.model for one in together[3:5]} == {"apple", "plum"}


def test_more_requests_than_a_batch_holds_are_all_answered(served: Served) -> None:
    def answer(index: int) -> str:
        found = served.client.completions.create(
            model=("apple", "plum", "base")[index % 3], prompt=f"Say {index}.", max_tokens=5
        )
        return found.choices[0].text

    with ThreadPoolExecutor(20) as pool:
        together = list(pool.map(answer, range(20)))
    assert together == [answer(index) for index in range(20)]


def test_a_short_answer_does_not_wait_for_a_long_one_of_its_batch(served: Served) -> None:
    with ThreadPoolExecutor(2) as pool:
        with held(served):
            known = served.engine.jobs
            long = pool.submit(served.client.completions.create, **LONG)
            short = pool.submit(served.client.completions.create, **LONG | {"max_tokens": 1})
            wait_until(lambda: served.engine.jobs == known + 2)
        assert short.result() and not long.done()
        assert long.result().usage.completion_tokens == 400
    assert len(served.model.adapter.z) == 2  # they were one batch


def test_who_comes_later_joins_a_long_answer_which_stays_what_it_is_alone(served: Served) -> None:
    create = served.client.completions.create
    sampled = {"temperature": 1.1, "seed": 3, "stop": ["never said at all"]}
    longs = [LONG, LONG | sampled, LONG | {"model": "auto"}]
    short = {"model": "plum", "prompt": PLUMS, "max_tokens": 3}
    alone, expected = [create(**one) for one in longs], create(**short)
    with ThreadPoolExecutor(len(longs)) as pool:
        with slowed(served):
            known = served.engine.jobs
            running = [pool.submit(create, **one) for one in longs]
            wait_until(lambda: served.engine.jobs == known + len(longs))
            for _ in range(3):
                assert create(**short).choices == expected.choices
            assert not all(one.done() for one in running)
        for one, before in zip(running, alone, strict=True):
            after = one.result()
            assert (after.model, after.choices, after.usage) == (
                before.model,
                before.choices,
                before.usage,
            )


def test_a_stream_that_others_join_has_the_pieces_it_has_alone(served: Served) -> None:
    def pieces() -> list[str]:
        stream = served.client.completions.create(**LONG, stream=True)
        return [chunk.choices[0].text for chunk in stream]

    alone = pieces()
    with ThreadPoolExecutor(1) as pool:
        with slowed(served):
            known = served.engine.jobs
            running = pool.submit(pieces)
            wait_until(lambda: served.engine.jobs > known and served.engine.last.row.count > 0)
            served.client.completions.create(model="base", prompt="x", max_tokens=1)
            assert not running.done()
        assert running.result() == alone


def test_who_asked_auto_is_answered_by_whom_head_had_at_that_time(
    orchard: Path, tmp_path: Path
) -> None:
    """However long the request waits, and whatever is committed while it is answered."""
    repository = Repository.open(shutil.copytree(orchard, tmp_path / "copy"))
    with serving(repository, repository.load()) as served, ThreadPoolExecutor(1) as pool:
        create, wanted = served.client.chat.completions.create, asked("auto", APPLES, max_tokens=20)
        before = create(**wanted)
        with held(served):
            known = served.engine.jobs
            waiting = pool.submit(create, **wanted)
            wait_until(lambda: served.engine.jobs > known)
            Repository.open(repository.path).remove("apple")
        after = waiting.result()
        assert (after.model, after.choices) == ("apple", before.choices)
        assert create(**wanted).model != "apple"


@pytest.mark.parametrize("stream", [True, False])
def test_who_goes_away_is_no_longer_answered(served: Served, stream: bool) -> None:
    asked = {"model": "base", "prompt": "x", "max_tokens": 3}
    before = served.client.completions.create(**asked)
    with impatient(served, stream=stream) as job:
        wait_until(lambda: job.row.count > 0)
    wait_until(lambda: job.row.cancelled)
    assert served.client.completions.create(**asked).choices == before.choices
    assert 0 < job.row.count < 400 and job.row.ended is None


def test_who_goes_away_while_waiting_is_not_answered_at_all(served: Served) -> None:
    with held(served):
        with impatient(served) as waiting:
            pass
        wait_until(lambda: waiting.row.cancelled)
    served.client.completions.create(model="base", prompt="x", max_tokens=1)
    assert waiting.row.count == 0


def test_what_is_committed_while_the_server_runs_can_be_asked_for(
    orchard: Path, model: Model, tmp_path: Path
) -> None:
    repository = Repository.open(shutil.copytree(orchard, tmp_path / "copy"))
    model = repository.load()
    with serving(repository, model) as served:
        names = [one.id for one in served.client.models.list()]
        with pytest.raises(openai.NotFoundError, match="pear"):
            served.client.completions.create(model="pear", prompt="x")
        other = Repository.open(repository.path)
        other.train("pear", [write_data(tmp_path / "pear.jsonl", word="pear")], QUICK)
        other.commit(["pear"], "Pears")
        assert [one.id for one in served.client.models.list()] == ["apple", "pear", *names[1:]]
        assert served.client.completions.create(model="pear", prompt="x").model == "pear"
        other.remove("apple")
        with pytest.raises(openai.NotFoundError, match="apple"):
            served.client.completions.create(model="apple", prompt="x")
        assert served.client.completions.create(model="apple@HEAD~1", prompt="x").choices


def test_a_capability_that_cannot_be_read_harms_nobody_else(orchard: Path, tmp_path: Path) -> None:
    repository = Repository.open(shutil.copytree(orchard, tmp_path / "copy"))
    repository.store.path(repository.capability("apple").regions[0].bases[0].oid).unlink()
    with serving(repository, repository.load()) as served, ThreadPoolExecutor(2) as pool:
        broken = pool.submit(served.client.completions.create, model="apple", prompt="x")
        whole = pool.submit(served.client.completions.create, model="plum", prompt="x")
        with pytest.raises(openai.InternalServerError, match="not in the store"):
            broken.result()
        assert whole.result().usage.completion_tokens == 16


def test_a_batch_too_large_for_the_memory_is_answered_one_by_one(
    orchard: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing of the batch is left when its first row is tried again."""
    caplog.set_level(logging.CRITICAL)  # a record of the error would keep what it holds
    model, before = Repository.open(orchard).load(), []

    def read(layer: object, states: tuple[Tensor]) -> None:
        assert not any(one() is not None for one in before)
        if len(states[0]) > 1:
            before.append(weakref.ref(states[0]))
            torch.empty(2**50)

    with serving(Repository.open(orchard), model) as served, ThreadPoolExecutor(2) as pool:
        decoder_layers(model.backbone.model)[-1].register_forward_pre_hook(read)
        create = served.client.completions.create
        answers = [pool.submit(create, model=name, prompt="x") for name in ("apple", "plum")]
        assert [one.result().usage.completion_tokens for one in answers] == [16, 16]
    assert before


def test_a_request_for_which_there_is_too_little_memory_is_told_so_and_harms_no_later_one(
    orchard: Path,
) -> None:
    model = Repository.open(orchard).load()
    with serving(Repository.open(orchard), model) as served:
        create = served.client.completions.create
        layer = decoder_layers(model.backbone.model)[-1]
        full = layer.register_forward_pre_hook(lambda *_: torch.empty(2**50) and None)
        with pytest.raises(openai.InternalServerError, match="too little memory") as told:
            create(model="apple", prompt="x")
        assert (told.value.status_code, told.value.code) == (503, "memory_full")
        full.remove()
        assert create(model="apple", prompt="x").usage.completion_tokens == 16


def test_a_gpu_that_fails_ends_the_server_once_its_clients_are_told(orchard: Path) -> None:
    model, attempts = Repository.open(orchard).load(), []

    def fail(*_: object) -> None:
        attempts.append(1)
        raise RuntimeError("CUDA error: device-side assert triggered\nCompile with …")

    decoder_layers(model.backbone.model)[-1].register_forward_pre_hook(fail)
    engine = Engine(Repository.open(orchard), model, max_batch=2, batch_wait=30, max_tokens=64)
    listening = listen("127.0.0.1", 0)
    create = OpenAI(base_url=url(listening), api_key="any", max_retries=0).completions.create
    with ThreadPoolExecutor(3) as pool:
        served = pool.submit(serve, engine, listening)
        requests = [pool.submit(create, model=name, prompt="x") for name in ("apple", "plum")]
        for one in requests:
            with pytest.raises(openai.InternalServerError, match="the GPU failed") as told:
                one.result()
            assert (told.value.status_code, told.value.code) == (503, "device_failed")
        with pytest.raises(BackboneError, match=r"\(CUDA error: device-side assert triggered\)"):
            served.result(30)
    assert len(attempts) == 1


def test_closing_ends_what_is_under_way_with_an_error(orchard: Path, model: Model) -> None:
    with ThreadPoolExecutor(2) as pool, serving(Repository.open(orchard), model) as served:
        create = served.client.completions.create
        whole = pool.submit(create, **LONG)
        stream = iter(create(**LONG, stream=True))
        next(stream)
        served.stop()
        with pytest.raises(openai.InternalServerError, match="shutting down"):
            whole.result()
        with pytest.raises(openai.APIError, match="shutting down"):
            list(stream)


def test_with_a_key_only_who_bears_it_is_let_in(orchard: Path, model: Model) -> None:
    with serving(Repository.open(orchard), model, api_key="sesame") as served:
        for key in ("any", "sesam", "sesame!"):
            with pytest.raises(openai.AuthenticationError) as refused:
                served.client.with_options(api_key=key).models.list()
            assert refused.value.code == "invalid_api_key"
        assert served.client.with_options(api_key="sesame").models.list().data
        assert httpx.post(f"{served.url}/completions", content="{").status_code == 401


def test_where_nothing_is_committed_the_base_answers(fresh: Repository) -> None:
    with serving(fresh, fresh.load()) as served:
        assert [one.id for one in served.client.models.list()] == ["base", "auto"]
        answers = [
            served.client.completions.create(model=name, prompt="x") for name in ("base", "auto")
        ]
        assert {one.model for one in answers} == {"base"}
        assert answers[0].choices == answers[1].choices
