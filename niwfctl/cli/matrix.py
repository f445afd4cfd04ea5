"""The task × commit table: on a terminal, as JSON, and drawn."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from niwfctl.cli.output import SIGNS, err, number, out, save_plot
from niwfctl.cli.schema import Json, figures_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from niwfctl.repository.matrix import Matrix, Row
    from niwfctl.repository.measure import Measured

_LABEL, _NAME, _GAP = 28, 14, 2  # characters: longest label, longest task name, gap
_ANNOTATED = 400  # cells; more would be unreadable in a picture

Column = list[Text]


def show_matrix(matrix: Matrix) -> None:
    """The figures by commit (down) and task (across), folded where the terminal is narrow."""
    for measure in matrix.measures:
        out.print(f"{measure.replace('_', ' ')}", style="bold")
        columns = [_column(matrix, measure, place) for place in range(len(matrix.tasks))]
        labels = ["", "base", *map(_label, matrix.rows)]
        width = max(map(len, labels))
        for block in _folded(columns, out.width - width):
            for label, *cells in zip(labels, *block, strict=True):
                out.print(Text(label.ljust(width)).append_text(Text("").join(cells)))
            out.print()
        _show_transfer(matrix, measure)
    if any(task.name not in row.there for task in matrix.tasks for row in matrix.rows):
        out.print("( ) that commit has no capability of this name", style="dim")
    if matrix.left_out:
        names = ", ".join(matrix.left_out)
        err.print(f"left out, without data to measure on: {names}", markup=False)


def matrix_json(matrix: Matrix) -> Json:
    """What docs/json.md calls a matrix."""
    ids = [row.commit.id for row in matrix.rows]
    return {
        "tasks": [
            {
                "name": task.name,
                "learnt": None if task.learnt is None else ids[task.learnt],
                "rows": len(task.data.examples),
                "data_hash": task.data.hash,
            }
            for task in matrix.tasks
        ],
        "left_out": list(matrix.left_out),
        "base": [figures_json(figures) for figures in matrix.base],
        "commits": [
            {
                "commit": row.commit.id,
                "message": row.commit.message,
                "capabilities": sorted(row.there),
                "figures": [figures_json(figures) for figures in row.figures],
            }
            for row in matrix.rows
        ],
        "transfer": {measure: asdict(matrix.transfer(measure)) for measure in matrix.measures},
    }


def plot_matrix(matrix: Matrix, file: Path) -> None:
    """A heat map of each measure: blue where a task is answered better than by the base."""
    from matplotlib.figure import Figure

    measures = matrix.measures
    labels = ["base", *map(_label, matrix.rows)]
    names = [_short(task.name) for task in matrix.tasks]
    size = (len(measures) * (0.8 * len(names) + 3) + 2, 0.3 * len(labels) + 2)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(measures), sharey=True, squeeze=False)
    for axes, measure in zip(panels[0], measures, strict=True):
        gains = _gains(matrix, measure)
        most = max(abs(gain) for row in gains for gain in row) or 1.0
        image = axes.imshow(gains, aspect="auto", cmap="RdBu", vmin=-most, vmax=most)
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
        axes.set_yticks(range(len(labels)), labels)
        axes.set_title(measure.replace("_", " "))
        unit = "nats a token" if measure == "perplexity" else "share of rows"
        figure.colorbar(image, label=f"gained over the base, {unit}")
        if len(labels) * len(names) <= _ANNOTATED:
            _annotate(axes, matrix, measure, 0.6 * most)
    save_plot(figure, file)


def _annotate(axes: Axes, matrix: Matrix, measure: str, dark: float) -> None:
    """Writes every figure into its cell, in white where the cell is dark."""
    rows = [matrix.base, *(row.figures for row in matrix.rows)]
    there = [{task.name for task in matrix.tasks}, *(row.there for row in matrix.rows)]
    gains = _gains(matrix, measure)
    for y, row in enumerate(rows):
        for x, figures in enumerate(row):
            color = "white" if abs(gains[y][x]) > dark else "black"
            text = _shown(figures, measure)
            if matrix.tasks[x].name not in there[y]:
                text = f"({text})"
            axes.text(x, y, text, ha="center", va="center", fontsize=8, color=color)


def _shown(figures: Measured, measure: str) -> str:
    if measure == "perplexity":
        return number(figures.perplexity)
    return f"{figures.exact_match:.1%}"


def _label(row: Row) -> str:
    did = " ".join(f"{SIGNS[one.kind]} {one.name}" for one in row.commit.changes)
    label = f"{row.commit.id[:7]} {did}".rstrip()
    return label if len(label) <= _LABEL else f"{label[: _LABEL - 1]}…"


def _short(name: str) -> str:
    """A name shortened to its two ends, since names often begin alike."""
    head, tail = _NAME // 2, (_NAME - 1) // 2
    return name if len(name) <= _NAME else f"{name[:head]}…{name[-tail:]}"


def _column(matrix: Matrix, measure: str, place: int) -> Column:
    """A task's heading and figures, all of one width."""
    task = matrix.tasks[place]
    cells = [
        Text(_short(task.name), "bold"),
        Text(f"{_shown(matrix.base[place], measure)} ", "dim"),
    ]
    for index, row in enumerate(matrix.rows):
        text = _shown(row.figures[place], measure)
        if task.name in row.there:
            cells.append(Text(f"{text} ", _style(matrix, measure, place, index)))
        else:
            cells.append(Text(f"({text})", "dim"))
    width = max(cell.cell_len for cell in cells) + _GAP
    for cell in cells:
        cell.pad_left(width - cell.cell_len)
    return cells


def _style(matrix: Matrix, measure: str, place: int, index: int) -> str:
    """Bold where a task is learnt; then red where it has become worse, green where better."""
    learnt = matrix.tasks[place].learnt
    if index == learnt:
        return "bold"
    now, then = (matrix.rows[at].figures[place].score(measure) for at in (index, learnt))
    return "" if now == then else "green" if now > then else "red"


def _folded(columns: Sequence[Column], room: int) -> Iterator[list[Column]]:
    """Blocks of columns that fit side by side, at least one column each."""
    block: list[Column] = []
    for column in columns:
        if block and sum(one[0].cell_len for one in (*block, column)) > room:
            yield block
            block = []
        block.append(column)
    yield block


def _show_transfer(matrix: Matrix, measure: str) -> None:
    found = matrix.transfer(measure)
    if found.average is None:
        average = "-"
    elif measure == "perplexity":
        average = (
            f"{found.average:.4f} nats a token (perplexity {number(math.exp(-found.average))})"
        )
    else:
        average = f"{found.average:.1%}"
    lines = {
        "average": average,
        "backward transfer": _difference(found.backward, measure),
        "forgetting": _difference(found.forgetting, measure),
        "forward transfer": _difference(found.forward, measure),
    }
    for label, text in lines.items():
        out.print(f"{label:<18} {text}")
    out.print()


def _difference(score: float | None, measure: str) -> str:
    if score is None:
        return "-"
    return f"{score:+.4f} nats a token" if measure == "perplexity" else f"{score:+.1%}"


def _gains(matrix: Matrix, measure: str) -> list[list[float]]:
    """By how much each figure beats the base's; the base's own row comes first."""
    base = [figures.score(measure) for figures in matrix.base]
    rows = [matrix.base, *(row.figures for row in matrix.rows)]
    return [
        [one.score(measure) - least for one, least in zip(row, base, strict=True)] for row in rows
    ]
