"""The map as one page that needs nothing else: no library, no font, no request."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from niwfctl.atlas import BASE_NAME
from niwfctl.cli.drawing.captions import composition, facts, legend, owner, says, shortened, tally
from niwfctl.cli.drawing.layout import Frame, Lettering, by_owner, labels, thickness
from niwfctl.cli.drawing.look import look_of, looks, sights

if TYPE_CHECKING:
    from niwfctl.field.projection import Ellipse
    from niwfctl.repository.map import Map, Point

WIDTH, HEIGHTS, MARGIN = 1000.0, (420.0, 700.0), 40.0  # pixels
CENTRE, ANCHOR, PROMPT = 8.0, 2.8, 6.0  # radii of markers
LETTERING = Lettering(letter=10.0, line=20.0, mark=(16.0, 16.0), gap=(4.0, 1.0))
LONGEST = 300  # characters of a prompt that are shown


@dataclass(frozen=True)
class Mark:
    """A mark on the page that says what it stands for.

    Attributes:
        kind: classes for the style sheet.
        path: its outline, as SVG commands.
        colour: of the capability, or of the base.
        says: what it stands for: a heading, then lines.
        id: its name in the page's address; the keyboard reaches those that have one.
        width: of its stroke.
    """

    kind: str
    path: str
    colour: str
    says: str
    id: str = ""
    width: float = 1.5


def page(chart: Map, title: str) -> str:
    """The page as text; all words in it are escaped, and no script runs but its own."""
    here = Path(__file__).parent
    script = (here / "page.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        loader=FileSystemLoader(here),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    frame, look = Frame.around(chart, WIDTH, HEIGHTS, MARGIN), looks(chart)
    return environment.get_template("page.html").render(
        title=title,
        chart=chart,
        legend=legend(chart),
        frame=frame,
        marks=[
            *_cells(chart, frame),
            *_takeovers(chart, frame),
            *_crowds(chart, frame),
            *_centres(chart, frame),
            *_prompts(chart, frame),
        ],
        labels=labels(chart, frame, LETTERING),
        rows=[(look[i], one.label, facts(chart, i)) for i, one in enumerate(chart.areas)],
        composed=[composition(chart, capability) for capability in chart.composed],
        prompts=[
            (look_of(look, point.owner), owner(chart, point.owner), shortened(text, LONGEST))
            for text, point in chart.prompts
        ],
        files=[
            (shortened(file, LONGEST), len(points), tally(chart, points))
            for file, points in chart.data.items()
        ],
        script=script,
        digest=digest,
    )


def _cells(chart: Map, frame: Frame) -> Iterator[Mark]:
    for one in sights(chart):
        name = BASE_NAME
        if one.index is not None:
            area = chart.areas[one.index]
            name = f"{area.name}.{area.entry.id}"
        path = "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in frame.outline(one.ellipse)) + "z"
        kind = "cell" if one.routed else "cell aside"
        yield Mark(kind, path, one.look.colour, says(chart, one.index), name)


def _takeovers(chart: Map, frame: Frame) -> Iterator[Mark]:
    for later, earlier, one in chart.takeovers:
        a, b = (chart.areas[index] for index in (later, earlier))
        path = f"M{_at(frame, a.ellipse)}L{_at(frame, b.ellipse)}"
        text = f"{a.label} → {b.label}\ntakes over {one.won} of {one.anchors} anchors"
        yield Mark("takeover", path, "currentColor", text, width=thickness(one))


def _crowds(chart: Map, frame: Frame) -> Iterator[Mark]:
    """Anchors, and prompts of files: those of the same group and owner share a mark."""
    look = looks(chart)
    for index, area in enumerate(chart.areas):
        shape = look[index].shape.path(ANCHOR)
        for at, points in by_owner(area.anchors).items():
            kind = "anchors" if at == index else "anchors lost"
            count = f"{len(points)} of {len(area.anchors)} anchors"
            text = f"{area.label}\n{count}\nanswered by: {owner(chart, at)}"
            yield Mark(kind, _path(points, frame, shape), look[index].colour, text)
    for file, placed in chart.data.items():
        for at, points in by_owner(placed).items():
            count = f"{len(points)} of {len(placed)} prompts"
            text = f"{shortened(file, LONGEST)}\n{count}\nanswered by: {owner(chart, at)}"
            path = _path(points, frame, _cross(ANCHOR + 1))
            yield Mark("scatter", path, look_of(look, at).colour, text)


def _centres(chart: Map, frame: Frame) -> Iterator[Mark]:
    for one in sights(chart):
        kind = "centre" if one.routed else "centre aside"
        path = f"M{_at(frame, one.ellipse)}{one.look.shape.path(CENTRE)}"
        yield Mark(kind, path, one.look.colour, says(chart, one.index))


def _prompts(chart: Map, frame: Frame) -> Iterator[Mark]:
    for number, (text, point) in enumerate(chart.prompts, 1):
        answers = f"answered by: {owner(chart, point.owner)}"
        said = f"prompt {number}\n{shortened(text, LONGEST)}\n{answers}"
        path = _path([point], frame, _cross(PROMPT))
        yield Mark("prompt", path, "currentColor", said, f"prompt-{number}", 3.0)


def _cross(arm: float) -> str:
    return f"m-{arm},-{arm}l{2 * arm},{2 * arm}m0,-{2 * arm}l-{2 * arm},{2 * arm}"


def _path(points: Iterable[Point], frame: Frame, shape: str) -> str:
    return "".join(f"M{_at(frame, point)}{shape}" for point in points)


def _at(frame: Frame, spot: Point | Ellipse) -> str:
    x, y = frame(spot.x, spot.y)
    return f"{x:.1f},{y:.1f}"
