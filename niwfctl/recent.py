"""A small cache of the values used most recently."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """Keeps at most `most` values, each made when it is first asked for."""

    def __init__(self, most: int) -> None:
        self._most, self._values = most, dict[Key, Value]()

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of a key; a new value replaces the least recently used one."""
        value = self._values.pop(key) if key in self._values else make()
        self._values[key] = value  # a dict keeps the order of insertion
        if len(self._values) > self._most:
            del self._values[next(iter(self._values))]
        return value

    def drop_idle(self) -> None:
        """Drops the values that nothing else refers to, to free their memory."""
        references = {key: weakref.ref(value) for key, value in self._values.items()}
        self._values.clear()
        for key, reference in references.items():
            if (value := reference()) is not None:
                self._values[key] = value
