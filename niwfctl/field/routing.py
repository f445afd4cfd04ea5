"""Routing without a task id, and its lock (G3): who owns a coordinate, and may that change?

The owner of z is the claim with the highest score log N(z; μ, Σ) − b among those whose cell holds z
and that outbid the base by their margin. The base has a cell of its own with heavy tails, and owns
whatever nobody bids for. A later claim gets the smallest bias b that leaves earlier claims their
anchors, and the smallest margin that leaves the base its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from niwfctl.field.cell import Cell, Cells

BASE = -1  # in place of a claim's index
DISPUTABLE = 0.02  # largest share of an earlier claim's anchors that may be disputed
CONFIDENCE = 0.95  # of a bound on a rate
ROUNDING = 1e-6  # nats; what holds at commit must also hold on a platform that rounds differently


@dataclass(frozen=True)
class Claim:
    """The part of coordinate space that a region claims.

    Attributes:
        cell: its Gaussian cell.
        bias: b, in nats.
        anchors: coordinates it occupies in training, float64 [n, dim].
        margin: nats by which its log-density must exceed that of the base's cell.
        disputed: anchors of earlier claims, float64 [k, dim] or None: a coordinate that is nearer
            to one of these than to any of its own anchors stays with its owner.
        general: whether it also gets what the base's own cell would have won.
        fresh: log-densities at its anchors by cells that were fitted without them, float64 [n]:
            how well new prompts of its kind fit. None: the cell that was fitted to the anchors
            scores them, too well if they are few for the number of dimensions.
    """

    cell: Cell
    bias: float
    anchors: Tensor
    margin: float = 0.0
    disputed: Tensor | None = None
    general: bool = False
    fresh: Tensor | None = None

    def score(self, z: Tensor) -> Tensor:
        """log N(z; μ, Σ) − b at z [..., dim], even outside its cell; float64 [...]."""
        return self.cell.log_density(z) - self.bias

    def bid(self, z: Tensor) -> Tensor:
        """The score where its cell holds z and z is not ceded, −∞ elsewhere; float64 [...]."""
        score = self.cell.log_density_inside(z) - self.bias
        return score.masked_fill(self.ceded(z), -math.inf)

    @cached_property
    def own_scores(self) -> Tensor:
        """The score at its own anchors, float64 [n], which later claims have to outbid."""
        return self.score(self.anchors) if self.fresh is None else self.fresh - self.bias

    def ceded(self, z: Tensor) -> Tensor:
        """Whether z [..., dim] is as near to a disputed anchor as to its own ones; bool [...]."""
        if self.disputed is None:
            return torch.zeros(z.shape[:-1], dtype=torch.bool)
        theirs = self._distances(z, self.disputed).amin(-1)
        return theirs <= self._distances(z, self.anchors).amin(-1) + 1e-9  # ties are ceded

    def ceded_share(self) -> float:
        """Share of its own anchors that it cedes, each treated as a new prompt."""
        if self.disputed is None:
            return 0.0
        others = self._distances(self.anchors, self.anchors)
        others.fill_diagonal_(math.inf)
        theirs = self._distances(self.anchors, self.disputed).amin(-1)
        return float((theirs <= others.amin(-1)).double().mean())

    def _distances(self, a: Tensor, b: Tensor) -> Tensor:
        exact = "donot_use_mm_for_euclid_dist"
        return torch.cdist(self.cell.whiten(a), self.cell.whiten(b), compute_mode=exact)


class Claims:
    """The base and all claims, evaluated together."""

    def __init__(self, base: Cell, claims: Sequence[Claim]) -> None:
        self._base = base
        self._ceding = [(i, claim) for i, claim in enumerate(claims) if claim.disputed is not None]
        self._cells = Cells([claim.cell for claim in claims]) if claims else None
        self._biases = torch.tensor([claim.bias for claim in claims], dtype=torch.float64)
        self._margins = torch.tensor([claim.margin for claim in claims], dtype=torch.float64)
        self._general = next((i for i, claim in enumerate(claims) if claim.general), None)

    def bids(self, z: Tensor, last: Tensor | None = None) -> Tensor:
        """Bids of the base and of every claim at z [n, dim]; float64 [n, 1 + claims].

        The first general claim bids in place of the base, which then makes no bid.

        Args:
            last: log-densities of the last claim at z, instead of those of its cell; float64 [n].
        """
        floor = self._base.log_density(z)
        ground = torch.where(self._base.contains(z), floor, -math.inf)[:, None]
        if self._cells is None:
            return ground
        density, held = self._cells.ask(z)
        if last is not None:
            density[:, -1] = last
        held &= density - floor[:, None] > self._margins
        for index, claim in self._ceding:
            if held[:, index].any():
                held[:, index] &= ~claim.ceded(z)
        found = torch.where(held, density - self._biases, -math.inf)
        if self._general is not None:
            found[:, self._general] = torch.maximum(found[:, self._general], ground[:, 0])
            ground = torch.full_like(ground, -math.inf)
        return torch.cat([ground, found], dim=-1)


def owners(z: Tensor, base: Cell, claims: Sequence[Claim], last: Tensor | None = None) -> Tensor:
    """Index of the claim that owns each coordinate, BASE for the base; int64 [n].

    Args:
        last: as in `Claims.bids`.
    """
    return Claims(base, claims).bids(z, last).argmax(-1) - 1  # if all are −∞, the first: the base


def shadowed(claim: Claim, earlier: Sequence[Claim], base: Cell) -> Tensor:
    """Who owns a claim's anchors, each treated as a new prompt; int64 [n].

    An index into `earlier`, its length for the claim itself, or BASE for the base.
    """
    return owners(claim.anchors, base, [*earlier, claim], claim.fresh)


def nearest(z: Tensor, claims: Sequence[Claim]) -> Tensor:
    """Index of the claim that answers z [n, dim] when one of these must; int64 [n].

    The one with the highest bid or, if none bids, the highest score.
    """
    bid = torch.stack([claim.bid(z) for claim in claims], dim=-1)
    score = torch.stack([claim.score(z) for claim in claims], dim=-1)
    return torch.where(bid.amax(-1).isfinite(), bid.argmax(-1), score.argmax(-1))


def locked(
    claim: Claim, earlier: Sequence[Claim], max_takeover: float
) -> tuple[Claim, list[tuple[int, ...]]]:
    """A new claim, held back so that it takes over no more than it may of any other (G3).

    A bias limits the takeover. Under a very small `max_takeover` a few odd anchors would make it so
    large that the claim is shut out. So the bias allows at least 2% or a single anchor, and if that
    is more than `max_takeover`, the anchors it still wins become disputed.

    Args:
        claim: the new claim; its own bias and disputed anchors are ignored.
        earlier: claims whose anchors are protected.
        max_takeover: largest share of the anchors of each, in [0, 1].

    Returns:
        The claim, and for each earlier one the indices of its disputed anchors.
    """
    leads = [lead(claim.cell, other) for other in earlier]
    biases = (needed_bias(nats, max(max_takeover, DISPUTABLE, 1 / len(nats))) for nats in leads)
    claim = replace(claim, bias=max(biases, default=0.0), disputed=None)
    disputed = [_beyond(nats > claim.bias, max_takeover) for nats in leads]
    if any(disputed):
        found = [other.anchors[list(which)] for other, which in zip(earlier, disputed, strict=True)]
        claim = replace(claim, disputed=torch.cat(found))
    return claim, disputed


def _beyond(taken: Tensor, max_takeover: float) -> tuple[int, ...]:
    """Indices of the taken anchors if they are more than allowed, else none.

    Args:
        taken: whether each anchor of an earlier claim is taken, bool [n].
    """
    allowed = taken.sum() <= max_takeover * len(taken) + 1e-9
    return () if allowed else tuple(taken.nonzero()[:, 0].tolist())


def needed_bias(leads: Tensor, share: float) -> float:
    """The smallest bias ≥ 0 that no more than a share of the leads exceeds.

    Args:
        leads: of the new claim over an earlier one at the latter's anchors, nats [n].
        share: largest share of these anchors that it may take over, in [0, 1].
    """
    allowed = math.floor(share * len(leads) + 1e-9)
    if allowed >= len(leads):
        return 0.0
    return max(0.0, float(leads.sort(descending=True).values[allowed]) + ROUNDING)


def needed_margin(cell: Cell, anchors: Tensor, scores: Tensor, max_takeover: float) -> float:
    """The smallest margin ≥ 0 that keeps a new claim's takeover of the base within its limit.

    Args:
        cell: of the new claim.
        anchors: coordinates of general prompts, float [n, dim].
        scores: their log-densities by base cells that were fitted without them, float64 [n].
        max_takeover: largest share of these anchors that it may win, in [0, 1].
    """
    return needed_bias(cell.log_density(anchors) - scores, max_takeover)


def lead(cell: Cell, earlier: Claim) -> Tensor:
    """By how much an unbiased cell outbids an earlier claim at that claim's anchors, nats [n]."""
    return cell.log_density_inside(earlier.anchors) - earlier.own_scores


def won(later: Claim, earlier: Claim) -> Tensor:
    """Whether a later claim outbids an earlier one, at each anchor of the earlier; bool [n]."""
    return (lead(later.cell, earlier) > later.bias) & ~later.ceded(earlier.anchors)


def upper_bound(hits: int, trials: int) -> float:
    """The exact one-sided binomial bound on a rate (Clopper and Pearson, 1934), by bisection."""
    if hits >= trials:
        return 1.0
    low, high = hits / trials, 1.0
    tail = _tail(hits, trials)
    for _ in range(50):
        rate = (low + high) / 2
        low, high = (rate, high) if tail(rate) > 1 - CONFIDENCE else (low, rate)
    return high


def _tail(hits: int, trials: int) -> Callable[[float], float]:
    """The probability of at most so many hits, as a function of the rate in (0, 1)."""
    counts = range(hits + 1)
    try:
        ways = [float(math.comb(trials, i)) for i in counts]
    except OverflowError:
        logs = [_log_factorials(trials) - _log_factorials(i, trials - i) for i in counts]
        return lambda rate: sum(
            math.exp(logs[i] + i * math.log(rate) + (trials - i) * math.log1p(-rate))
            for i in counts
        )
    # Not in logs, which round differently: manifests record these bounds to the last bit.
    return lambda rate: sum(ways[i] * rate**i * (1 - rate) ** (trials - i) for i in counts)


def _log_factorials(*numbers: int) -> float:
    return sum(math.lgamma(number + 1) for number in numbers)
