"""Arguments of the Python API that may be one thing or several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from niwfctl.records import Example

IN_MEMORY = "(in memory)"  # what the record of a training calls data that no file holds

Names = str | Sequence[str]
Source = str | Path | Mapping | Example
Sources = Source | Iterable[Source]


def several(given: str | Path | Iterable[str | Path]) -> list[str]:
    """The argument as a list: a string or path is one thing, not a sequence of characters."""
    return [str(one) for one in sources_of(given)]


def sources_of(given: Sources) -> list[Source]:
    """The same of data, which may also be records or examples that a program holds."""
    return [given] if isinstance(given, Source) else list(given)


def names_of(sources: Iterable[Source]) -> list[str]:
    """What to call data: files and hub datasets by name, and IN_MEMORY for the rest."""
    given = list(sources)
    files = [str(one) for one in given if isinstance(one, str | Path)]
    return files if len(files) == len(given) else [*files, IN_MEMORY]
