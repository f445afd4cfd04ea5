"""The sequences that need no data, and taking turns."""

import fcntl
from pathlib import Path

import pytest
from common import LONGEST, MEASURED
from continual import arguments
from rivals.run import Turns
from rivals.streams import SEQUENCES, WITHOUT_DATA, Streams


@pytest.mark.parametrize("sequence", WITHOUT_DATA)
def test_tasks_of_the_library_are_short_and_held_out(sequence, load_tiny, tmp_path: Path) -> None:
    streams = Streams(None, tmp_path)
    tasks = streams.tasks(sequence, load_tiny().tokenizer)
    assert tuple(task.name for task in tasks) == SEQUENCES[sequence]
    for task in tasks:
        parts = [task.training, task.validation, task.test]
        assert all(len(row) <= LONGEST for rows in parts for row in rows)
        assert len(task.validation) == MEASURED
        assert task.training and task.test
        prompts = [{tuple(row.prompt) for row in rows} for rows in parts]
        assert not prompts[0] & prompts[2]


def test_a_folder_of_classes_is_a_sequence_of_its_tasks(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / "given" / name).mkdir(parents=True)
    streams = Streams(None, tmp_path, tmp_path / "given")
    assert streams.sequences["classes"] == ("a", "b")


def test_a_turn_keeps_others_out_until_it_is_given(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    turns = Turns(lock, seconds=1000.0)
    turns.wait()
    turns.wait()  # still one's own
    with lock.open("a") as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        turns.give()
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("size", [[], ["--quick"]])
def test_given_classes_are_run_beside_whatever_else_is(
    size, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", ["continual.py", "results", *size, "--classes", str(tmp_path)])
    found = arguments().sequences
    assert "classes" in found and len(set(found)) == len(found)
