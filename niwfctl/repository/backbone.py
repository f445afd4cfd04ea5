"""Where the backbone that a repository pins is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from niwfctl.backbone.cache import hashes
from niwfctl.backbone.identity import earlier_identity
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
    if pinned.identity not in identities(source):
        raise BackboneError(
            f"{source.folder} is not the backbone this repository pins (it is {source.identity}, "
            f"pinned is {pinned.identity}): put the pinned one back, or say where it is with "
            "NIWFCTL_BACKBONE"
        )
    return source


def identities(source: Source) -> Iterator[str | None]:
    """All that a backbone is pinned by: older repositories have another hash, or a hub's commit."""
    yield from (source.identity, source.hub)
    yield earlier_identity(Path(source.folder), hashes())  # last, since it reads all files


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
