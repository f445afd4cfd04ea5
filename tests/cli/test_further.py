"""What trains a capability further once its training is over."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import QUICK
from tiny import write_data
from typer.testing import Result

from niwfctl.errors import TrainingInterrupted
from niwfctl.repository import Repository

Refused = Callable[..., None]


@pytest.mark.parametrize("more", [[], ["--steps", 9], ["--data", "more.jsonl"]])
@pytest.mark.parametrize("way", ["--resume", "--finish"])
def test_a_finished_training_is_not_resumed_but_its_ways_on_are_told(
    trained: Repository, refused: Refused, way: str, more: list[object]
) -> None:
    words = ("is finished: commit it", "--restart", "--revise", "--from apple", "--extend")
    refused(trained, ["train", "apple", way, *more], 2, *words)


def test_so_are_those_of_a_committed_one(committed: Repository, refused: Refused) -> None:
    words = ("'apple' is finished and committed: --revise", "--from apple", "--extend")
    refused(committed, ["train", "apple", "--resume", "--steps", 9], 2, *words)


def test_a_name_that_nothing_was_trained_under_has_nothing_to_resume(
    trained: Repository, refused: Refused
) -> None:
    refused(trained, ["train", "pear", "--resume"], 2, "no training of 'pear' to resume: start it")


def test_an_unfinished_one_keeps_its_options(
    fresh: Repository, data: Path, refused: Refused
) -> None:
    with pytest.raises(TrainingInterrupted):
        fresh.train("apple", data, QUICK, stop=lambda: True)
    refused(fresh, ["train", "apple", "--resume", "--steps", 9], 2, "keep the options")


def test_a_revision_from_itself_gates_the_sealed_bases_beside_one_new_one(
    committed: Repository, tmp_path: Path, niwfctl: Callable[..., Result]
) -> None:
    data = write_data(tmp_path / "more.jsonl", rows=50)
    (old,) = committed.capability("apple").regions
    command = ("-C", committed.path, "train", "apple", "--revise", "--from", "apple")
    done = niwfctl(*command, "--data", data, "--steps", 2, "--batch-size", 4)
    assert "with 2 sealed bases of apple" in done.stdout
    committed.commit(["apple"], "More apples")
    (new,) = committed.capability("apple").regions
    assert new.bases[: len(old.bases)] == old.bases and len(new.bases) == len(old.bases) + 1
