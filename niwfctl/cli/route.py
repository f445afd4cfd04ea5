"""route: who owns a prompt?"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from niwfctl.atlas import BASE_NAME, get_capability
from niwfctl.cli.options import AsJson, inside, read_prompt
from niwfctl.cli.output import emit_json, err, out
from niwfctl.cli.rows import contest_json, require_rows_file, write_rows
from niwfctl.errors import UsageError

if TYPE_CHECKING:
    from niwfctl.repository import Repository

_EDGE, _SHARE, _LABEL = 3, 6, 20  # characters: of a column's frame, a share, a shortened path
app = typer.Typer()


@app.command()
def route(
    ctx: typer.Context,
    prompt: Annotated[
        str | None, typer.Argument(help="Who owns it? `-` reads it from standard input.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]FILE",
            help="Count over the prompts of a file, which NAME should own; repeatable, a row per "
            "file.",
        ),
    ] = None,
    rows: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write who owns each prompt of --data, and who is next, as JSON lines.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show which capability owns a prompt, and by how much; over files, a confusion table."""
    from niwfctl.repository import Repository
    from niwfctl.training.data import read_examples

    if (prompt is None) == (not data):
        raise UsageError("say what to route: either a prompt, or --data FILE")
    prompt = None if prompt is None else read_prompt(prompt)
    if rows and not data:
        raise UsageError("--rows is about files: give --data FILE")
    repository = Repository.open(ctx.obj)
    asked = [_Asked.of(repository, ctx.obj, one) for one in data or []]
    if rows:
        require_rows_file(rows := ctx.obj / rows, "--rows", [one.file for one in asked])
    examples = [read_examples(one.file) for one in asked]
    with err.status("loading the backbone"):
        model = repository.load(auto=True)
    if prompt is not None:
        found = model.bids(prompt)
        _one(found, as_json)
        return
    with err.status("routing"):
        bids = [model.bids_each(part) for part in examples]
    if rows:
        lines = (
            contest_json(one.source, example, found, one.expected)
            for one, *pairs in zip(asked, examples, bids, strict=True)
            for example, found in zip(*pairs, strict=True)
        )
        write_rows(rows, lines)
    counts = {
        one.source: Counter(found[0][0] or BASE_NAME for found in part)
        for one, part in zip(asked, bids, strict=True)
    }
    _many(counts, as_json)


@dataclass(frozen=True)
class _Asked:
    """What one --data names.

    Attributes:
        source: the file or hub dataset, as given.
        file: the same, as seen from -C DIR.
        expected: what should own its prompts, if that was named.
    """

    source: str
    file: str
    expected: str | None = None

    @classmethod
    def of(cls, repository: Repository, directory: Path, given: str) -> _Asked:
        """Reads `[NAME=]FILE`.

        Raises:
            UnknownName: there is no such capability.
        """
        name, equals, source = given.partition("=")
        if not equals or Path(inside(directory, given)).exists():
            return cls(given, inside(directory, given))
        if name != BASE_NAME:
            get_capability(repository.atlas(), name)
        return cls(source, inside(directory, source), name)


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
    elif not out.is_terminal:
        _lines(counts)
    else:
        show_owners(counts)


def _lines(counts: dict[str, Counter[str]]) -> None:
    """A plain line for each file and owner, for other programs."""
    width = max(len(name) for found in counts.values() for name in found)
    for source, found in counts.items():
        for name, count in found.most_common():
            share = count / found.total()
            line = f"{source}: {name:<{width}} {share:6.1%} ({count} of {found.total()})"
            out.print(line, markup=False)


def show_owners(counts: dict[str, Counter[str]]) -> None:
    """A table of owners (across) by file (down); an owner a line if it were too wide."""
    names = sorted({name for found in counts.values() for name in found})
    columns = [*names, "prompts"]
    room = out.width - _EDGE - sum(max(len(name), _SHARE) + _EDGE for name in columns) - 1
    if room < min(_LABEL, max(map(cell_len, counts))):
        _blocks(counts)
        return
    table = Table("data", *columns)
    for source, found in counts.items():
        shares = (f"{found[name] / found.total():.1%}" for name in names)
        table.add_row(Text(_shortened(source, room)), *shares, str(found.total()))
    out.print(table)


def _blocks(counts: dict[str, Counter[str]]) -> None:
    for source, found in counts.items():
        total = f" ({found.total()} prompts)"
        out.print(f"{_shortened(source, out.width - len(total))}{total}", markup=False)
        for name, count in found.most_common():
            out.print(f"  {count / found.total():6.1%} {name}", markup=False)


def _shortened(path: str, room: int) -> str:
    """A path without its beginning if it is too long, since paths end in what tells them apart."""
    if cell_len(path) <= room:
        return path
    while path and cell_len(path) >= room:
        path = path[1:]
    return f"…{path}"
