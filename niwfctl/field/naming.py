"""Named tensors, grouped by prefix."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors called `{prefix}.…`, named by what follows the dot."""
    start = f"{prefix}."
    return {key.removeprefix(start): t for key, t in tensors.items() if key.startswith(start)}
