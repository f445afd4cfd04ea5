"""Which weights compose best: retention of each part, measured on validation data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from niwfctl.errors import UsageError
from niwfctl.repository.mixture import of_capability, weighted
from niwfctl.repository.same_field import usable
from niwfctl.training.data import spread

if TYPE_CHECKING:
    from niwfctl.records import Example
    from niwfctl.repository.repository import Repository

COMMON = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # equal weights of all parts, tried first
STEPS = (0.1, 0.05)  # by which single weights are then moved while that helps
ROWS = 48  # of each part's data


@dataclass(frozen=True)
class Point:
    """The result of one choice of weights.

    Attributes:
        weights: one per part.
        perplexities: of each part's data in the composition.
        retentions: perplexity of the part alone over that in the composition.
    """

    weights: tuple[float, ...]
    perplexities: tuple[float, ...]
    retentions: tuple[float, ...]

    @property
    def worst(self) -> float:
        """The lowest retention of a part."""
        return min(self.retentions)


def sweep(
    repository: Repository,
    sources: Sequence[str],
    data: Mapping[str, Sequence[Example]],
    report: Callable[[Point], None] = lambda point: None,
) -> list[Point]:
    """Searches the weights of a linear composition that maximize the worst retention.

    Args:
        sources: the parts, `NAME` or `NAME@REV`.
        data: validation examples of each part, of which ROWS are used.
        report: called with every point as it is measured.

    Returns:
        All points measured, the best first.

    Raises:
        UsageError: a part has no data.
    """
    for source in sources:
        if source not in data:
            raise UsageError(f"--sweep needs data for {source!r}: give `--data {source}=FILE`")
    parts = [usable(repository, source) for source in sources]  # before the long loading
    model = repository.load(None)
    mixtures = [of_capability(repository, part) for part in parts]
    rows = [spread(data[source], ROWS) for source in sources]

    def measure(weights: Sequence[float]) -> list[float]:
        acting = model.resident.acting(weighted(list(zip(weights, mixtures, strict=True))))
        model.adapter.active = acting
        return [model.score(examples).perplexity for examples in rows]

    alone = []
    for mixture, examples in zip(mixtures, rows, strict=True):
        model.adapter.active = model.resident.acting(mixture)
        alone.append(model.score(examples).perplexity)
    known: dict[tuple[float, ...], Point] = {}

    def at(weights: tuple[float, ...]) -> Point:
        if weights not in known:
            found = tuple(measure(weights))
            kept = tuple(own / there for own, there in zip(alone, found, strict=True))
            known[weights] = Point(weights, found, kept)
            report(known[weights])
        return known[weights]

    best = max((at((common,) * len(sources)) for common in COMMON), key=_quality)
    for step in STEPS:
        while True:
            better = max((at(near) for near in _around(best.weights, step)), key=_quality)
            if _quality(better) <= _quality(best):
                break
            best = better
    return sorted(known.values(), key=_quality, reverse=True)


def _quality(point: Point) -> tuple[float, float]:
    return point.worst, sum(point.retentions)


def _around(weights: tuple[float, ...], step: float) -> Iterator[tuple[float, ...]]:
    for index, weight in enumerate(weights):
        for moved in (round(weight - step, 4), round(weight + step, 4)):
            if 0 < moved <= 1.5:
                yield (*weights[:index], moved, *weights[index + 1 :])
