"""What `import niwfctl` gives to those who write Python."""

from pathlib import Path

import pytest
from conftest import QUICK

from niwfctl.errors import UsageError
from niwfctl.repository import Repository
from niwfctl.repository.measure import Data
from niwfctl.training.data import Message, read_examples


def test_one_file_or_name_may_be_given_where_several_are_expected(
    fresh: Repository, data: Path
) -> None:
    run = fresh.train("plum", data, QUICK)
    assert run.sources == [str(data)]
    fresh.commit("plum", "Plums")
    assert fresh.verify("plum").ok
    fresh.compose("plum", "jam")
    assert [part.of.split("@")[0] for part in fresh.capability("jam").parts] == ["plum"]
    assert read_examples(data) == read_examples(str(data)) == read_examples([data])
    assert Data.read(data).hash == run.data_hash


def test_a_commit_wants_a_message(trained: Repository) -> None:
    with pytest.raises(TypeError, match="message"):
        trained.commit(["apple"])
    with pytest.raises(UsageError, match=r"an empty commit message: say what was trained$"):
        trained.commit("apple", " ")


def test_an_empty_prompt_is_refused(committed: Repository) -> None:
    model = committed.load("apple")
    for empty in ("", " \n", [], [Message("user", "")]):
        with pytest.raises(UsageError, match="the prompt is empty"):
            model.generate(empty)
