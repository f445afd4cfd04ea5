"""`niwfctl serve` as a process."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import openai
import pytest
from openai import OpenAI
from serve.conftest import APPLES
from typer.testing import Result

from niwfctl.cli.serve import PLANS

ROOT = Path(__file__).parents[2]
MAIN = "from niwfctl.cli.main import main; main()"
LONG = {"model": "apple", "prompt": APPLES, "max_tokens": 450}
NOWHERE = (("--host", "no.such.host.invalid"), ("--host", "192.0.2.1"), ("--host", "a" * 64))


@contextmanager
def started(repository: Path, *arguments: str, **env: str) -> Iterator[tuple]:
    """A server process, the lines it printed until it was ready, and its base URL."""
    command = [sys.executable, "-c", MAIN, "-C", repository, "serve", "--port", "0"]
    process = subprocess.Popen(
        [*command, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        # what runs in the background inherits a SIGINT that is ignored
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'store'}"} | env,
    )
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r" at (http://\S+)", line):
                yield process, lines, found[1]
                return
        raise AssertionError(lines)
    finally:
        process.kill()
        process.wait()


def test_ctrl_c_ends_the_server_and_the_answer_under_way(orchard: Path) -> None:
    with started(orchard) as (process, _, url):
        client = OpenAI(base_url=url, api_key="any", max_retries=0)
        stream = iter(client.completions.create(**LONG, stream=True))
        next(stream)
        process.send_signal(signal.SIGINT)
        with pytest.raises(openai.APIError, match="shutting down"):
            list(stream)
        assert process.wait(30) == 130
        rest = process.stderr.read()
        assert "Traceback" not in rest and "rror" not in rest


def test_sigterm_ends_the_server_once_the_answer_under_way_is_complete(orchard: Path) -> None:
    with started(orchard, "--log-requests") as (process, _, url):
        client = OpenAI(base_url=url, api_key="any", max_retries=0)
        stream = iter(client.completions.create(**LONG, stream=True))
        next(stream)
        process.send_signal(signal.SIGTERM)
        assert list(stream)[-1].choices[0].finish_reason == "length"
        assert process.wait(30) == 143
        rest = process.stderr.read()
        assert json.loads(rest)["completion_tokens"] == 450
        assert "Traceback" not in rest and "rror" not in rest


def test_a_key_may_come_from_the_environment(orchard: Path) -> None:
    with started(orchard, NIWFCTL_API_KEY="sesame") as (_, lines, url):
        with pytest.raises(openai.AuthenticationError):
            OpenAI(base_url=url, api_key="any", max_retries=0).models.list()
        assert OpenAI(base_url=url, api_key="sesame", max_retries=0).models.list().data
        assert "sesame" not in "".join(lines)
        assert url.startswith("http://127.0.0.1:") and "authentication" not in "".join(lines)


def test_beyond_this_machine_it_warns_that_there_is_no_authentication(orchard: Path) -> None:
    with started(orchard, "--host", "0.0.0.0") as (_, lines, url):
        assert OpenAI(base_url=url, api_key="any", max_retries=0).models.list().data
        assert sum("no authentication" in line for line in lines) == 1


def test_where_it_cannot_listen_is_one_sentence(
    orchard: Path, niwfctl: Callable[..., Result]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for options in (("--port", port), *NOWHERE):
            done = niwfctl("-C", orchard, "serve", *options)
            assert done.exit_code == 2, done.output
            assert done.stderr.startswith("niwfctl: cannot listen on ")
            assert len(done.stderr.splitlines()) == 1


def status(url: str, host: str, key: str = "any") -> tuple[int, dict]:
    """(status, body) of a request that calls the server by this name."""
    server = http.client.HTTPConnection(url.removeprefix("http://").removesuffix("/v1"))
    server.request("GET", "/v1/models", headers={"Host": host, "Authorization": f"Bearer {key}"})
    answer = server.getresponse()
    return answer.status, json.loads(answer.read())


def test_without_a_key_it_answers_to_its_own_names_only(orchard: Path) -> None:
    with started(orchard) as (_, _, url):
        port = url.removesuffix("/v1").rpartition(":")[2]
        for host in ("localhost", "127.0.0.1", "[::1]", "LOCALHOST"):
            assert status(url, host)[0] == status(url, f"{host}:{port}")[0] == 200
        for host in ("evil.example", f"evil.example:{port}", "localhost.evil.example", "", "::1"):
            code, body = status(url, host)
            assert (code, body["error"]["code"]) == (403, "unknown_host")
            assert "--api-key" in body["error"]["message"]


def test_with_a_key_or_beyond_this_machine_it_answers_to_every_name(orchard: Path) -> None:
    with started(orchard, NIWFCTL_API_KEY="sesame") as (_, _, url):
        assert status(url, "proxy.example", "sesame")[0] == 200
        assert status(url, "proxy.example")[0] == 401
    with started(orchard, "--host", "0.0.0.0") as (_, _, url):
        assert status(url, "workstation.example")[0] == 200


def test_memory_does_not_grow_with_every_new_length_of_prompts(
    orchard: Path, niwfctl: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch is told to keep few plans, unless the user has said how many."""
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "")
    monkeypatch.delenv("LRU_CACHE_CAPACITY")
    niwfctl("-C", orchard, "serve", *NOWHERE[0])
    assert os.environ["LRU_CACHE_CAPACITY"] == PLANS["LRU_CACHE_CAPACITY"]
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "7"


def test_an_empty_key_is_refused(orchard: Path, niwfctl: Callable[..., Result]) -> None:
    done = niwfctl("-C", orchard, "serve", "--api-key", " ")
    assert done.exit_code == 2 and "--api-key is empty" in done.stderr


def test_without_the_extra_it_says_how_to_get_it(
    orchard: Path, niwfctl: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    done = niwfctl("-C", orchard, "serve")
    assert done.exit_code == 2 and "pip install 'niwfctl[serve]'" in done.stderr


def test_neither_the_command_nor_the_routes_import_torch() -> None:
    code = "import sys, niwfctl.cli.main, niwfctl.serve.app; sys.exit('torch' in sys.modules)"
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'store'}"}
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == 0
