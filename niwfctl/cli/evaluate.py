"""eval: how well the base and capabilities answer data, now or at every commit."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from niwfctl.cli.matrix import matrix_json, plot_matrix, show_matrix
from niwfctl.cli.options import AsJson, by_name, inside
from niwfctl.cli.output import emit_json, number, out, require_file
from niwfctl.cli.progress import measuring_progress
from niwfctl.cli.rows import predictions_json, require_rows_file, write_rows
from niwfctl.cli.schema import Json, figures_json
from niwfctl.errors import UsageError

if TYPE_CHECKING:
    from niwfctl.atlas import Atlas
    from niwfctl.repository import Repository
    from niwfctl.repository.measure import Subject

app = typer.Typer()


@app.command("eval")
def evaluate(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME[@REV]", help="Capabilities; the active one by default."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]FILE",
            help="Data in any form that `train` reads; with --matrix, name its capability, or omit "
            "it to use the gates of niwf.toml.",
        ),
    ] = None,
    exact_match: Annotated[
        bool, typer.Option("--exact-match", help="Also generate, and count exact answers.")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest generated answer.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows per forward pass.")] = 8,
    auto: Annotated[
        bool, typer.Option("--auto", help="Also let each prompt's owner answer, no task id given.")
    ] = False,
    matrix: Annotated[
        bool, typer.Option("--matrix", help="Every task at every commit, and what was forgotten.")
    ] = False,
    revisions: Annotated[
        str | None,
        typer.Option(
            "--rev", metavar="[FIRST..]LAST", help="For --matrix; all commits of HEAD by default."
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="For --matrix: heat map as .png or .svg.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="For --matrix: measure cached figures again.")
    ] = False,
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write what was measured of each row, as JSON lines; with --exact-match its "
            "answer, too. Not with --matrix.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the base and capabilities on data: perplexity of the answers."""
    from niwfctl.repository import Repository
    from niwfctl.repository.measure import Bench, Data, RowFigures, warn_of_learned_rows

    if matrix and names:
        raise UsageError("--matrix measures every capability: give no names, only their data")
    if matrix and predictions:
        raise UsageError("--predictions is about one commit: leave --matrix out")
    if not matrix and (revisions is not None or plot or again):
        raise UsageError("--rev, --plot and --again belong to --matrix: add it")
    if not matrix and not data:
        raise UsageError("there is nothing to measure on: give --data FILE")
    how = {"exact_match": exact_match, "longest_answer": max_new_tokens, "batch_size": batch_size}
    if plot:
        require_file(ctx.obj / plot)
    repository = Repository.open(ctx.obj)
    if matrix:
        sources, line = by_name(ctx.obj, data or []), "HEAD" if revisions is None else revisions
        with measuring_progress() as report:
            table = repository.matrix(sources, line, auto=auto, again=again, report=report, **how)
        if plot:
            plot_matrix(table, ctx.obj / plot)
        emit_json(matrix_json(table)) if as_json else show_matrix(table)
        return
    sources = [inside(ctx.obj, source) for source in data]
    if predictions:
        require_rows_file(predictions := ctx.obj / predictions, "--predictions", sources)
    chosen = names or list(filter(None, [repository.active]))
    answering = {name: repository.capability(name) for name in chosen}
    subjects = _subjects(repository, answering, auto)
    read = Data.read(sources)
    warn_of_learned_rows(answering | (repository.atlas() if auto else {}), read)
    with measuring_progress() as report:
        bench = Bench(repository, report, recall=False)
        found = [
            (one.target, rows := RowFigures(), bench.measure(one, read, rows=rows, **how))
            for one in subjects
        ]
    if predictions:
        lines = (predictions_json(_about(target), read.examples, rows) for target, rows, _ in found)
        write_rows(predictions, chain.from_iterable(lines))
    if as_json:
        results = [_about(target) | figures_json(figures) for target, _, figures in found]
        emit_json({"data_hash": read.hash, "rows": len(read.examples), "results": results})
        return
    for target, _, figures in found:
        match = f", exact match {figures.exact_match:.1%}" if exact_match else ""
        label = target or "base"
        out.print(f"{label:<20} perplexity {number(figures.perplexity)}{match}", markup=False)


def _subjects(repository: Repository, answering: Atlas, auto: bool) -> list[Subject]:
    """The base, the capabilities, and the router where asked."""
    from niwfctl.repository.measure import base, named, routed

    found = [base(), *(named(name, capability) for name, capability in answering.items())]
    return [*found, routed("HEAD", repository.atlas())] if auto else found


def _about(target: str | None) -> Json:
    """What answered, as docs/json.md has it."""
    from niwfctl.repository.measure import AUTO

    auto = target == AUTO
    return {"capability": None if auto else target, "auto": auto}
