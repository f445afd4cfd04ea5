"""Patterns of an adapter's config, which give modules ranks of their own.

The file is not to be trusted, and Python's matcher takes very long for some expressions, so only
simple ones are taken, and not too many. No torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TypeVar

# Keys a pattern may have: names and simple expressions, with at most one choice in brackets.
_ONE = r"(?:[\w-]|\.|\\[.dw-]|\[\w(?:-?\w)*\])[*+?]?|[\^$|]"
_KEY = re.compile(rf"(?:{_ONE})*(?:\((?:\?:)?(?:{_ONE})*\)(?:{_ONE})*)?", re.ASCII)
_REPEATS = "*+?"
_LONGEST = 1000  # characters of a key
_MOST_REPEATS = 3  # in a key
_MOST_REPEATING = 32  # keys; other ones are matched in no time
_MOST_KEYS = 4096  # tools write one for each module
Number = TypeVar("Number", int, float)


def matching(pattern: Mapping[str, Number] | None, module: str, usual: Number) -> Number:
    """A module's entry, found as PEFT finds it: keys are ends of paths, or expressions."""
    entries = (pattern or {}).items()
    return next((entry for key, entry in entries if _compiled(key).match(module)), usual)


def pattern_problem(pattern: Mapping[str, float]) -> str | None:
    """Why a pattern is not taken, as a predicate of its file."""
    repeating = sum(any(sign in key for sign in _REPEATS) for key in pattern)
    if len(pattern) > _MOST_KEYS or repeating > _MOST_REPEATING:
        return (
            f"has a pattern of {len(pattern)} keys, of which {repeating} have `*`, `+` or `?`: "
            f"expected at most {_MOST_KEYS} and {_MOST_REPEATING}"
        )
    for key, value in pattern.items():
        if value <= 0:
            return f"has the impossible pattern {key[:60]!r}: {value!r}"
        if not _is_simple(key):
            return (
                f"has the pattern {key[:60]!r}: expected names, with `|`, `^`, `$`, `.`, "
                "`\\d`, `\\w`, classes, one pair of unrepeated brackets, and at most "
                f"{_MOST_REPEATS} of `*`, `+` and `?`"
            )
    return None


def _is_simple(key: str) -> bool:
    """Whether a key can be matched to a module's path quickly."""
    repeats = sum(map(key.replace("(?:", "(").count, _REPEATS))
    if len(key) > _LONGEST or repeats > _MOST_REPEATS or not _KEY.fullmatch(key):
        return False
    try:
        re.compile(key)
    except re.error:
        return False
    return True


@lru_cache(2 * _MOST_KEYS)
def _compiled(key: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({key})$")
