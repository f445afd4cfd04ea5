"""Rows of tokens as padded batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from typing import TypeVar

import torch
from torch import Tensor

Row = TypeVar("Row")


def batched(rows: Sequence[Row], size: int) -> Iterator[Sequence[Row]]:
    """Consecutive batches of at most `size` rows."""
    return (rows[start : start + size] for start in range(0, len(rows), size))


def by_length(rows: Sequence[Sized], size: int) -> Iterator[list[int]]:
    """Indices of rows in batches of at most `size`, shortest first, to minimize padding."""
    yield from batched(sorted(range(len(rows)), key=lambda place: len(rows[place])), size)


def pad(rows: Sequence[Sequence[int]], *, left: bool = False) -> Tensor:
    """Token ids, int64 [rows, longest], padded with 0 on the right, or on the left.

    Padding on the right needs no attention mask in a causal model: no real token attends to it.
    """
    width = max(map(len, rows))
    padded = torch.zeros(len(rows), width, dtype=torch.long)
    for index, row in enumerate(rows):
        start = width - len(row) if left else 0
        padded[index, start : start + len(row)] = torch.tensor(row)
    return padded


def on(device: torch.device, *tensors: Tensor) -> list[Tensor]:
    """Tensors of the CPU on a device; a CUDA one still computes what was asked of it before."""
    # From memory that is not pinned, the copy is staged before this returns: they can be freed.
    return [tensor.to(device, non_blocking=device.type == "cuda") for tensor in tensors]


def prompt_mask(
    lengths: Sequence[int], width: int, skip: int | Sequence[int], *, left: bool = False
) -> Tensor:
    """Which tokens count towards the coordinate.

    Args:
        lengths: number of prompt tokens in each row.
        width: number of tokens of the padded batch.
        skip: leading tokens to leave out, one number for all rows or one each; a row's last prompt
            token always counts.
        left: whether the batch is padded on the left.

    Returns:
        bool [rows, width].
    """
    position = torch.arange(width)[None]
    end = torch.tensor(lengths)[:, None]
    if left:
        position = position - (width - end)
    begin = torch.minimum(torch.as_tensor(skip).reshape(-1, 1), end - 1)
    return (position >= begin) & (position < end)
