"""Where the backbone that a repository pins is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from niwfctl.backbone.load import Source, resolve
from niwfctl.errors import BackboneError, MemoryFull, of_memory

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository


def pinned_source(repository: Repository) -> Source:
    """Where the backbone that the repository pins is.

    $NIWFCTL_BACKBONE may say where on this machine; it must be the same one still.

    Raises:
        BackboneError: it is missing, or another one.
    """
    pinned = repository.config.backbone
    source = resolve(os.environ.get("NIWFCTL_BACKBONE") or pinned.model, pinned.revision)
    if pinned.identity not in (source.identity, source.hub):
        raise BackboneError(
            f"{source.folder} is not the backbone this repository pins (it is {source.identity}, "
            f"pinned is {pinned.identity}): put the pinned one back, or say where it is with "
            "NIWFCTL_BACKBONE"
        )
    return source


@contextmanager
def fitting(quant: str) -> Iterator[None]:
    """A block that takes a backbone into memory.

    Raises:
        MemoryFull: it does not fit.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not of_memory(error):
            raise
        way = "take a smaller one" if quant == "nf4" else "hold it in 4 bits, by `init --quant nf4`"
        raise MemoryFull(
            f"there is too little memory for the backbone: {way}, or stop what else uses the memory"
        ) from error
