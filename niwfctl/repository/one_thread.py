"""Objects that one thread may use at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from threading import RLock
from typing import TypeVar

from niwfctl.errors import UsageError

Kind = TypeVar("Kind", bound=type)


def one_thread(*methods: str) -> Callable[[Kind], Kind]:
    """Refuses calls of these methods while another thread is in one of them.

    Waiting would not do: between two calls the other thread may change what is active.
    """

    def guarded(kind: Kind) -> Kind:
        for name in methods:
            setattr(kind, name, _alone(getattr(kind, name)))
        return kind

    return guarded


def _alone(method: Callable) -> Callable:
    @wraps(method)
    def call(self: object, *args: object, **named: object) -> object:
        lock = vars(self).setdefault("_one_thread", RLock())
        if not lock.acquire(blocking=False):
            raise UsageError(
                f"`{method.__name__}` was called while another thread uses this model, whose "
                "active capability is the same for all threads: let one thread own the model, for "
                "instance a ThreadPoolExecutor(1), and submit what all others want to that"
            )
        try:
            return method(self, *args, **named)
        finally:
            lock.release()

    return call
