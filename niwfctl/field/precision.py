"""Float32 products at full precision, whatever the program around has chosen.

torch can be told to multiply float32 matrices with fewer bits (TF32 on a GPU, bf16 on a CPU), for
the whole process. Coordinates and gates would then differ from those at commit, and with them who
owns a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

import torch

_FULL = ("none", "ieee")  # what torch calls full precision: by default, and if it was asked for
_lock = Lock()
_users = 0  # blocks of all threads; the first one saves what was chosen, and the last restores it
_restore: Callable[[], None]


@contextmanager
def full_precision() -> Iterator[None]:
    """A block, or the decorator of a function, whose float32 products keep all their bits.

    Other threads' products keep theirs, too, for as long as it lasts. Gradients that are computed
    after it do as the program around has chosen.
    """
    global _users, _restore
    with _lock:
        if not _users:
            _restore = _set_full()
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _restore()


def chosen_precision(kind: str) -> str | None:
    """What float32 products of a kind of device are computed in; None if in float32.

    Args:
        kind: type of a device, such as `cuda`.
    """
    if not _has_fp32_precision():
        legacy = torch.get_float32_matmul_precision()
        return None if legacy == "highest" else legacy
    backend = torch.backends.cuda if kind == "cuda" else torch.backends.mkldnn
    chosen = backend.matmul.fp32_precision
    return None if chosen in _FULL else chosen


def _has_fp32_precision() -> bool:
    """Whether torch has a setting for each backend, as from 2.9 on, beside that for all."""
    return hasattr(torch.backends.cuda.matmul, "fp32_precision")


def _set_full() -> Callable[[], None]:
    """Sets full precision if it is not; returns what restores the settings."""
    if not any(map(chosen_precision, ("cuda", "cpu"))):
        return lambda: None
    products = ()
    if _has_fp32_precision():
        products = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    before = [product.fp32_precision for product in products]
    for product in products:
        product.fp32_precision = "ieee"
    legacy = torch.get_float32_matmul_precision()  # refused while the two kinds contradict
    torch.set_float32_matmul_precision("highest")

    def restore() -> None:
        torch.set_float32_matmul_precision(legacy)
        for product, chosen in zip(products, before, strict=True):
            product.fp32_precision = "none"  # follows torch.backends.fp32_precision,
            if product.fp32_precision != chosen:  # unless it had a value of its own
                product.fp32_precision = chosen

    return restore
