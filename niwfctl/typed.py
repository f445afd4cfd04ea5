"""What the user typed, for what writes it down: the operation log, and the note beside a lock."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

LONGEST = 200  # characters
_COMMAND: ContextVar[str | None] = ContextVar("command", default=None)


@contextmanager
def typed(arguments: Sequence[str]) -> Iterator[None]:
    """A block that does what was typed after `niwfctl`."""
    token = _COMMAND.set(shlex.join(["niwfctl", *arguments]))
    try:
        yield
    finally:
        _COMMAND.reset(token)


def command_line(otherwise: str) -> str:
    """What was typed; in a program, whose own command line is its affair, `otherwise`."""
    return (_COMMAND.get() or otherwise.partition("\n")[0])[:LONGEST]
