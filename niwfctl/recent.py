"""What was used last, kept for when it is used again."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """At most so many values, each made when it is asked for and not there."""

    def __init__(self, most: int) -> None:
        self._most, self._values = most, dict[Key, Value]()

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of a key; the one that was asked for longest ago makes room for a new one."""
        value = self._values.pop(key) if key in self._values else make()
        self._values[key] = value  # a dict has its last at the end
        if len(self._values) > self._most:
            del self._values[next(iter(self._values))]
        return value

    def drop_idle(self) -> None:
        """Keeps those alone that somebody else refers to, so that the others' memory is free."""
        references = {key: weakref.ref(value) for key, value in self._values.items()}
        self._values.clear()
        for key, reference in references.items():
            if (value := reference()) is not None:
                self._values[key] = value
