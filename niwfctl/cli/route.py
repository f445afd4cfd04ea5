"""route: who owns a prompt?"""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer
from rich.table import Table

from niwfctl.atlas import BASE_NAME
from niwfctl.cli.options import AsJson, inside, read_prompt
from niwfctl.cli.output import emit_json, err, out
from niwfctl.errors import UsageError

app = typer.Typer()


@app.command()
def route(
    ctx: typer.Context,
    prompt: Annotated[
        str | None, typer.Argument(help="Who owns it? `-` reads it from standard input.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="Count over the prompts of a file; repeatable, a row per file."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show which capability owns a prompt, and by how much; over files, a confusion table."""
    from niwfctl.repository import Repository
    from niwfctl.training.data import read_examples

    if (prompt is None) == (not data):
        raise UsageError("say what to route: either a prompt, or --data FILE")
    prompt = None if prompt is None else read_prompt(prompt)
    repository = Repository.open(ctx.obj)
    files = {source: read_examples([inside(ctx.obj, source)]) for source in data or []}
    with err.status("loading the backbone"):
        model = repository.load(auto=True)
    if prompt is not None:
        found = model.bids(prompt)
        _one(found, as_json)
        return
    counts = {}
    with err.status("routing"):
        for source, examples in files.items():
            counts[source] = Counter(owner or BASE_NAME for owner in model.owners(examples))
    _many(counts, as_json)


def _one(found: list[tuple[str | None, float | None]], as_json: bool) -> None:
    rows = [{"capability": name, "score": score} for name, score in found]
    if as_json:
        emit_json({"owner": found[0][0], "bids": rows})
        return
    for place, (name, score) in enumerate(found):
        bid = "its cell does not hold the prompt" if score is None else f"score {score:.1f}"
        out.print(f"{'→' if place == 0 else ' '} {name or BASE_NAME:<20} {bid}", markup=False)


def _many(counts: dict[str, Counter[str]], as_json: bool) -> None:
    if as_json:
        emit_json([{"data": source, "owners": dict(found)} for source, found in counts.items()])
        return
    names = sorted({name for found in counts.values() for name in found})
    table = Table("data", *names, "prompts")
    for source, found in counts.items():
        total = sum(found.values())
        table.add_row(source, *(f"{found[name] / total:.1%}" for name in names), str(total))
    out.print(table)
