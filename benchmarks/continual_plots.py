"""Forgetting curves: each sequence's first task as later ones are learned."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from continual_tables import Record, by_title, finished, grouped
from matplotlib.figure import Figure
from rivals.streams import CLASSES

EQUAL_BYTES = {"svg.fonttype": "none", "svg.hashsalt": "continual"}  # for equal figures


def draw(records: Sequence[Record], folder: Path) -> list[Path]:
    """Writes continual-SEQUENCE-STEPS.svg for every sequence; returns the files."""
    files = []
    for (sequence, steps), group in grouped(records, "sequence", "steps"):
        lines = [line for line in finished(group) if line.whole]
        if not lines:
            continue
        name = "accuracy" if sequence == CLASSES else "perplexity"
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
        folder.mkdir(parents=True, exist_ok=True)
        files.append(folder / f"continual-{sequence}-{steps}.svg")
        with matplotlib.rc_context(EQUAL_BYTES):
            figure.savefig(files[-1], metadata={"Date": None})
    return files
