"""Cells of a long benchmark: measured one by one, written down after each, whatever becomes of it.

A GPU may be lent for minutes, so a cell that fails must cost no other cell, and a run that is
killed must leave what it has measured. A later run adds to the same results where nothing has
changed that figures depend on.
"""

from __future__ import annotations

import hashlib
import os
import time
import traceback
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

import torch
from common import machine as machine_of
from common import read_results, write_results
from gpu import Machine

from niwfctl.errors import MemoryFull, of_memory, reason

ROOT = Path(__file__).parent.parent
PARTS = ("guarantees", "training", "inference")
NO_MEMORY = "out of memory"
Cell = dict[str, object]


def origin_of(machine: Machine, weights: str) -> dict[str, object]:
    """What figures depend on: they are never mixed with those of another origin."""
    return {
        "gpu": machine.name,
        "cuda": torch.version.cuda,
        "bitsandbytes": version("bitsandbytes"),
        "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        "weights": weights,
        "code": code(),
    }


def code() -> str:
    """A digest of the code; its commit would not tell of changes, nor exist in a bare copy."""
    digest = hashlib.sha256()
    for file in sorted(file for top in ("niwfctl", "store") for file in (ROOT / top).rglob("*.py")):
        digest.update(file.read_bytes())
    for file in sorted((ROOT / "benchmarks").glob("*.py")):
        digest.update(file.read_bytes())
    return f"sha256:{digest.hexdigest()[:12]}"


class Results:
    """The cells measured so far, in docs/results at any time.

    Attributes:
        cells: of each part, in the order in which they were measured. A cell is its setting, its
            figures or an `error`, and its `seconds`.
        finished: parts that were measured to their end.
        failed: whether a cell of this run failed for another reason than too little memory.
    """

    def __init__(
        self,
        name: str,
        machine: Machine,
        origin: Mapping[str, object],
        table: Callable[[Results], str],
    ) -> None:
        """
        Args:
            name: of the files in docs/results; cells of the same origin that are there are kept.
            origin: from `origin_of`.
            table: renders the report.
        """
        self.name, self.machine, self.origin, self._table = name, machine, dict(origin), table
        self.cells: dict[str, list[Cell]] = {part: [] for part in PARTS}
        self.finished: list[str] = []
        self.failed = False
        self._began = time.perf_counter()
        earlier = read_results(name)
        if earlier and _alike(earlier, {"machine": machine_of(), **self.origin}):
            self.cells |= earlier["cells"]
            self.finished = earlier["finished"]
        elif earlier:
            print(f"{name}.json is of another machine, version or code: it is begun anew")

    @property
    def partial(self) -> bool:
        """Whether a part is still to be measured, or to be measured to its end."""
        return set(self.finished) != set(PARTS)

    def run(self, part: str, work: Callable[[], object]) -> None:
        """Measures a part anew."""
        self.cells[part] = []
        self.finished = [one for one in self.finished if one != part]
        if self.measure(part, {"step": "all of it"}, work, quietly=True):
            self.finished.append(part)
        self._write()

    def measure(
        self,
        part: str,
        setting: Cell,
        work: Callable[[], Cell | None],
        quietly: bool = False,
    ) -> bool:
        """Measures a cell and writes it down; returns whether it succeeded.

        Args:
            setting: what is measured.
            work: returns the figures.
            quietly: write it down only if it fails.
        """
        started = time.perf_counter()
        try:
            self.machine.forget()  # what the last cell left, failed or not
            figures = work() or {}
        except Exception as error:  # on a lent machine, what comes after is worth more
            figures = {"error": self._reason(error)}
        seconds = time.perf_counter() - started
        failed = "error" in figures
        if failed or not quietly:
            self.cells[part].append({**setting, **figures, "seconds": seconds})
            self._write()
            told = ": ".join(filter(None, map(in_words, (setting, figures))))
            self.say(f"{part}: {told} ({seconds:.1f} s)")
        return not failed

    def _reason(self, error: Exception) -> str:
        if of_memory(error) or isinstance(error, MemoryFull):
            return NO_MEMORY
        self.failed = True
        traceback.print_exception(error)
        return f"{type(error).__name__}: {reason(error)}"

    def say(self, text: str) -> None:
        """Prints a line with the time since the run began."""
        print(f"{time.perf_counter() - self._began:7.1f} s  {text}", flush=True)

    def _write(self) -> None:
        found = {**self.origin, "partial": self.partial, "finished": self.finished}
        text = self._table(self)
        write_results(self.name, {**found, "cells": self.cells}, text, "mistral7b", shown=False)


def in_words(figures: Cell) -> str:
    """Settings or figures in a line; what is measured needs no name."""
    return ", ".join(
        shown(value) if key in ("step", "side") else f"{key.replace('_', ' ')} {shown(value)}"
        for key, value in figures.items()
        if value is not None
    )


def shown(value: object) -> str:
    """A setting or figure, for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if value < 1000 else f"{value:.0f}"
    return "" if value is None else str(value)


def _alike(earlier: Mapping[str, object], now: Mapping[str, object]) -> bool:
    """Whether results are of the same origin, be it on another day."""
    then = {key: earlier.get(key) for key in now}
    days = {"date": None}
    return {**then, "machine": then["machine"] | days} == {**now, "machine": now["machine"] | days}
