"""OpenAI's own client, and everything that it may ask."""

import json
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import httpx2 as httpx
import openai
import pytest
from openai import OpenAI
from serve.conftest import APPLES, PLUMS, Served, serving, wait_until
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase

from niwfctl.backbone.template import render
from niwfctl.records import Message
from niwfctl.repository import Repository
from niwfctl.repository.model import Model

SAY = [{"role": "user", "content": APPLES}]


def raw(served: Served, path: str, content: bytes | str, **headers: str) -> dict:
    headers = {"Content-Type": "application/json"} | headers
    answer = httpx.post(f"{served.url}{path}", content=content, headers=headers)
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert answer.status_code == 400, error
    assert error["type"] == "invalid_request_error" and error["message"]
    return error


def test_the_models_are_the_capabilities_the_base_and_auto(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["apple", "plum", "base", "auto"]
    for name in ("apple", "apple@HEAD~1", "auto"):
        assert client.models.retrieve(name).id == name
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("pear")
    assert refused.value.code == "model_not_found" and "apple, plum" in refused.value.message


def test_a_chat_is_answered_as_on_the_command_line(served: Served, own_model: Model) -> None:
    for name in ("apple", "plum", None):
        found = served.client.chat.completions.create(
            model=name or "base", messages=SAY, max_tokens=20
        )
        own_model.use(name)
        answer = own_model.generate(APPLES, max_new_tokens=20)
        (choice,) = found.choices
        assert choice.message.content.strip() == answer
        assert choice.message.role == "assistant" and choice.finish_reason == "length"
        assert found.object == "chat.completion" and found.model == (name or "base")
        assert found.usage.completion_tokens == 20
        assert found.usage.total_tokens == found.usage.prompt_tokens + 20


def test_capabilities_answer_differently(client: OpenAI) -> None:
    answers = {
        client.completions.create(model=name, prompt=APPLES, max_tokens=20).choices[0].text
        for name in ("apple", "plum", "base")
    }
    assert len(answers) == 3


def test_a_stream_is_the_answer_in_pieces(client: OpenAI) -> None:
    asked = {"model": "apple", "messages": SAY, "max_completion_tokens": 20}
    whole = client.chat.completions.create(**asked)
    chunks = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    *pieces, end, used = chunks
    assert len(pieces) > 1 and pieces[0].choices[0].delta.role == "assistant"
    text = "".join(piece.choices[0].delta.content for piece in pieces)
    assert text == whole.choices[0].message.content
    assert {piece.choices[0].finish_reason for piece in pieces} == {None}
    assert end.choices[0].finish_reason == "length" and end.choices[0].delta.content is None
    assert used.choices == [] and used.usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}


def test_a_text_is_gone_on_with_whole_or_as_a_stream(client: OpenAI) -> None:
    whole = client.completions.create(model="plum", prompt=PLUMS)
    assert whole.object == "text_completion" and whole.usage.completion_tokens == 16
    chunks = list(client.completions.create(model="plum", prompt=[PLUMS], stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "length" and chunks[-1].usage is None


def test_the_wire_is_server_sent_events_that_end_with_done(served: Served) -> None:
    asked = {"model": "base", "prompt": "a", "max_tokens": 3, "stream": True}
    answer = httpx.post(f"{served.url}/completions", json=asked)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, done, end = answer.text.split("\n\n")
    assert done == "data: [DONE]" and end == ""
    assert all(json.loads(event.removeprefix("data: "))["id"] for event in events)


def test_an_answer_ends_before_a_stop_text(client: OpenAI) -> None:
    asked = {"model": "apple", "messages": SAY, "max_tokens": 20}
    text = client.chat.completions.create(**asked).choices[0].message.content
    for stop in (text[4:6], ["never said", text[4:6]]):
        (choice,) = client.chat.completions.create(**asked, stop=stop).choices
        assert choice.finish_reason == "stop"
        assert choice.message.content == text[: text.index(text[4:6])]


def test_a_seed_repeats_a_sampled_answer(client: OpenAI) -> None:
    def sampled(seed: int) -> str:
        found = client.chat.completions.create(
            model="apple", messages=SAY, max_tokens=20, temperature=1.5, top_p=0.95, seed=seed
        )
        return found.choices[0].message.content

    assert sampled(1) == sampled(1) != sampled(2)


def test_auto_says_who_answered_and_answers_as_they_would(served: Served, own_model: Model) -> None:
    owners = set()
    for prompt in (APPLES, PLUMS, "?"):
        asked = {"messages": [{"role": "user", "content": prompt}], "max_tokens": 12}
        found = served.client.chat.completions.create(model="auto", **asked)
        own_model.route()
        assert found.model == (own_model.bids(prompt)[0][0] or "base")
        named = served.client.chat.completions.create(model=found.model, **asked)
        assert named.choices == found.choices
        owners.add(found.model)
    assert {"apple", "plum"} <= owners


def test_messages_of_every_role_and_in_parts_are_read(client: OpenAI) -> None:
    parts = [{"type": "text", "text": "Say "}, {"type": "text", "text": "apple 3."}]
    turns = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "apple", "refusal": None, "tool_calls": []},
        {"role": "user", "content": "Again.", "name": "ada"},
    ]
    plain = [{"role": "system", "content": "Be brief."}, *turns[1:]]
    plain[1] = {"role": "user", "content": "Say apple 3."}
    found = [
        client.chat.completions.create(model="apple", messages=messages, max_tokens=8)
        for messages in (turns, plain)
    ]
    assert found[0].choices == found[1].choices and found[0].usage == found[1].usage


def test_what_asks_for_nothing_is_taken(client: OpenAI) -> None:
    client.chat.completions.create(
        model="base",
        messages=SAY,
        max_tokens=1,
        n=1,
        logprobs=False,
        tools=[],
        functions=[],
        top_logprobs=0,
        response_format={"type": "text"},
        presence_penalty=0,
        stop=None,
        user="ada",
        metadata={"a": "b"},
        prompt_cache_retention="24h",
        extra_body={"repetition_penalty": 1.0},
    )
    text = {"max_completion_tokens": 2, "top_logprobs": 0}
    found = client.completions.create(model="base", prompt="x", extra_body=text)
    assert found.usage.completion_tokens == 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2),
        ("logprobs", True),
        ("top_logprobs", 2),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "required"),
        ("response_format", {"type": "json_object"}),
        ("presence_penalty", 0.5),
        ("logit_bias", {"5": 1}),
        ("top_k", 5),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    served: Served, field: str, value: object
) -> None:
    body = json.dumps({"model": "base", "messages": SAY, field: value})
    error = raw(served, "/chat/completions", body)
    assert error["code"] == "unsupported_parameter" and error["param"] == field
    assert f"`{field}` is not supported" in error["message"]


def test_a_conversation_with_a_tool_is_told_that_tools_are_not_supported(served: Served) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns = [*SAY, {"role": "assistant", "tool_calls": [call]}]
    error = raw(served, "/chat/completions", json.dumps({"model": "base", "messages": turns}))
    assert error["param"] == "messages.1.tool_calls" and "not supported" in error["message"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1),
        ("temperature", "hot"),
        ("temperature", "1"),
        ("temperature", True),
        ("seed", True),
        ("stream", "yes"),
        ("max_tokens", "5"),
        ("temperature", float("nan")),
        ("top_p", 1.5),
        ("max_tokens", 0),
        ("seed", 2**63),
        ("stop", [""]),
        ("stop", ["x"] * 17),
        ("messages", []),
        ("messages", [{"role": "tool", "content": "x"}]),
        ("messages", [{"role": "user", "content": [{"type": "image_url"}]}]),
        ("messages", [{"role": "user", "content": "\ud800"}]),
        ("messages", [{"role": "user"}]),
        ("model", None),
        ("stream_options", {"surprise": 1}),
    ],
)
def test_a_wrong_value_is_refused_by_name(served: Served, field: str, value: object) -> None:
    body = json.dumps({"model": "base", "messages": SAY, field: value})
    error = raw(served, "/chat/completions", body)
    assert error["param"].split(".")[0] == field


@pytest.mark.parametrize("stream", [False, True])
def test_several_texts_are_each_gone_on_with_as_alone(client: OpenAI, stream: bool) -> None:
    asked = {"model": "auto", "max_tokens": 12, "seed": 3, "temperature": 1.0}
    alone = [client.completions.create(prompt=one, **asked) for one in (APPLES, PLUMS, "?")]
    together = client.completions.create(prompt=[APPLES, PLUMS, "?"], **asked, stream=stream)
    texts = dict.fromkeys(range(3), "")
    for chunk in together if stream else [together]:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert list(texts.values()) == [one.choices[0].text for one in alone]
    if not stream:
        assert [choice.index for choice in together.choices] == [0, 1, 2]
        for kind in ("prompt_tokens", "completion_tokens", "total_tokens"):
            assert getattr(together.usage, kind) == sum(getattr(one.usage, kind) for one in alone)


@pytest.mark.parametrize("stream", [False, True])
def test_auto_names_no_owner_for_all_where_several_texts_have_different_ones(
    orchard: Path, model: Model, stream: bool
) -> None:
    lines: list[str] = []
    asked = [
        render(model.backbone.tokenizer, [Message("user", words)]) for words in (APPLES, PLUMS)
    ]
    with serving(Repository.open(orchard), model, log=lines.append) as served:
        create = partial(served.client.completions.create, model="auto", max_tokens=2)
        owners = [create(prompt=text).model for text in asked]
        assert owners == ["apple", "plum"]
        more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        for texts, expected in (asked, "auto"), (asked[1:] * 2, "plum"):
            found = create(prompt=texts, **more)
            *chunks, whole = found if stream else [found]
            assert whole.usage.completion_tokens == 4 and whole.model == expected
            for chunk in chunks:
                assert chunk.model == owners[asked.index(texts[chunk.choices[0].index])]
            wait_until(lambda expected=expected: _answered_by(lines) == expected)


def _answered_by(lines: Sequence[str]) -> str:
    """Who answered the last request of two texts of two tokens each."""
    pairs = [line for line in map(json.loads, lines) if line["completion_tokens"] == 4]
    return pairs[-1]["answered_by"] if pairs else ""


@pytest.mark.parametrize("prompt", ["", ["a", ""], [1, 2], [[1, 2]], ["a", [1]], [], None, 5])
def test_a_prompt_is_texts(served: Served, prompt: object) -> None:
    error = raw(served, "/completions", json.dumps({"model": "base", "prompt": prompt}))
    assert error["param"] == "prompt"
    assert (
        prompt != ""
        or error["message"] == "`prompt` is wrong: it is empty: send the text to continue"
    )


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_object_is_refused(served: Served, body: bytes) -> None:
    assert "the body" in raw(served, "/chat/completions", body)["message"]


@pytest.mark.parametrize(
    "prompt", [b'"\xff"', b'"x", "seed": ' + b"9" * 5000, b"[" * 100_000 + b"]" * 100_000]
)
def test_a_body_that_cannot_be_read_as_json_is_refused(served: Served, prompt: bytes) -> None:
    error = raw(served, "/completions", b'{"model": "base", "prompt": %b}' % prompt)
    assert error["message"] == "the body cannot be read as JSON: send UTF-8 JSON"


def test_a_body_that_is_not_said_to_be_json_is_refused(served: Served) -> None:
    body = json.dumps({"model": "base", "messages": SAY})
    error = raw(served, "/chat/completions", body, **{"Content-Type": "text/plain"})
    assert "application/json" in error["message"]


@pytest.mark.parametrize("told", [True, False])
def test_a_body_without_end_is_refused(served: Served, told: bool) -> None:
    """Whether the client tells its length or not."""
    body = json.dumps({"model": "base", "prompt": "a" * (9 << 20)}).encode()
    headers = {"Content-Type": "application/json"}
    content = body if told else (body[i : i + 65536] for i in range(0, len(body), 65536))
    answer = httpx.post(f"{served.url}/completions", content=content, headers=headers)
    assert answer.status_code == 413
    assert answer.json()["error"]["message"] == "the body is larger than 8388608 bytes: send less"


@pytest.mark.parametrize("path", ["/completions", "/chat/completions"])
def test_a_prompt_that_is_too_long_is_refused_with_the_limit(served: Served, path: str) -> None:
    word = "a" * 500
    content = (
        {"prompt": word} if path == "/completions" else {"messages": [SAY[0] | {"content": word}]}
    )
    body = {"model": "base", "max_tokens": 100, **content}
    error = raw(served, path, json.dumps(body))
    assert error["code"] == "context_length_exceeded" and "512" in error["message"]


def test_an_answer_is_as_long_as_the_context_allows_where_nothing_is_said(client: OpenAI) -> None:
    found = client.completions.create(model="base", prompt="a" * 505)
    assert found.usage.total_tokens == 512 and found.choices[0].finish_reason == "length"


@pytest.fixture
def beginning(served: Served) -> Iterator[PreTrainedTokenizerBase]:
    """The tokenizer, which begins every text as Mistral's and Llama's do."""
    tokenizer = served.model.backbone.tokenizer
    first = (tokenizer.bos_token, tokenizer.bos_token_id)
    processor = TemplateProcessing(single=f"{first[0]} $A", special_tokens=[first])
    before, tokenizer.backend_tokenizer.post_processor = None, processor
    yield tokenizer
    tokenizer.backend_tokenizer.post_processor = before


def test_a_text_in_the_template_is_read_as_the_chat_that_it_is_of(
    served: Served, beginning: PreTrainedTokenizerBase
) -> None:
    served.client.chat.completions.create(model="apple", messages=SAY, max_tokens=1)
    chat = served.engine.last.row
    text = render(beginning, [Message(**turn) for turn in SAY])
    for prompt in (text, text.removeprefix(beginning.bos_token)):
        served.client.completions.create(model="apple", prompt=prompt, max_tokens=1)
        row = served.engine.last.row
        assert (row.prompt, row.skip) == (chat.prompt, chat.skip)


LONG = "a@" + "b" * 200_000
UNKNOWN = [
    LONG,
    "pear",
    "",
    "a@nowhere",
    "apple@",
    "@",
    "--auto",
    "--each",
    "a\nb",
    "a@\0",
    "\ud800",
]


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_model_that_is_not_there_is_not_found(served: Served, name: str) -> None:
    body = json.dumps({"model": name, "prompt": "a"})
    headers = {"Content-Type": "application/json"}
    answer = httpx.post(f"{served.url}/completions", content=body, headers=headers)
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "model_not_found"


def test_other_paths_and_methods_are_refused_in_the_same_form(served: Served) -> None:
    for method, path, status in (("GET", "/chat/completions", 405), ("POST", "/embeddings", 404)):
        answer = httpx.request(method, f"{served.url}{path}")
        assert answer.status_code == status and path in answer.json()["error"]["message"]


def test_the_example_in_the_docs_runs(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    docs = (Path(__file__).parents[2] / "docs" / "serve.md").read_text("utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", docs, re.S)
    ours = example.replace("http://127.0.0.1:8000/v1", served.url).replace("shell", "apple")
    exec(compile(ours, "docs/serve.md", "exec"), {})
    assert capsys.readouterr().out
