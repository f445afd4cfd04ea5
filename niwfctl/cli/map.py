"""map: a picture of the capability space."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from niwfctl.cli.options import AsJson, in_utf8, inside
from niwfctl.cli.output import emit_json, err, out, require_file
from niwfctl.errors import UsageError

if TYPE_CHECKING:
    from niwfctl.repository.map import Area, Map, Point

COLUMNS = (20, 100)  # of the picture on a terminal
app = typer.Typer()


@app.command("map")
def draw_map(
    ctx: typer.Context,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A page that shows details under the pointer."),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option("--png", "--svg", metavar="FILE", help="As .png or .svg.")
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="Show where it falls; repeatable.")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="Show where a file's prompts fall; repeatable.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw the capability space: regions, anchors, the base, and where prompts fall."""
    from niwfctl.repository import Repository
    from niwfctl.training.data import read_examples

    if html and picture:
        raise UsageError("--html and --png exclude each other: give one of them")
    if html:
        require_file(ctx.obj / html, "--html", (".html", ".htm"))
    if picture:
        option = "--svg" if picture.suffix.lower() == ".svg" else "--png"
        require_file(ctx.obj / picture, option)
    for text in prompt or ():
        _require_text(text)
    repository = Repository.open(ctx.obj)
    files = {source: read_examples([inside(ctx.obj, source)]) for source in data or []}
    with err.status("loading the backbone" if prompt or files else "reading regions") as status:
        drawn = repository.map(
            prompt or (),
            files,
            lambda done, total: status.update(f"reading: prompt {done} of {total}"),
        )
    if html or picture:
        _write(drawn, ctx.obj / (html or picture), repository.path.name)
    if as_json:
        emit_json(_map_json(drawn))
    elif html or picture:
        regions, prompts = len(drawn.areas), len(drawn.prompts) + sum(map(len, drawn.data.values()))
        out.print(f"{html or picture}: regions {regions}, prompts {prompts}", markup=False)
    else:
        _show(drawn)


def _require_text(prompt: str) -> None:
    with in_utf8("a --prompt"):
        prompt.encode()
    if not prompt.strip():
        raise UsageError("a --prompt is empty: give text")


def _write(drawn: Map, file: Path, title: str) -> None:
    from niwfstore import output_file

    if file.suffix.lower() in (".png", ".svg"):
        from niwfctl.cli.drawing.figure import figure

        content = figure(drawn, file.suffix.lower()[1:])
    else:
        from niwfctl.cli.drawing.page import page

        content = page(drawn, title).encode()
    with output_file(file) as output:
        output.write(content)


def _show(drawn: Map) -> None:
    from niwfctl.cli.drawing.terminal import draw

    narrowest, widest = COLUMNS
    for line in draw(drawn, max(narrowest, min(out.width, widest))):
        out.print(line)
    if not drawn.areas:
        out.print("Committed: nothing yet; the base answers everything")


def _map_json(drawn: Map) -> dict[str, object]:
    return {
        "commit": drawn.commit,
        "shown": drawn.shown,
        "base": asdict(drawn.base),
        "regions": [_area_json(drawn, index) for index in range(len(drawn.areas))],
        "composed": [capability.name for capability in drawn.composed],
        "prompts": [
            {"prompt": text, "at": _point_json(drawn, point)} for text, point in drawn.prompts
        ],
        "data": [
            {"data": source, "prompts": [_point_json(drawn, point) for point in points]}
            for source, points in drawn.data.items()
        ],
    }


def _area_json(drawn: Map, index: int) -> dict[str, object]:
    area: Area = drawn.areas[index]
    owners = Counter(_owner(drawn, point)["region"] or "base" for point in area.anchors)
    return {
        "capability": area.name,
        "region": area.entry.id,
        "routed": area.routed,
        "ellipse": asdict(area.ellipse),
        "owners": {owner: count / len(area.anchors) for owner, count in owners.most_common()},
        "takeover": [
            one.model_dump(mode="json") for later, _, one in drawn.takeovers if later == index
        ],
        "anchors": [_point_json(drawn, point) for point in area.anchors],
    }


def _point_json(drawn: Map, point: Point) -> dict[str, object]:
    return {"x": point.x, "y": point.y, **_owner(drawn, point)}


def _owner(drawn: Map, point: Point) -> dict[str, str | None]:
    if point.owner is None:
        return {"capability": None, "region": None}
    area = drawn.areas[point.owner]
    return {"capability": area.name, "region": area.entry.id}
