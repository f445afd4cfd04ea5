"""Locates the backbone that a repository pins."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from niwfctl.backbone.cache import hashes
from niwfctl.backbone.identity import earlier_identities
from niwfctl.backbone.load import Source, resolve
from niwfctl.errors import MemoryFull, OtherBackbone, of_memory

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository

_GONE = (
    "this repository pins it, so put it back, or set NIWFCTL_BACKBONE to where it is on this "
    "machine"
)
_MOVED = "set NIWFCTL_BACKBONE to where the backbone that this repository pins is, or unset it"


def pinned_source(repository: Repository) -> Source:
    """The pinned backbone, or the same one at $NIWFCTL_BACKBONE.

    Raises:
        BackboneError: it is missing, or differs from the pinned one.
    """
    pinned = repository.config.backbone
    elsewhere = os.environ.get("NIWFCTL_BACKBONE")
    source = resolve(elsewhere or pinned.model, pinned.revision, _MOVED if elsewhere else _GONE)
    if pinned.identity not in identities(source):
        raise OtherBackbone(
            f"{source.folder} is not the backbone this repository pins (it is {source.identity}, "
            f"pinned is {pinned.identity}): restore the pinned one, or set "
            "NIWFCTL_BACKBONE to its place"
        )
    return source


def identities(source: Source) -> Iterator[str | None]:
    """All ids that may pin a backbone: older repositories used another hash, or a hub's commit."""
    yield from (source.identity, source.hub)
    yield from earlier_identities(Path(source.folder), hashes())  # last: it reads every file


@contextmanager
def fitting(quant: str, way: str | None = None) -> Iterator[None]:
    """A block that takes a backbone into memory.

    Args:
        way: what to do if it does not fit, for the message; by default another backbone or `quant`.

    Raises:
        MemoryFull: it does not fit.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not of_memory(error):
            raise
        smaller = (
            "choose a smaller one" if quant == "nf4" else "quantize it with `init --quant nf4`"
        )
        raise MemoryFull(
            f"there is too little memory for the backbone: {way or smaller}, or stop other users "
            "of the memory"
        ) from error
