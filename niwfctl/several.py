"""Arguments of the Python API that may be one thing or several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

Names = str | Sequence[str]
Sources = str | Path | Sequence[str | Path]


def several(given: Sources) -> list[str]:
    """The argument as a list: a string or path is one thing, not a sequence of characters."""
    return [str(one) for one in ([given] if isinstance(given, str | Path) else given)]
