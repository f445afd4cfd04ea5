"""What `--log-requests` writes."""

import json
from contextlib import suppress
from pathlib import Path

import httpx2 as httpx
import openai
from serve.conftest import APPLES, serving, wait_until

from niwfctl.repository import Repository
from niwfctl.repository.model import Model


def test_every_request_for_an_answer_is_a_line_with_what_it_was_and_took(
    orchard: Path, model: Model
) -> None:
    lines: list[str] = []
    with serving(Repository.open(orchard), model, log=lines.append) as served:
        chat, text = served.client.chat.completions, served.client.completions
        said = [{"role": "user", "content": APPLES}]
        found = chat.create(model="auto", messages=said, max_tokens=3)
        list(text.create(model="base", prompt="abc", max_tokens=4, stream=True))
        with suppress(openai.NotFoundError):
            text.create(model="pear", prompt="x")
        httpx.post(f"{served.url}/completions", content="{")
        served.client.models.list()
        left = text.create(model="plum", prompt="x", max_tokens=400, stream=True)
        next(iter(left))
        left.close()
        wait_until(lambda: len(lines) == 5)
    whole, streamed, unknown, no_json, gone = map(json.loads, lines)
    assert (whole["model"], whole["answered_by"]) == ("auto", found.model)
    assert whole["prompt_tokens"] == found.usage.prompt_tokens
    assert whole["completion_tokens"] == 3 and whole["complete"]
    assert 0 <= whole["seconds_queued"] <= whole["seconds"] < 60 and whole["status"] == 200
    assert streamed["prompt_tokens"] == 3 and streamed["completion_tokens"] == 4
    assert (unknown["model"], unknown["answered_by"], unknown["status"]) == ("pear", None, 404)
    assert no_json["status"] == 400 and no_json["model"] is None and not no_json["complete"]
    assert gone["status"] == 200 and not gone["complete"] and gone["completion_tokens"] > 0
    assert APPLES not in "".join(lines) and whole["time"].endswith("+00:00")


def test_no_tokens_are_told_of_a_prompt_that_was_not_answered_since_another_was_refused(
    orchard: Path, model: Model
) -> None:
    lines: list[str] = []
    with serving(Repository.open(orchard), model, log=lines.append) as served:
        create = served.client.completions.create
        with suppress(openai.BadRequestError):
            create(model="base", prompt=["abc", "ab " * 1000])
        wait_until(lambda: len(lines) == 1)
    refused = json.loads(lines[0])
    assert refused["status"] == 400 and not refused["complete"]
    assert refused["prompt_tokens"] == refused["completion_tokens"] == 0
    assert refused["seconds_queued"] is None


def test_what_clients_call_a_model_cannot_steer_a_terminal_or_fill_the_log(
    orchard: Path, model: Model
) -> None:
    lines: list[str] = []
    with serving(Repository.open(orchard), model, log=lines.append) as served:
        for name in ("\x1b[2J\x9b2J\n", "x" * 100_000):
            httpx.post(f"{served.url}/completions", json={"model": name, "prompt": "x"})
        wait_until(lambda: len(lines) == 2)
    assert all(line.isascii() and line[:-1].isprintable() and len(line) < 600 for line in lines)
