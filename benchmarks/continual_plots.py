"""Forgetting curves: what becomes of each sequence's first task as later ones are learned."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from common import RESULTS
from continual_tables import Record, _by_title, _grouped, finished
from rivals.streams import CLASSES


def draw(records: Sequence[Record], folder: Path = RESULTS) -> list[Path]:
    """Writes continual-SEQUENCE.svg for every sequence; returns the files."""
    files = []
    for (sequence, _), group in _grouped(records, "sequence", "steps"):
        lines = [line for line in finished(group) if line.whole]
        if not lines:
            continue
        name = "accuracy" if sequence == CLASSES else "perplexity"
        figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
        tasks = lines[0].tasks
        for title, same in _by_title(lines):
            curve = [
                statistics.fmean(one.figure(row, tasks[0], name) for one in same)
                for row in range(len(tasks))
            ]
            axes.plot(range(len(tasks)), curve, marker="o", label=title)
        axes.set_xticks(range(len(tasks)), tasks)
        axes.set(xlabel="after learning", ylabel=f"{name} of {tasks[0]}")
        axes.legend(fontsize="small")
        folder.mkdir(parents=True, exist_ok=True)
        files.append(folder / f"continual-{sequence}.svg")
        figure.savefig(files[-1], metadata={"Date": None})
        plt.close(figure)
    return files
