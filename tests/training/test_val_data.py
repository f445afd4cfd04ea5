"""Validation data of the user's own, in place of a share of the training data."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import write_data
from typer.testing import Result

from niwfctl.errors import DataError, TrainingInterrupted, UsageError
from niwfctl.repository import Repository
from niwfctl.training.data import data_hash, read_examples
from niwfctl.training.run import TrainingOptions

Command = Callable[..., Result]
OPTIONS = TrainingOptions(steps=3, batch_size=4, rank=2, lr=0.01)


@pytest.fixture
def pears(tmp_path: Path) -> Path:
    """Six records, of other prompts than the training data."""
    return write_data(tmp_path / "pears.jsonl", rows=6, word="pear")


def test_all_of_the_data_is_learned_from_and_all_of_the_validation_data_measured_on(
    fresh: Repository, data: Path, pears: Path
) -> None:
    run = fresh.train("apple", data, OPTIONS, val_data=pears)
    assert (run.rows, run.held_out_rows, run.skipped_rows) == (40, 6, 0)
    assert run.val_data.sources == (str(pears),)
    assert run.val_data.data_hash == data_hash(read_examples(pears))
    fresh.commit("apple", "Apples")
    model = fresh.load("apple")
    assert model.score(read_examples(pears)).perplexity == pytest.approx(run.perplexity)


def test_what_it_was_measured_on_is_told_without_its_folder(
    niwfctl: Command, fresh: Repository, data: Path, pears: Path
) -> None:
    command = ("-C", fresh.path, "train", "apple", "--data", data, "--val-data", pears)
    assert niwfctl(*command, "--steps", 2, "--batch-size", 4).exit_code == 0
    assert niwfctl("-C", fresh.path, "commit", "-m", "Apples").exit_code == 0
    shown = niwfctl("-C", fresh.path, "show", "apple").stdout
    assert "measured on pears.jsonl (sha256:" in " ".join(shown.split())
    printed = niwfctl("-C", fresh.path, "show", "apple", "--json").stdout
    (region,) = json.loads(printed)["regions"]
    expected = data_hash(read_examples(pears))
    assert region["training"]["val_data"] == {"sources": ["pears.jsonl"], "data_hash": expected}


def test_a_training_resumes_on_its_validation_data_and_on_no_other(
    fresh: Repository, data: Path, pears: Path
) -> None:
    straight = fresh.train("straight", data, OPTIONS, val_data=pears)
    with pytest.raises(TrainingInterrupted):
        fresh.train("apple", data, OPTIONS, val_data=pears, stop=lambda: True)
    before = pears.read_text()
    pears.write_text(before.replace("pear is", "pear was"))
    with pytest.raises(DataError, match="data of 'apple' has changed"):
        fresh.train("apple", resume=True)
    pears.write_text(before)
    resumed = fresh.train("apple", resume=True)
    assert resumed.perplexity == straight.perplexity


def test_prompts_that_are_learned_from_are_warned_of(
    fresh: Repository, data: Path, pears: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fresh.train("apple", data, OPTIONS, val_data=pears)
    assert "begin with prompts" not in caplog.text
    some = pears.read_text() + "".join(data.read_text().splitlines(keepends=True)[:2])
    pears.write_text(some)
    fresh.train("apple", data, OPTIONS, val_data=pears, restart=True)
    assert "2 of the 8 rows of --val-data begin with prompts that --data holds" in caplog.text


def test_a_share_and_data_of_ones_own_exclude_each_other(
    niwfctl: Command, fresh: Repository, data: Path, pears: Path
) -> None:
    command = ("-C", fresh.path, "train", "apple", "--data", data, "--val-data", pears)
    done = niwfctl(*command, "--val-split", 0.1)
    assert done.exit_code == 2 and "--val-data and --val-split exclude each other" in done.stderr
    with pytest.raises(UsageError, match="--val-split exclude"):
        fresh.train("apple", data, TrainingOptions(steps=1, val_split=0.1), val_data=pears)
