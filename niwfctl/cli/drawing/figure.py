"""The map as a picture file."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from niwfctl.cli.drawing.captions import owner, shortened
from niwfctl.cli.drawing.layout import Frame, Lettering, by_owner, labels, thickness
from niwfctl.cli.drawing.look import look_of, looks, sights

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from niwfctl.field.projection import Ellipse
    from niwfctl.repository.map import Map, Point

INCH = 72.0  # in points, the unit of all sizes here
WIDTH, HEIGHTS, MARGIN = 10 * INCH, (4 * INCH, 7 * INCH), 24.0
LETTERING = Lettering(letter=7.0, line=14.0, mark=(12.0, 12.0), gap=(2.0, 0.0))
LINE, LISTED, LONGEST = 14.0, 20, 110  # of prompts below: height, how many, characters
_SIDES = {"start": "left", "middle": "center", "end": "right"}


def figure(chart: Map, form: str) -> bytes:
    """The picture, as `png` or `svg`; equal maps give equal bytes."""
    import matplotlib
    from matplotlib.figure import Figure

    frame, lines = Frame.around(chart, WIDTH, HEIGHTS, MARGIN), _lines(chart)
    height = frame.height + LINE * len(lines)
    paper = Figure(figsize=(WIDTH / INCH, height / INCH), dpi=160, facecolor="white")
    axes = paper.add_axes((0, 1 - frame.height / height, 1, frame.height / height))
    axes.set(xlim=(0, frame.width), ylim=(frame.height, 0))
    axes.set_axis_off()
    _Drawing(chart, frame, axes)
    for place, line in enumerate(reversed(lines)):
        y = (place + 0.8) * LINE / height
        paper.text(MARGIN / WIDTH, y, line, fontsize=9, va="center", parse_math=False)
    file = io.BytesIO()
    with warnings.catch_warnings(), matplotlib.rc_context({"svg.hashsalt": "map"}):
        warnings.filterwarnings("ignore", "Glyph .* missing")  # in prompts of other scripts
        paper.savefig(file, format=form, metadata={"Date": None} if form == "svg" else None)
    return file.getvalue()


def _lines(chart: Map) -> list[str]:
    lines = [
        f"{number} {owner(chart, point.owner)}: {shortened(text, LONGEST)}"
        for number, (text, point) in enumerate(chart.prompts, 1)
    ]
    more = len(lines) - LISTED
    return [*lines[:LISTED], f"and {more} more"] if more > 0 else lines


class _Drawing:
    """Draws everything, the lowest layer first."""

    def __init__(self, chart: Map, frame: Frame, axes: Axes) -> None:
        self.chart, self.frame, self.axes, self.look = chart, frame, axes, looks(chart)
        self._cells()
        self._takeovers()
        self._crowds()
        self._centres()
        self._labels()

    def _cells(self) -> None:
        for one in sights(self.chart):
            xs, ys = zip(*self.frame.outline(one.ellipse), strict=True)
            style = {"edgecolor": one.look.colour, "linestyle": "-" if one.routed else "--"}
            self.axes.fill(xs, ys, facecolor=one.look.colour, alpha=0.09)
            self.axes.fill(xs, ys, fill=False, linewidth=1.2, **style)

    def _takeovers(self) -> None:
        for later, earlier, one in self.chart.takeovers:
            ends = (self.chart.areas[index].ellipse for index in (later, earlier))
            xs, ys = zip(*(self.frame(end.x, end.y) for end in ends), strict=True)
            self.axes.plot(xs, ys, color="black", alpha=0.5, linewidth=0.7 * thickness(one))

    def _crowds(self) -> None:
        for index, (area, look) in enumerate(zip(self.chart.areas, self.look, strict=True)):
            for at, points in by_owner(area.anchors).items():
                inside = look.colour if at == index else "white"
                self._mark(points, look.shape.plot, 7, 0.6, inside, look.colour, alpha=0.7)
        for points in self.chart.data.values():
            for at, own in by_owner(points).items():
                self._mark(own, "x", 10, 0.9, look_of(self.look, at).colour)

    def _centres(self) -> None:
        for one in sights(self.chart):
            inside = one.look.colour if one.routed else "white"
            self._mark([one.ellipse], one.look.shape.plot, 80, 1.2, inside, "black", zorder=3)
        self._mark([point for _, point in self.chart.prompts], "x", 50, 2.0, "black", zorder=4)

    def _labels(self) -> None:
        from matplotlib.patheffects import withStroke

        style = {
            "weight": "bold",
            "fontsize": 10,
            "va": "center_baseline",
            "parse_math": False,
            "path_effects": [withStroke(linewidth=3, foreground="white")],
            "zorder": 5,
        }
        for label in labels(self.chart, self.frame, LETTERING):
            if label.far:
                xs, ys = zip(label.mark, label.line, strict=True)
                self.axes.plot(xs, ys, color="0.4", linewidth=0.7)
            x, y, anchor = label.written
            self.axes.text(x, y, label.text, ha=_SIDES[anchor], **style)

    def _mark(
        self,
        spots: Sequence[Point | Ellipse],
        marker: str,
        size: float,
        line: float,
        inside: str,
        edge: str | None = None,
        **style: float,
    ) -> None:
        at = [self.frame(spot.x, spot.y) for spot in spots]
        xs, ys = [x for x, _ in at], [y for _, y in at]
        colours = {"facecolor": inside, "edgecolor": edge or inside}
        if marker == "x":  # it has no inside
            colours = {"color": inside}
        self.axes.scatter(xs, ys, size, marker=marker, linewidth=line, **colours, **style)
