"""Gradient checkpointing: layers keep only their input, and compute again for the gradient.

Transformers' own runs only in training mode, in which some models use dropout, and computes again
when the prompts of the pass are already gone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial, wraps
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from niwfctl.backbone.adapter import FieldAdapter
from niwfctl.backbone.sites import decoder_layers


def recompute_layers(adapter: FieldAdapter) -> None:
    """Makes the adapted layers keep only their input when a gradient is needed.

    A training step takes about a third longer and gives the same gradients. This lasts until the
    adapter is detached.
    """
    layers = decoder_layers(adapter.model)
    for index in adapter.layers:
        adapter.wrap(layers[index], partial(_recomputed, adapter))


def _recomputed(adapter: FieldAdapter, compute: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(compute)
    def forward(*args: Any, **kwargs: Any) -> Any:
        if adapter.active is None or not torch.is_grad_enabled():
            return compute(*args, **kwargs)
        again = adapter.repeated()
        return checkpoint(
            compute,
            *args,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=lambda: (nullcontext(), again),
            **kwargs,
        )

    return forward
