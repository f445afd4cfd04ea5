"""Rows of tokens as padded batches."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence, Sized
from typing import TypeVar

import torch
from torch import Tensor, constant_pad_nd

from niwfctl.errors import UsageError

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


def require_prompts(mask: Tensor, known: Container[int] = ()) -> None:
    """Requires a mask of prompts, [rows, tokens], that has a True in every row.

    Args:
        known: the rows that need none.

    Raises:
        UsageError: it is something else.
    """
    if not isinstance(mask, Tensor) or mask.dim() != 2 or not len(mask):
        shape = f" of shape {list(mask.shape)}" if isinstance(mask, Tensor) else ""
        raise UsageError(
            f"a mask of prompts cannot be a {type(mask).__name__}{shape}: give a bool tensor "
            "[rows, tokens], with True at each prompt's own tokens"
        )
    for row, some in enumerate(mask.any(1).tolist()):
        if not some and row not in known:
            raise UsageError(
                f"row {row} of the mask of prompts has no True: mark that prompt's own tokens, on "
                "which its coordinate depends"
            )


def fitted(mask: Tensor, states: Tensor) -> Tensor:
    """A mask [rows, tokens] for the states of a pass.

    Transformers follows each row with its copies for beams, and prompts with candidates for their
    next tokens.

    Args:
        states: [rows · copies, tokens + candidates, hidden].

    Returns:
        bool [rows · copies, tokens + candidates], False at the candidates.

    Raises:
        UsageError: the states are of other shapes, or no copies.
    """
    (rows, width), (count, tokens) = mask.shape, states.shape[:2]
    if count % rows or tokens < width:
        raise UsageError(
            f"the mask of prompts is of shape {[rows, width]}, but the first pass of shape "
            f"{[count, tokens]}: give it a row for each, with as many tokens"
        )
    if count > rows and not _are_copies(states.unflatten(0, (rows, -1))):
        raise UsageError(
            f"the mask of prompts has {rows} rows, but the first pass {count} different ones: give "
            "it a row for each"
        )
    mask = mask.repeat_interleave(count // rows, dim=0) if count > rows else mask
    return constant_pad_nd(mask, (0, tokens - width)) if tokens > width else mask


def _are_copies(states: Tensor) -> bool:
    """Whether states [rows, copies, tokens, hidden] of copies differ by no more than rounding."""
    first = states[:, :1].float()
    apart = (states.float() - first).norm(dim=-1)
    return not bool((apart > 0.1 * first.norm(dim=-1)).any())
