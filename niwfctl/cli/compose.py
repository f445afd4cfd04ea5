"""compose: a capability made from others, without retraining."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from niwfctl.cli.options import AsJson, by_name
from niwfctl.cli.output import emit_json, err, out, require_file, save_plot
from niwfctl.cli.schema import capability_json
from niwfctl.errors import UsageError

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository
    from niwfctl.repository.sweep import Point

app = typer.Typer()


@app.command()
def compose(
    ctx: typer.Context,
    sources: Annotated[list[str], typer.Argument(metavar="NAME[@REV]", help="The parts.")],
    name: Annotated[str | None, typer.Option(help="Name of the new capability.")] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="W,W…", help="One per part; 1 by default.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="`linear`: the exact weighted sum. `routed`: whichever owns the prompt. `svd`: "
            "the sum at a smaller rank. `ties`, `dare_linear`, `dare_ties`, `magnitude_prune`: "
            "PEFT's methods."
        ),
    ] = "linear",
    rank: Annotated[
        int | None, typer.Option(min=1, help="Rank of the result, where it is approximated.")
    ] = None,
    density: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=0.99, help="Share of entries that PEFT's methods keep; half by default."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random methods.")] = 0,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Find the weights that preserve every part best.")
    ] = False,
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="Validation data of each part, for --sweep."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The trade-off of --sweep, .png or .svg.")
    ] = None,
    message: Annotated[str | None, typer.Option("-m", "--message", help="Commit message.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a capability from others, without retraining; --sweep alone only measures."""
    from niwfctl.repository import Repository
    from niwfctl.repository.compose import Recipe, checked
    from niwfctl.repository.names import require_free

    if not sweep and (data or plot):
        raise UsageError("--data and --plot go with --sweep: add it")
    if name is None and not sweep:
        raise UsageError("the new capability needs a name: give --name NAME")
    if sweep and (weights or method != "linear"):
        raise UsageError("--sweep finds the weights of a linear composition: leave them out")
    if plot:
        require_file(ctx.obj / plot)
    repository = Repository.open(ctx.obj)
    chosen, points = _weights(weights), []
    if sweep and name is not None:  # before the slow part
        require_free(repository, name)
        checked(Recipe(None, method, rank, density, seed), len(sources))
    if sweep:
        points = _swept(repository, sources, _data(ctx.obj, data or []))
        chosen = points[0].weights
        if plot:
            _plot(sources, points, ctx.obj / plot)
    report: dict[str, object] = {"sweep": [_point_json(point) for point in points]}
    if points and not as_json:
        _show(sources, points)
    if name is not None:
        with err.status("composing"):
            recipe = Recipe(chosen, method, rank, density, seed)
            done = repository.compose(sources, name, recipe, message)
        report |= {"commit": done.commit, "error": done.error}
        report["capability"] = capability_json(done.capability)
        if not as_json:
            lost = "" if done.error is None else f", relative error {done.error:.3g}"
            out.print(f"{name}: {method} of {', '.join(sources)}{lost}", markup=False)
    if as_json:
        emit_json({"commit": None, "error": None, "capability": None} | report)


def _weights(text: str | None) -> tuple[float, ...] | None:
    try:
        return None if text is None else tuple(float(one) for one in text.split(","))
    except ValueError:
        raise UsageError(f"--weights {text!r}: expected numbers, as in 0.7,0.7") from None


def _data(directory: Path, given: list[str]) -> dict[str, list]:
    from niwfctl.training.data import read_examples

    return {name: read_examples(found) for name, found in by_name(directory, given).items()}


def _swept(repository: Repository, sources: list[str], data: dict[str, list]) -> list[Point]:
    from niwfctl.repository.sweep import sweep

    with err.status("measuring the parts alone") as status:

        def report(point: Point) -> None:
            shown = ", ".join(f"{weight:g}" for weight in point.weights)
            status.update(f"weights {shown}: least retention {point.worst:.3f}")

        return sweep(repository, sources, data, report)


def _show(sources: list[str], points: list[Point]) -> None:
    from rich.table import Table

    table = Table(*(f"weight of {s}" for s in sources), *(f"{s} keeps" for s in sources))
    for point in points[:8]:
        table.add_row(
            *(f"{weight:g}" for weight in point.weights), *(f"{r:.3f}" for r in point.retentions)
        )
    out.print(table)


def _point_json(point: Point) -> dict[str, object]:
    return {
        "weights": list(point.weights),
        "perplexities": list(point.perplexities),
        "retentions": list(point.retentions),
    }


def _plot(sources: list[str], points: list[Point], file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    if len(sources) == 2:
        xs, ys = zip(*(point.retentions for point in points), strict=True)
        axes.scatter(xs, ys)
        for point in points:
            axes.annotate("/".join(f"{w:g}" for w in point.weights), point.retentions, fontsize=7)
        axes.set_xlabel(f"retention of {sources[0]}")
        axes.set_ylabel(f"retention of {sources[1]}")
    else:
        ordered = sorted(points, key=lambda point: sum(point.weights))
        sums = [sum(point.weights) for point in ordered]
        for index, source in enumerate(sources):
            axes.plot(sums, [p.retentions[index] for p in ordered], "o", label=source)
        axes.set_xlabel("sum of the weights")
        axes.set_ylabel("retention")
        axes.legend()
    save_plot(figure, file)
