"""Finding sealed bases of other capabilities that help to learn something new."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from niwfctl.backbone.adapter import ActiveField
from niwfctl.backbone.batch import batched
from niwfctl.backbone.prompts import Tokens
from niwfctl.backbone.scoring import Scorer
from niwfctl.field.region import Region
from niwfctl.training.data import spread

PROBED_ROWS = 32
TOGETHER = 4  # regions in one gradient, to bound memory
FINALISTS = 3  # regions whose loss is measured
CHOSEN = 1
LEAST_GAIN = 0.02  # of the loss: less is noise on so few rows


def related(
    scorer: Scorer,
    rows: Sequence[Tokens],
    names: Sequence[str],
    region_of: Callable[[str], Region],
    batch_size: int,
) -> list[str]:
    """Names of the regions whose bases are worth gating, the best first; often none.

    The gradient of the loss with respect to gates at zero tells which regions would lower it, for
    several regions in one backward pass. The most promising ones are then measured.

    Args:
        scorer: of the model; the active field of its adapter is left as it was.
        rows: the rows to learn from; only some are used.
        names: of the candidates.
        region_of: loads a region onto the model's device; only a few are held at a time.
    """
    adapter, rows = scorer.adapter, spread(rows, PROBED_ROWS)
    before = adapter.active
    try:
        promise: dict[str, float] = {}
        for group in batched(names, TOGETHER):
            promise |= _promises(scorer, rows, {one: region_of(one) for one in group}, batch_size)
            adapter.active = None  # frees these before others are loaded
        finalists = sorted(names, key=lambda name: (-promise[name], name))[:FINALISTS]
        adapter.active = None
        bare = _loss(scorer, rows, batch_size)
        losses = {}
        for name in finalists:
            adapter.active = ActiveField.of_region(adapter.groups, region_of(name))
            losses[name] = _loss(scorer, rows, batch_size)
    finally:
        adapter.active = before
    helping = [name for name in finalists if losses[name] < (1 - LEAST_GAIN) * bare]
    return sorted(helping, key=losses.__getitem__)[:CHOSEN]


def _promises(
    scorer: Scorer, rows: Sequence[Tokens], regions: Mapping[str, Region], batch_size: int
) -> dict[str, float]:
    """How much the loss falls, to first order, when all gates of a region go from 0 to 1."""
    adapter = scorer.adapter
    bases = [basis for region in regions.values() for basis in region.bases]
    closed = torch.zeros(
        (len(adapter.layers), len(bases)),
        dtype=torch.float32,
        device=adapter.model.device,
        requires_grad=True,
    )

    def gates(z: Tensor) -> Tensor:
        return closed.expand(len(z), -1, -1)

    adapter.active = ActiveField.of(adapter.groups, bases, gates, 1.0)
    for batch in batched(rows, batch_size):
        scorer.loss(batch)[0].backward()
    falls = (-closed.grad.sum(0)).split([len(region.bases) for region in regions.values()])
    named = zip(regions.items(), falls, strict=True)
    return {name: float(fall.sum()) * region.scale for (name, region), fall in named}


@torch.no_grad()
def _loss(scorer: Scorer, rows: Sequence[Tokens], batch_size: int) -> float:
    return sum(scorer.loss(batch)[0].item() for batch in batched(rows, batch_size))
