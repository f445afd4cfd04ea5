"""How parameters are moved along their gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

LARGEST_GRADIENT = 1.0  # gradients of a larger norm are scaled down to it
SMALLEST_IN_8_BITS = 4096  # numbers of a parameter whose moments bitsandbytes keeps in 8 bits,
BLOCK = 256  # with a scale for so many of them,
SMALLEST_PAGED = 100_000  # and in memory that the CPU and the GPU share


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """Linear rise over the first `warmup` share of steps, then half a cosine down to zero."""
    rising = math.ceil(warmup * steps)
    if step < rising:
        return peak * (step + 1) / (rising + 1)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(steps - rising, 1)))


def _adamw(parameters: Sequence[dict]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, weight_decay=0.0)


def _paged_adamw_8bit(parameters: Sequence[dict]) -> torch.optim.Optimizer:
    from bitsandbytes.optim import PagedAdamW8bit

    return PagedAdamW8bit(parameters, weight_decay=0.0)


OPTIMIZERS = {"adamw": _adamw, "paged_adamw_8bit": _paged_adamw_8bit}


def moments_to_come(name: str, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Tensors of the sizes of the moments that an optimizer still has to make, uninitialized.

    Args:
        name: a key of `OPTIMIZERS`.
        optimizer: what it made; moments that it has already, such as restored ones, are left out.
    """
    of = _moments_of if name == "adamw" else _8_bit_moments_of
    parameters = (one for group in optimizer.param_groups for one in group["params"])
    return [one for each in parameters if not optimizer.state.get(each) for one in of(each)]


def _moments_of(parameter: Tensor) -> list[Tensor]:
    return [torch.empty_like(parameter) for _ in range(2)]


def _8_bit_moments_of(parameter: Tensor) -> list[Tensor]:
    """As bitsandbytes makes them: large ones are paged, and leave the GPU where it is full."""
    count, device = parameter.numel(), parameter.device
    if count < SMALLEST_IN_8_BITS:
        return _moments_of(parameter)
    blocks = math.ceil(count / BLOCK)
    scales = [torch.empty(blocks, dtype=torch.float32, device=device) for _ in range(2)]
    if parameter.is_cuda and count >= SMALLEST_PAGED:
        return scales
    return scales + [torch.empty(count, dtype=torch.uint8, device=device) for _ in range(2)]
