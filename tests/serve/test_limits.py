"""What one server lets its clients have."""

from pathlib import Path

import openai
import pytest
from serve.conftest import APPLES, serving, wait_until

from niwfctl.repository import Repository
from niwfctl.repository.model import Model


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
