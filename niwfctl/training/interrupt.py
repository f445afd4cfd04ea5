"""Ctrl-C, or a notebook's stop button, ends a training after the step it is in."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType

from niwfctl.errors import TrainingInterrupted
from niwfctl.training.processes import leads

logger = logging.getLogger(__name__)

Stop = Callable[[], bool]
TERMINATED = 128 + signal.SIGTERM  # as shells report it


@contextmanager
def stopping() -> Iterator[Stop]:
    """A function that says whether Ctrl-C was pressed; a second Ctrl-C stops at once.

    SIGTERM, by which schedulers and containers are stopped, does the same, with its own exit code.
    """
    asked: set[int] = set()

    def ask(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in asked:
            raise KeyboardInterrupt
        if not asked and leads():
            again = "; Ctrl-C again stops at once without saving"
            logger.warning("saving after this step%s", again if number == signal.SIGINT else "")
        asked.add(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    except TrainingInterrupted as error:
        if signal.SIGTERM in asked:
            error.exit_code = TERMINATED
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stopping_if_free() -> AbstractContextManager[Stop]:
    """The same, unless the program handles Ctrl-C itself or this is not its main thread."""
    free = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if free and threading.current_thread() is threading.main_thread():
        return stopping()
    return nullcontext(lambda: False)
