"""How parameters are moved along their gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

LARGEST_GRADIENT = 1.0  # gradients of a larger norm are scaled down to it


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
