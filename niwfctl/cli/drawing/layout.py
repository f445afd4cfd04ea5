"""From the plane of a map to paper: where everything goes, and its labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from niwfctl.atlas import BASE_NAME
from niwfctl.cli.drawing.labels import Box, place

if TYPE_CHECKING:
    from niwfctl.atlas import Takeover
    from niwfctl.field.projection import Ellipse
    from niwfctl.repository.map import Map, Point

OUTLINE = 240  # points of an ellipse


@dataclass(frozen=True)
class Frame:
    """Equal scales in both directions, y downwards.

    Attributes:
        left, top: what of the plane comes to the paper's corner.
        scale: the paper's units in one of the plane's.
        width, height: of the paper.
    """

    left: float
    top: float
    scale: float
    width: float
    height: float

    @classmethod
    def around(cls, chart: Map, width: float, heights: tuple[float, float], margin: float) -> Frame:
        """Paper of a width, and of a height between two, with all of a map in its middle."""
        xs, ys = zip(*_extent(chart), strict=True)
        across, down = (max(max(one) - min(one), 1e-9) for one in (xs, ys))
        scale = (width - 2 * margin) / across
        height = min(max(down * scale + 2 * margin, heights[0]), heights[1])
        scale = min(scale, (height - 2 * margin) / down)
        left = (max(xs) + min(xs)) / 2 - width / scale / 2
        top = (max(ys) + min(ys)) / 2 + height / scale / 2
        return cls(left, top, scale, width, height)

    def __call__(self, x: float, y: float) -> tuple[float, float]:
        """Where a point of the plane is on paper."""
        return (x - self.left) * self.scale, (self.top - y) * self.scale

    def outline(self, ellipse: Ellipse) -> list[tuple[float, float]]:
        """Points of an ellipse, on paper."""
        return [self(*point) for point in ellipse.outline(OUTLINE)]


@dataclass(frozen=True)
class Lettering:
    """How large marks and letters are on paper.

    Attributes:
        letter, line: width and height of a letter.
        mark: width and height of what is labelled.
        gap: between the two, across and down.
        grid: edges of marks and labels are multiples of these.
    """

    letter: float
    line: float
    mark: tuple[float, float]
    gap: tuple[float, float]
    grid: tuple[float, float] = (1, 1)


@dataclass(frozen=True)
class Label:
    """A word beside its mark.

    Attributes:
        text: the word.
        box: where it is.
        mark: middle of what it belongs to.
        side: of the mark, on which it lies: −1 left, 1 right, 0 above or below.
    """

    text: str
    box: Box
    mark: tuple[float, float]
    side: int

    @property
    def written(self) -> tuple[float, float, str]:
        """x and y of the word, and whether x is its `start`, `middle` or `end`."""
        y = self.box.top + self.box.height / 2
        return {
            -1: (self.box.right, y, "end"),
            0: (self.box.left + self.box.width / 2, y, "middle"),
            1: (self.box.left, y, "start"),
        }[self.side]

    @property
    def line(self) -> tuple[float, float]:
        """Where a line from the mark to the word ends."""
        return self.box.nearest(*self.mark)

    @property
    def far(self) -> bool:
        """Whether it lies so far off that it needs such a line."""
        return math.dist(self.mark, self.line) > 1.5 * self.box.height


def labels(chart: Map, frame: Frame, lettering: Lettering) -> list[Label]:
    """Names of the base and the regions, numbers of the prompts; those there is room for."""
    spots = [
        (BASE_NAME, chart.base),
        *((area.label, area.ellipse) for area in chart.areas),
        *((str(number), point) for number, (_, point) in enumerate(chart.prompts, 1)),
    ]
    at = [frame(spot.x, spot.y) for _, spot in spots]
    marks = [_mark(x, y, lettering) for x, y in at]
    sizes = [(lettering.letter * (len(text) + 1), lettering.line) for text, _ in spots]
    paper = Box(0, 0, frame.width, frame.height)
    boxes = place(marks, sizes, paper, lettering.gap, lettering.grid)
    found = zip(spots, at, marks, boxes, strict=True)
    return [
        Label(text, box, middle, (box.left >= mark.right) - (box.right <= mark.left))
        for (text, _), middle, mark, box in found
        if box
    ]


def by_owner(points: Iterable[Point]) -> dict[int | None, list[Point]]:
    """Points of the same owner together."""
    found: dict[int | None, list[Point]] = {}
    for point in points:
        found.setdefault(point.owner, []).append(point)
    return found


def _mark(x: float, y: float, lettering: Lettering) -> Box:
    (width, height), (across, down) = lettering.mark, lettering.grid
    left = math.floor((x - width / 2) / across + 0.5) * across
    top = math.floor((y - height / 2) / down + 0.5) * down
    return Box(left, top, width, height)


def _extent(chart: Map) -> Iterator[tuple[float, float]]:
    for ellipse in (chart.base, *(area.ellipse for area in chart.areas)):
        yield from ellipse.outline(OUTLINE)
    given = (point for _, point in chart.prompts)
    for points in (*(area.anchors for area in chart.areas), given, *chart.data.values()):
        yield from ((point.x, point.y) for point in points)


def thickness(takeover: Takeover) -> float:
    """Thickness of a takeover's line: 1, and 1 more for each hundredth of the anchors."""
    return min(1 + 100 * takeover.won / takeover.anchors, 10.0)
