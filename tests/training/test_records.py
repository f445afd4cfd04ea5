"""Data that a program holds in memory: records as files have them, and examples."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import QUICK
from typer.testing import Result

from niwfctl.errors import DataError, TrainingInterrupted, UsageError
from niwfctl.records import Example, Message
from niwfctl.repository import Repository
from niwfctl.several import IN_MEMORY
from niwfctl.training.data import read_examples

Command = Callable[..., Result]


@pytest.fixture
def records(data: Path) -> list[dict]:
    """What the data file holds."""
    return [json.loads(line) for line in data.read_text().splitlines()]


def test_records_train_what_their_file_would(
    fresh: Repository, data: Path, records: list[dict], niwfctl: Command
) -> None:
    of_file = fresh.train("file", data, QUICK)
    of_memory = fresh.train("memory", iter(records), QUICK)
    assert of_memory.data_hash == of_file.data_hash
    assert of_memory.perplexity == of_file.perplexity
    assert of_memory.sources == [IN_MEMORY]
    fresh.commit("memory", "Of a program's data")
    shown = niwfctl("-C", fresh.path, "show", "memory").stdout
    assert f"{IN_MEMORY} (sha256:" in shown
    both = fresh.train("both", [data, *records[:2]], QUICK)
    assert both.sources == [str(data), IN_MEMORY] and both.rows + both.held_out_rows == 42


def test_examples_without_an_origin_are_records_of_their_own() -> None:
    given = [Example((Message("user", text),), "yes") for text in ("a", "b")]
    assert [example.origin for example in read_examples(given)] == ["record 0", "record 1"]
    named = Example((Message("user", "c"),), "no", "mine:3")
    assert read_examples([named]) == [named]


def test_a_record_that_is_none_is_named_by_its_place(records: list[dict]) -> None:
    with pytest.raises(DataError, match=r"record 1 .*expected `instruction`"):
        read_examples([records[0], {"question": "?"}])


def test_a_training_of_records_resumes_only_where_they_are(
    fresh: Repository, records: list[dict], niwfctl: Command
) -> None:
    with pytest.raises(TrainingInterrupted):
        fresh.train("apple", records, QUICK, stop=lambda: True)
    done = niwfctl("-C", fresh.path, "train", "apple", "--resume")
    assert done.exit_code == UsageError.exit_code
    assert "resume it from Python" in done.stderr
    with pytest.raises(DataError, match="has changed"):
        fresh.train("apple", records[1:], resume=True)
    assert fresh.train("apple", records, resume=True).finished
