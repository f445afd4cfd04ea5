"""Ctrl-C in a program, or the stop button of a notebook, saves a training."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import QUICK

from niwfctl.errors import TrainingInterrupted
from niwfctl.repository import Repository
from niwfctl.training.loop import Progress


@contextmanager
def handling(handler: object) -> Iterator[None]:
    """A program that handles Ctrl-C so."""
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def press(progress: Progress) -> None:
    """Presses Ctrl-C after the first step."""
    if progress.stage == "training" and progress.step == 1:
        os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_in_a_program_saves_the_training_and_gives_ctrl_c_back(
    fresh: Repository, data: Path
) -> None:
    with handling(signal.default_int_handler):
        with pytest.raises(TrainingInterrupted, match="stopped at step 1 of 3 and is saved"):
            fresh.train("apple", data, QUICK, report=press)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert [run.step for run in fresh.uncommitted()] == [1]
    assert fresh.train("apple", resume=True).finished


def test_a_scheduler_that_ends_the_process_saves_the_training_and_can_tell(
    fresh: Repository, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def terminate(progress: Progress) -> None:
        if progress.stage == "training" and progress.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with handling(signal.default_int_handler), pytest.raises(TrainingInterrupted) as told:
        fresh.train("apple", data, QUICK, report=terminate)
    assert told.value.exit_code == 143 and "Ctrl-C" not in caplog.text
    assert fresh.train("apple", resume=True).finished


def test_a_program_that_handles_ctrl_c_itself_goes_on_doing_so(
    fresh: Repository, data: Path
) -> None:
    pressed: list[int] = []
    with handling(lambda number, frame: pressed.append(number)):
        assert fresh.train("apple", data, QUICK, report=press).finished
    assert pressed == [signal.SIGINT]


def test_a_training_in_another_thread_leaves_ctrl_c_alone(fresh: Repository, data: Path) -> None:
    with ThreadPoolExecutor() as threads, handling(signal.default_int_handler):
        assert threads.submit(fresh.train, "apple", data, QUICK).result().finished
