"""diff: between revisions, or between capabilities."""

from __future__ import annotations

import math
import statistics
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from niwfctl.atlas import parse_range
from niwfctl.cli.options import AsJson
from niwfctl.cli.output import SIGNS, emit_json, err, number, out, require_file, save_plot
from niwfctl.cli.schema import capability_json
from niwfctl.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from niwfctl.atlas import RegionEntry
    from niwfctl.field.distances import SiteDifference
    from niwfctl.repository import Repository
    from niwfctl.repository.diff import Changed, ChangedRegion, Compared

_SHADES = ("grey11", "grey23", "grey35", "yellow4", "dark_orange", "red1")
app = typer.Typer()


@app.command()
def diff(
    ctx: typer.Context,
    a: Annotated[
        str | None,
        typer.Argument(help="A revision, A..B, A...B, NAME or NAME@REV; HEAD's parent by default."),
    ] = None,
    b: Annotated[str | None, typer.Argument(help="The other; HEAD by default.")] = None,
    stat: Annotated[bool, typer.Option("--stat", help="Only the summary.")] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Heat map as .png or .svg.")
    ] = None,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 1 if there are differences.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what differs between two revisions, or between two capabilities.

    As in git, A..B is `diff A B`, and A...B shows what B changed since it left A.
    """
    from niwfctl.repository import Repository
    from niwfctl.repository.checkout import commit_called

    repository = Repository.open(ctx.obj)
    targets = [target for target in (a, b) if target is not None]
    named = [target for target in targets if repository.names_capability(target)]
    for target in targets:
        if target not in named and not parse_range(target):
            commit_called(repository, target)
    if len(named) == 2:
        compared = repository.compare(*named)
        if plot:
            _plot(compared, named, ctx.obj / plot)
        if as_json:
            emit_json(_compared_json(compared, named))
        else:
            _show_compared(compared, named, stat)
        different = compared.different
    elif named:
        several = len(repository.capability(named[0]).regions) > 1
        raise UsageError(_unequal(named[0], targets, several))
    elif plot:
        raise UsageError("--plot draws the weights of two capabilities: name them")
    else:
        changes = repository.diff(a, b)
        if not (targets or as_json):
            err.print(_by_default(repository), markup=False)
        if as_json:
            emit_json([_changed_json(change) for change in changes])
        else:
            _show_changes(changes, stat)
        different = bool(changes)
    raise typer.Exit(1 if exit_code and different else 0)


def _by_default(repository: Repository) -> str:
    """What a diff without arguments compares and, other than git's, leaves out."""
    parent, waiting = "nothing", [run.name for run in repository.uncommitted() if run.finished]
    with suppress(UnknownName):  # the first commit has none
        parent = f"HEAD~1 ({repository.git.resolve('HEAD~1')[:7]})"
    words = f"{parent} against HEAD ({repository.git.resolve('HEAD')[:7]})"
    if waiting:
        words += f", without what is not committed yet: {', '.join(waiting)}"
    return words


def _unequal(name: str, targets: list[str], several: bool) -> str:
    """Why a capability cannot be compared: it is alone, or the other is not a capability.

    Args:
        several: whether it has several regions, so that its weights cannot be compared at all.
    """
    from niwfctl.repository.diff import BY_REGION

    if len(targets) == 1:
        if several:
            return f"{name!r} is a capability of several regions: {BY_REGION}"
        return (
            f"{name!r} is a capability: name what to compare it with, as in `niwfctl diff "
            f"{name.partition('@')[0]}@HEAD~1 {name}`"
        )
    other = next(target for target in targets if target != name)
    return f"{name!r} is a capability and {other!r} is not: compare two of the same kind"


def _show_changes(changes: list[Changed], stat: bool) -> None:
    for change in changes:
        before, after = (
            number(one.perplexity if one else None) for one in (change.before, change.after)
        )
        sign = SIGNS[change.kind]
        out.print(f"{sign} {change.name:<20} {change.kind:<9} perplexity {before} → {after}")
        if not stat:
            for region in change.regions:
                out.print(f"    {SIGNS[region.kind]} region {region.entry.id}  {_region(region)}")
    if not changes:
        out.print("no capability differs")


def _region(region: ChangedRegion) -> str:
    run = region.entry.run
    if region.kind != "changed":
        return f"perplexity {number(run.base_perplexity)} (base) → {number(run.perplexity)}"
    before, after = _routing(region.before), _routing(region.after)
    differing = [
        f"{what} {before.get(what, 'none')} → {after.get(what, 'none')}"
        for what in before | after
        if before.get(what) != after.get(what)
    ]
    return f"routing: {', '.join(differing) or 'its counts'}"


def _routing(entry: RegionEntry) -> dict[str, str]:
    """What decides where a region is routed to, by what it is called."""
    found = {}
    if routing := entry.routing:
        found = {
            "bias": f"{routing.bias:.1f}",
            "margin": f"{routing.margin:.1f}",
            "disputed anchors": str(sum(len(one.disputed) for one in routing.takeover)),
        }
    terms = entry.terms.model_dump() if entry.terms else {}
    return found | {what: str(value) for what, value in terms.items()}


def _changed_json(change: Changed) -> dict[str, object]:
    sides = {"before": change.before, "after": change.after}
    described = {side: one and capability_json(one) for side, one in sides.items()}
    regions = [
        {"kind": one.kind, "id": one.entry.id, "perplexity": one.entry.run.perplexity}
        for one in change.regions
    ]
    return {"kind": change.kind, "name": change.name, **described, "regions": regions}


def _show_compared(compared: Compared, names: list[str], stat: bool) -> None:
    a, b = names
    out.print(f"{a} against {b}", style="bold", markup=False)
    lines = _place_lines(a, b, compared) if compared.place else {}
    lines["bases"] = (
        f"{len(compared.shared)} shared, {len(compared.own_a)} only {a}, "
        f"{len(compared.own_b)} only {b}"
    )
    for label, text in (lines | _weight_lines(compared.sites)).items():
        out.print(f"  {label:<9} {text}", markup=False)
    if not stat:
        _heat_map(compared)


def _place_lines(a: str, b: str, compared: Compared) -> dict[str, str]:
    place = compared.place
    routed = all(one.regions[0].routing for one in (compared.a, compared.b))
    wins = "wins" if routed else "would win"  # if one of the two is never routed to
    return {
        "distance": f"{place.bhattacharyya:.3g} (Bhattacharyya)",
        "overlap": f"{place.a_in_b:.1%} of {a} lies in the cell of {b}, {place.b_in_a:.1%} of {b} "
        f"in that of {a}",
        "takeover": f"{b} {wins} {place.a_taken:.1%} of {a}, {a} {wins} {place.b_taken:.1%} of {b}",
    }


def _weight_lines(sites: list[SiteDifference]) -> dict[str, str]:
    norm, other, apart = (
        sum(getattr(site, key) ** 2 for site in sites) ** 0.5
        for key in ("norm_a", "norm_b", "distance")
    )
    product = sum(site.cosine * site.norm_a * site.norm_b for site in sites)
    cosine = product / (norm * other) if norm * other else 0.0
    angles = sorted(math.degrees(angle) for site in sites for angle in site.angles)
    return {
        "weights": f"‖ΔW‖ {norm:.4g} and {other:.4g}, apart {apart:.4g}, cosine {cosine:.3f}",
        "angles": f"of column spaces, {angles[0]:.0f}° to {angles[-1]:.0f}°, median "
        f"{statistics.median(angles):.0f}°"
        if angles
        else "none: they change no linear in common",
    }


def _heat_map(compared: Compared) -> None:
    """Relative distance by layer (down) and module (across).

    Black means equal; red, from 1 on, nothing in common.
    """
    layers, modules, values = _grid(compared)
    out.print("\n  ‖ΔW_a − ΔW_b‖ over √(‖ΔW_a‖² + ‖ΔW_b‖²), by layer and module")
    out.print("        " + " ".join(f"{module.split('.')[-1][:9]:>9}" for module in modules))
    for layer, row in zip(layers, values, strict=True):
        line = Text(f"  {layer:>4}  ")
        for value in row:
            shade = _SHADES[min(int(value * (len(_SHADES) - 1)), len(_SHADES) - 1)]
            line.append(f"{value:9.3f}", style=f"white on {shade}").append(" ")
        out.print(line)


def _grid(compared: Compared) -> tuple[list[int], list[str], list[list[float]]]:
    cells = {site.place: site.relative for site in compared.sites}
    layers = sorted({layer for layer, _ in cells})
    modules = list(dict.fromkeys(module for _, module in cells))
    values = [[cells.get((layer, module), 0.0) for module in modules] for layer in layers]
    return layers, modules, values


def _compared_json(compared: Compared, names: list[str]) -> dict[str, object]:
    return {
        "a": names[0],
        "b": names[1],
        "bases": {
            "shared": list(compared.shared),
            "only_a": list(compared.own_a),
            "only_b": list(compared.own_b),
        },
        "place": asdict(compared.place) if compared.place else None,
        "sites": [asdict(site) | {"relative": site.relative} for site in compared.sites],
    }


def _plot(compared: Compared, names: list[str], file: Path) -> None:
    require_file(file)
    from matplotlib.figure import Figure

    layers, modules, values = _grid(compared)
    figure = Figure(figsize=(7, 0.25 * len(layers) + 2), layout="constrained")
    axes = figure.subplots()
    top = max(1.0, *(value for row in values for value in row))
    image = axes.imshow(values, aspect="auto", cmap="magma", vmin=0.0, vmax=top)
    axes.set_xticks(range(len(modules)), [m.split(".")[-1] for m in modules], rotation=30)
    axes.set_yticks(range(len(layers)), layers)
    axes.set_ylabel("layer")
    axes.set_title(f"relative distance of ΔW: {names[0]} against {names[1]}")
    figure.colorbar(image)
    save_plot(figure, file)
