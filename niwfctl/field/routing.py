"""Routing without a task id, and its lock (G3): whose is a coordinate, and may that change?

The owner of z is the claim of the highest score log N(z; μ, Σ) − b among those whose cell holds z,
and the base is one of them; where no cell holds z the base owns it. A later claim gets the smallest
bias b that leaves earlier ones their anchors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from niwfctl.field.cell import Cell

BASE = -1  # in place of a claim's index


@dataclass(frozen=True)
class Claim:
    """What a region claims of coordinate space.

    Attributes:
        cell: its Gaussian cell.
        bias: b, in nats.
        anchors: coordinates it occupied in training, float64 [n, dim].
    """

    cell: Cell
    bias: float
    anchors: Tensor

    def score(self, z: Tensor) -> Tensor:
        """log N(z; μ, Σ) − b at z [..., dim], whether its cell holds z or not; float64 [...]."""
        return self.cell.log_density(z) - self.bias

    def bid(self, z: Tensor) -> Tensor:
        """The score where its cell holds z, −∞ elsewhere; float64 [...]."""
        return torch.where(self.cell.contains(z), self.score(z), -math.inf)


def bids(z: Tensor, base: Cell, claims: Sequence[Claim]) -> Tensor:
    """Bids of the base and of every claim at z [n, dim]; float64 [n, 1 + claims]."""
    everyone = [Claim(base, 0.0, base.mean[None]), *claims]
    return torch.stack([claim.bid(z) for claim in everyone], dim=-1)


def owners(z: Tensor, base: Cell, claims: Sequence[Claim]) -> Tensor:
    """Index of the claim that owns each coordinate, BASE for the base; int64 [n]."""
    return bids(z, base, claims).argmax(-1) - 1  # all −∞: the first, which is the base


def nearest(z: Tensor, claims: Sequence[Claim]) -> Tensor:
    """Index of the claim to answer z [n, dim] when one of these must; int64 [n].

    The highest bid, and where there is none the highest score.
    """
    bid = torch.stack([claim.bid(z) for claim in claims], dim=-1)
    score = torch.stack([claim.score(z) for claim in claims], dim=-1)
    return torch.where(bid.amax(-1).isfinite(), bid.argmax(-1), score.argmax(-1))


def needed_bias(cell: Cell, earlier: Sequence[Claim], max_takeover: float) -> float:
    """The smallest bias ≥ 0 at which a new claim takes over no more than it may of any other.

    Args:
        cell: of the new claim.
        earlier: claims whose anchors are protected.
        max_takeover: largest share of the anchors of each, in [0, 1].
    """
    bias = 0.0
    for claim in earlier:
        lead = _lead(cell, claim)
        allowed = math.floor(max_takeover * len(lead) + 1e-9)
        if allowed < len(lead):
            bias = max(bias, float(lead.sort(descending=True).values[allowed]))
    return bias


def takeover(later: Claim, earlier: Claim) -> tuple[int, int]:
    """(anchors of the earlier claim that the later one wins, all its anchors)."""
    won = _lead(later.cell, earlier) > later.bias
    return int(won.sum()), len(won)


def upper_bound(hits: int, trials: int, confidence: float = 0.95) -> float:
    """The exact one-sided binomial bound on a rate (Clopper and Pearson, 1934), by bisection."""
    if hits >= trials:
        return 1.0
    low, high = hits / trials, 1.0
    for _ in range(50):
        rate = (low + high) / 2
        tail = sum(
            math.comb(trials, i) * rate**i * (1 - rate) ** (trials - i) for i in range(hits + 1)
        )
        low, high = (rate, high) if tail > 1 - confidence else (low, rate)
    return high


def _lead(cell: Cell, earlier: Claim) -> Tensor:
    """By how much a cell without a bias outbids an earlier claim at its anchors, nats [n]."""
    return Claim(cell, 0.0, earlier.anchors).bid(earlier.anchors) - earlier.score(earlier.anchors)
