"""How regions are told apart: by colour and, for the colour-blind, by shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from niwfctl.field.projection import Ellipse
    from niwfctl.repository.map import Map

# Okabe and Ito (2008), without black and yellow, which vanish on a dark and on a light ground.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")


Corners = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Shape:
    """A marker.

    Attributes:
        glyph: on a terminal.
        plot: matplotlib's name for it.
        corners: on a circle of radius 1, y downwards; none for the circle itself.
    """

    glyph: str
    plot: str
    corners: Corners = ()

    def path(self, radius: float) -> str:
        """SVG path commands that draw it around the current point."""
        if not self.corners:
            r, d = f"{radius:g}", f"{2 * radius:g}"
            return f"m-{r},0a{r},{r} 0 1 0 {d},0a{r},{r} 0 1 0 -{d},0z"
        points = [(radius * x, radius * y) for x, y in self.corners]
        before = [(0.0, 0.0), *points]
        steps = (f"{x - a:.2f},{y - b:.2f}" for (a, b), (x, y) in zip(before, points, strict=False))
        return f"m{'l'.join(steps)}z"


def _polygon(count: int, turn: float, inner: float | None = None) -> Corners:
    """Corners of a regular polygon, or of a star of so many points; turned in degrees."""
    radii = [1.0] if inner is None else [1.0, inner]
    total = count * len(radii)
    angles = [math.radians(turn - 90 + 360 * index / total) for index in range(total)]
    return tuple(
        (radii[index % len(radii)] * math.cos(angle), radii[index % len(radii)] * math.sin(angle))
        for index, angle in enumerate(angles)
    )


def _cross(arm: float = 0.35) -> Corners:
    """Corners of a plus sign."""
    quarter = [(arm, -arm), (arm, -1), (-arm, -1)]
    turned = [quarter]
    for _ in range(3):  # each a quarter turn on, against the clock
        turned.append([(y, -x) for x, y in turned[-1]])
    return tuple(corner for part in turned for corner in part)


SHAPES = (  # seven of them and six colours: 42 capabilities look different
    Shape("●", "o"),
    Shape("■", "s", _polygon(4, 45)),
    Shape("▲", "^", _polygon(3, 0)),
    Shape("◆", "D", _polygon(4, 0)),
    Shape("▼", "v", _polygon(3, 180)),
    Shape("★", "*", _polygon(5, 0, 0.45)),
    Shape("⬢", "h", _polygon(6, 0)),
)


@dataclass(frozen=True)
class Look:
    """What a capability looks like, all its regions alike."""

    colour: str
    shape: Shape


BASE_LOOK = Look("#808080", Shape("✚", "P", _cross()))


@dataclass(frozen=True)
class Sight:
    """A cell as it is drawn: an ellipse, and a marker in its middle.

    Attributes:
        index: of the region; None for the base.
        ellipse: where the cell lies.
        look: of its capability.
        routed: whether prompts are routed to it; else it is drawn dashed and hollow.
    """

    index: int | None
    ellipse: Ellipse
    look: Look
    routed: bool = True


def looks(chart: Map) -> list[Look]:
    """The look of each area; a later commit leaves those of earlier ones as they are."""
    names = list(dict.fromkeys(area.name for area in chart.areas))
    places = [names.index(area.name) for area in chart.areas]
    return [Look(COLOURS[at % len(COLOURS)], SHAPES[at % len(SHAPES)]) for at in places]


def look_of(looks: Sequence[Look], owner: int | None) -> Look:
    """The look of an owner; None is the base."""
    return BASE_LOOK if owner is None else looks[owner]


def sights(chart: Map) -> list[Sight]:
    """All cells in drawing order: the base, then the largest first, so that none is hidden."""
    drawn = [
        Sight(index, area.ellipse, look, area.routed)
        for index, (area, look) in enumerate(zip(chart.areas, looks(chart), strict=True))
    ]
    drawn.sort(key=lambda one: -one.ellipse.major * one.ellipse.minor)
    return [Sight(None, chart.base, BASE_LOOK), *drawn]
