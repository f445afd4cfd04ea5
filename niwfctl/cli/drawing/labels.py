"""Where labels go, so that none covers another or a mark."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_SIDES = ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (-1, -1), (1, 1), (-1, 1))  # the best first
_RINGS = 8


@dataclass(frozen=True)
class Box:
    """A rectangle on paper, y downwards."""

    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """Its right edge."""
        return self.left + self.width

    @property
    def bottom(self) -> float:
        """Its lower edge."""
        return self.top + self.height

    def meets(self, other: Box) -> bool:
        """Whether the two share more than an edge."""
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom

    def holds(self, other: Box) -> bool:
        """Whether the other lies in this one."""
        across = self.left <= other.left and other.right <= self.right
        return across and self.top <= other.top and other.bottom <= self.bottom

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        """Its point that is nearest to another one."""
        return min(max(x, self.left), self.right), min(max(y, self.top), self.bottom)


def place(
    marks: Sequence[Box],
    sizes: Sequence[tuple[float, float]],
    paper: Box,
    gap: tuple[float, float],
    grid: tuple[float, float] = (1, 1),
) -> list[Box | None]:
    """A place beside each mark for its label.

    Args:
        marks: what is labelled; no label covers any of them.
        sizes: width and height of each mark's label.
        paper: labels stay on it.
        gap: between a mark and its label, across and down.
        grid: left and upper edges of labels are multiples of these.

    Returns:
        In the order of the marks, the first free place of those around it, the nearest first; None
        where all are taken.
    """
    taken, found = list(marks), []
    for mark, size in zip(marks, sizes, strict=True):
        free = (
            box
            for box in _around(mark, size, gap, grid)
            if paper.holds(box) and not any(box.meets(other) for other in taken)
        )
        box = next(free, None)
        found.append(box)
        taken += [box] if box else []
    return found


def _around(
    mark: Box, size: tuple[float, float], gap: tuple[float, float], grid: tuple[float, float]
) -> Iterator[Box]:
    width, height = size
    for ring in range(_RINGS):
        across, down = (one + ring * height for one in gap)
        lefts = (
            mark.left + (mark.width - width) / 2,
            mark.right + across,
            mark.left - across - width,
        )
        tops = (
            mark.top + (mark.height - height) / 2,
            mark.bottom + down,
            mark.top - down - height,
        )
        for side, level in _SIDES:  # an index of −1 is the last
            left = math.floor(lefts[side] / grid[0]) * grid[0]
            yield Box(left, math.floor(tops[level] / grid[1]) * grid[1], width, height)
