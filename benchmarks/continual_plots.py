"""Forgetting curves: each sequence's first task as later ones are learned."""

from __future__ import annotations

import statistics
from pathlib import Path

import matplotlib
from continual_tables import Report, by_title
from matplotlib.figure import Figure
from rivals.streams import CLASSES

EQUAL_BYTES = {"svg.fonttype": "none", "svg.hashsalt": "continual"}  # for equal figures


def draw(report: Report, file: Path) -> None:
    """Writes the curves of a report as SVG, if any method was measured after every task."""
    lines = [line for line in report.lines if line.whole]
    if not lines:
        return
    name = "accuracy" if report.figures["sequence"] == CLASSES else "perplexity"
    tasks = lines[0].tasks
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for title, same in by_title(lines):
        curve = [
            statistics.fmean(one.figure(row, tasks[0], name) for one in same)
            for row in range(len(tasks))
        ]
        axes.plot(range(len(tasks)), curve, marker="o", label=title)
    axes.set_xticks(range(len(tasks)), tasks)
    axes.set(xlabel="after learning", ylabel=f"{name} of {tasks[0]}")
    axes.legend(fontsize="small")
    with matplotlib.rc_context(EQUAL_BYTES):
        figure.savefig(file, metadata={"Date": None})
