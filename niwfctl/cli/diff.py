"""diff: between revisions, or between capabilities."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from niwfctl.cli.main import app
from niwfctl.cli.make import AsJson
from niwfctl.cli.output import emit_json, number, out, require_file
from niwfctl.cli.schema import capability_json
from niwfctl.errors import UsageError

if TYPE_CHECKING:
    from niwfctl.field.distances import Neighbourhood
    from niwfctl.repository.diff import Changed, Compared

_SIGNS = {"added": "+", "removed": "-", "changed": "~", "extended": "^"}
_SHADES = ("grey11", "grey23", "grey35", "yellow4", "dark_orange", "red1")


@app.command()
def diff(
    ctx: typer.Context,
    a: Annotated[
        str | None, typer.Argument(help="A revision, NAME or NAME@REV; HEAD's parent by default.")
    ] = None,
    b: Annotated[str, typer.Argument(help="The other; HEAD by default.")] = "HEAD",
    stat: Annotated[bool, typer.Option("--stat", help="Only the summary.")] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Heat map as .png or .svg.")
    ] = None,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 1 if there are differences.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what differs between two revisions, or between two capabilities."""
    from niwfctl.repository import Repository
    from niwfctl.repository.diff import capabilities, revisions

    repository = Repository.open(ctx.obj)
    named = [target for target in (a, b) if target and repository.names_capability(target)]
    if len(named) == 2:
        compared = capabilities(repository, *map(repository.capability, named))
        if plot:
            _plot(compared, ctx.obj / plot)
        if as_json:
            emit_json(_compared_json(compared))
        else:
            _show_compared(compared, stat)
        different = compared.a.objects != compared.b.objects
    elif named:
        raise UsageError(
            f"{named[0]!r} is a capability and the other is not: compare two of a kind"
        )
    elif plot:
        raise UsageError("--plot draws the weights of two capabilities: name them")
    else:
        changes = revisions(repository.atlas(a or "HEAD~1"), repository.atlas(b))
        if as_json:
            emit_json([_changed_json(change) for change in changes])
        else:
            _show_changes(changes)
        different = bool(changes)
    raise typer.Exit(1 if exit_code and different else 0)


def _show_changes(changes: list[Changed]) -> None:
    for change in changes:
        before, after = (
            number(one.perplexity if one else None) for one in (change.before, change.after)
        )
        sign = _SIGNS[change.kind]
        out.print(f"{sign} {change.name:<20} {change.kind:<9} perplexity {before} → {after}")
    if not changes:
        out.print("no capability differs")


def _changed_json(change: Changed) -> dict[str, object]:
    sides = {"before": change.before, "after": change.after}
    described = {side: one and capability_json(one) for side, one in sides.items()}
    return {"kind": change.kind, "name": change.name, **described}


def _show_compared(compared: Compared, stat: bool) -> None:
    a, b, place = compared.a.name, compared.b.name, compared.place
    out.print(f"{a} against {b}", style="bold", markup=False)
    lines = _place_lines(a, b, place) if place else {}
    lines["bases"] = (
        f"{len(compared.shared)} shared, {len(compared.own_a)} only {a}, "
        f"{len(compared.own_b)} only {b}"
    )
    for label, text in lines.items():
        out.print(f"  {label:<9} {text}", markup=False)
    norm = sum(site.norm_a**2 for site in compared.sites) ** 0.5
    other = sum(site.norm_b**2 for site in compared.sites) ** 0.5
    apart = sum(site.distance**2 for site in compared.sites) ** 0.5
    out.print(f"  weights   ‖ΔW‖ {norm:.4g} and {other:.4g}, apart {apart:.4g}")
    if not stat:
        _heat_map(compared)


def _place_lines(a: str, b: str, place: Neighbourhood) -> dict[str, str]:
    return {
        "distance": f"{place.bhattacharyya:.3g} (Bhattacharyya)",
        "overlap": f"{place.a_in_b:.1%} of {a} lies in the cell of {b}, {place.b_in_a:.1%} of {b} "
        f"in that of {a}",
        "takeover": f"{b} is denser at {place.a_taken:.1%} of {a}, {a} at {place.b_taken:.1%} of "
        f"{b}",
    }


def _heat_map(compared: Compared) -> None:
    """Relative distance by layer (down) and module (across): dark is alike, red is unlike."""
    layers, modules, values = _grid(compared)
    highest = max(max(row) for row in values) or 1.0
    out.print("\n  ‖ΔW_a − ΔW_b‖ over √(‖ΔW_a‖² + ‖ΔW_b‖²), by layer and module")
    out.print("        " + " ".join(f"{module.split('.')[-1][:9]:>9}" for module in modules))
    for layer, row in zip(layers, values, strict=True):
        line = Text(f"  {layer:>4}  ")
        for value in row:
            shade = _SHADES[min(int(value / highest * len(_SHADES)), len(_SHADES) - 1)]
            line.append(f"{value:9.3f}", style=f"white on {shade}").append(" ")
        out.print(line)


def _grid(compared: Compared) -> tuple[list[int], list[str], list[list[float]]]:
    cells = {}
    for site in compared.sites:
        _, layer, module = site.site.split(".", 2)
        cells[int(layer), module] = site.relative
    layers = sorted({layer for layer, _ in cells})
    modules = list(dict.fromkeys(module for _, module in cells))
    values = [[cells.get((layer, module), 0.0) for module in modules] for layer in layers]
    return layers, modules, values


def _compared_json(compared: Compared) -> dict[str, object]:
    return {
        "a": compared.a.name,
        "b": compared.b.name,
        "bases": {
            "shared": list(compared.shared),
            "only_a": list(compared.own_a),
            "only_b": list(compared.own_b),
        },
        "place": asdict(compared.place) if compared.place else None,
        "sites": [asdict(site) | {"relative": site.relative} for site in compared.sites],
    }


def _plot(compared: Compared, file: Path) -> None:
    require_file(file)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    layers, modules, values = _grid(compared)
    figure, axes = pyplot.subplots(figsize=(7, 0.25 * len(layers) + 2), layout="constrained")
    image = axes.imshow(values, aspect="auto", cmap="magma")
    axes.set_xticks(range(len(modules)), [m.split(".")[-1] for m in modules], rotation=30)
    axes.set_yticks(range(len(layers)), layers)
    axes.set_ylabel("layer")
    axes.set_title(f"relative distance of ΔW: {compared.a.name} against {compared.b.name}")
    figure.colorbar(image)
    figure.savefig(file)
