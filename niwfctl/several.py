"""Where several things are expected, callers of the Python API may give one alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

Names = str | Sequence[str]
Sources = str | Path | Sequence[str | Path]


def several(given: Sources) -> list[str]:
    """What was given, as a list: a string or path is one thing, not a sequence of letters."""
    return [str(one) for one in ([given] if isinstance(given, str | Path) else given)]
