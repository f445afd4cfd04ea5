"""The map on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.text import Text

from niwfctl.cli.drawing.canvas import DOTS, Canvas
from niwfctl.cli.drawing.captions import composition, facts, owner, shortened, tally
from niwfctl.cli.drawing.layout import Frame, Lettering, labels
from niwfctl.cli.drawing.look import Look, look_of, looks, sights

if TYPE_CHECKING:
    from niwfctl.repository.map import Map

ROWS = (8, 26)
ANCHORS = 640  # of all regions together; more would hide their outlines
DASHED = 6  # such an outline has one point in this many
LETTERING = Lettering(letter=DOTS[0], line=DOTS[1], mark=DOTS, gap=(DOTS[0], 0), grid=DOTS)
LONGEST = 60  # characters of a prompt that are shown


def draw(chart: Map, columns: int) -> Iterator[Text]:
    """The picture, this many columns wide; then regions and prompts in words."""
    yield from _picture(chart, columns).lines()
    look = looks(chart)
    for index, area in enumerate(chart.areas):
        found = facts(chart, index)
        head = f"{area.label}  {found.pop('region')}  perplexity {found.pop('perplexity')}"
        yield _marked(look[index], head)
        yield Text("    " + "; ".join(f"{heading} {value}" for heading, value in found.items()))
    for capability in chart.composed:
        yield Text(f"  {composition(chart, capability)}")
    for number, (text, point) in enumerate(chart.prompts, 1):
        line = f"{number} {owner(chart, point.owner)}: {shortened(text, LONGEST)}"
        yield _marked(look_of(look, point.owner), line)
    for file, points in chart.data.items():
        yield Text(f"  {shortened(file, len(file))}: {len(points)} prompts, {tally(chart, points)}")


def _marked(look: Look, line: str) -> Text:
    return Text(f"{look.shape.glyph} ", look.colour).append(line, "default")


def _picture(chart: Map, columns: int) -> Canvas:
    heights = tuple(rows * DOTS[1] for rows in ROWS)
    frame = Frame.around(chart, columns * DOTS[0], heights, margin=DOTS[1])
    canvas, look = Canvas(columns, -int(-frame.height // DOTS[1])), looks(chart)
    for one in sights(chart):
        for x, y in frame.outline(one.ellipse)[:: 1 if one.routed else DASHED]:
            canvas.dot(x, y, one.look.colour)
    for area, own in zip(chart.areas, look, strict=True):
        for point in area.anchors[: ANCHORS // len(look)]:
            canvas.dot(*frame(point.x, point.y), own.colour)
    for points in chart.data.values():
        for point in points:
            canvas.dot(*frame(point.x, point.y), f"bold {look_of(look, point.owner).colour}")
    for one in sights(chart):
        at = frame(one.ellipse.x, one.ellipse.y)
        canvas.word(*at, one.look.shape.glyph, one.look.colour)
    for _, point in chart.prompts:
        canvas.word(*frame(point.x, point.y), "×", "bold")
    for label in labels(chart, frame, LETTERING):
        canvas.word(label.box.left, label.box.top, label.text, "bold")
    return canvas
