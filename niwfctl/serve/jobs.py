"""Requests that wait for their answers, and how long a batch of them goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from niwfctl.backbone.generation import Request

LEAST_STEPS = 8  # of a batch before it is interrupted
LARGEST_SHARE = 1 / 3  # of a batch's time that it takes to read its rows, if it is interrupted


@dataclass(frozen=True)
class Piece:
    """A part of an answer.

    Attributes:
        model: who answers.
        ended: why the answer ends here, `stop` or `length`; None if it goes on.
        index: of the prompt among those of its request.
    """

    text: str
    model: str
    ended: str | None
    index: int = 0


@dataclass(eq=False)
class Job:
    """A prompt that waits for its answer.

    Attributes:
        model: the model as the client named it.
        capability: as `Model.use_each` takes it.
        index: among the prompts of its request, which all have the same queue of events.
        begun: when its prompt was first read, in seconds of the monotonic clock.
        answered_by: the model that answers, once that is known.
    """

    model: str
    capability: str | None
    row: Request
    index: int = 0
    begun: float | None = None
    answered_by: str | None = None
    events: asyncio.Queue[Piece | Exception] = field(default_factory=asyncio.Queue)


class Turn:
    """How long a batch goes on before others join it.

    Whoever joins makes a new batch, for which the unfinished rows are read again. That is waste, so
    a batch first goes on for a few steps, and for as long as keeps reading a small share.
    """

    def __init__(self, wanted: Callable[[], bool]) -> None:
        """
        Args:
            wanted: whether others wait who could join.
        """
        self._wanted = wanted
        self._begun, self._steps, self._reading = time.monotonic(), 0, 0.0

    def __call__(self) -> bool:
        """Whether the batch ends for now; to be called after each of its steps."""
        elapsed = time.monotonic() - self._begun
        self._steps += 1
        if self._steps == 1:
            self._reading = elapsed
        worthwhile = self._steps >= LEAST_STEPS and self._reading <= elapsed * LARGEST_SHARE
        return worthwhile and self._wanted()
