"""Requests that say how the chat template is to be filled in."""

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from serve.conftest import Served, serving
from thinking import AT_WILL, thinking_tokenizer
from tiny import tiny_model

from niwfctl.repository import Repository

ASKED = {"model": "base", "messages": [{"role": "user", "content": "2+2?"}], "max_tokens": 4}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder: Path = tmp_path_factory.mktemp("thinker")
    tiny_model("qwen3", vocab_size=270).save_pretrained(folder / "backbone")
    thinking_tokenizer(AT_WILL).save_pretrained(folder / "backbone")
    repository = Repository.init(
        folder / "field",
        model=str(folder / "backbone"),
        dim=8,
        template_args={"enable_thinking": False},
    )
    with serving(repository, repository.load()) as running:
        yield running


def test_a_request_may_repeat_the_arguments_that_are_pinned(served: Served) -> None:
    create = served.client.chat.completions.create
    plain = create(**ASKED)
    assert served.model.backbone.tokenizer.decode(served.engine.last.row.prompt).endswith(
        "assistant\n<think>\n\n</think>\n\n"
    )
    for given in ({"enable_thinking": False}, {}, None):
        found = create(**ASKED, extra_body={"chat_template_kwargs": given})
        assert found.choices == plain.choices and found.usage == plain.usage


@pytest.mark.parametrize(
    "given", [{"enable_thinking": True}, {"enable_thinking": 0}, {"thinking": False}]
)
def test_other_arguments_than_the_pinned_ones_are_refused(served: Served, given: dict) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        served.client.chat.completions.create(**ASKED, extra_body={"chat_template_kwargs": given})
    assert refused.value.param == "chat_template_kwargs"
    assert (
        '`chat_template_kwargs` are pinned at init (here: {"enable_thinking": false})'
        in refused.value.message
    )
