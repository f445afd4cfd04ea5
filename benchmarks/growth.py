"""Costs as capabilities add up: commit, checkout, route, verify, merge, disk, memory.

    python benchmarks/growth.py [--sizes 1 5 20 100]

The embedded backbone's repository is real except for the weights of its capabilities, which are
random, with the true shapes: two bases of rank 8 on all linears above the tap layer.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import statistics
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import torch
from common import markdown, write_results
from history import seconds
from storage import SITES, size_of
from synthetic import commit, empty, train

from niwfctl.repository import Repository
from niwfctl.repository.model import Model

RANK, DIM = 8, 128
ROUNDS = 5
COSTS = {
    "commit": ("commit of one more, s", 1),
    "checkout": ("checkout, read and ready to use, ms", 1e3),
    "route": ("owner of a prompt, of its coordinate, µs", 1e6),
    "load": ("reading all cells, once a process, ms", 1e3),
    "verify": ("verify, s", 1),
    "merge": ("merge of a branch with one more, s", 1),
    "disk": ("`.git`, MB", 1e-6),
    "cells": ("memory to route among them, MiB", 2**-20),
    "resident": ("memory with all of them resident, MiB", 2**-20),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 5, 20, 100])
    sizes = sorted(set(parser.parse_args().sizes))
    if len(sizes) < 2:
        parser.error("--sizes: growth needs two sizes or more")
    with tempfile.TemporaryDirectory() as folder:
        repository, costs = empty(Path(folder), "smollm2", DIM), {}
        for number in range(max(sizes)):
            took = added(repository, f"c{number}")
            if number + 1 in sizes:
                costs[number + 1] = {"commit": took, **measured(repository)}
                print(number + 1, costs[number + 1], flush=True)
        each = repository.atlas()["c0"].size
    fits = {key: fitted(sizes, [costs[size][key] for size in sizes]) for key in COSTS}
    rows = [
        [
            what,
            *(f"{costs[size][key] * unit:.3g}" for size in sizes),
            line(fits[key], unit),
            f"{exponent(sizes[-2:], [costs[size][key] for size in sizes[-2:]]):.1f}",
        ]
        for key, (what, unit) in COSTS.items()
    ]
    last = f"power of n, {sizes[-2]} to {sizes[-1]}"
    columns = ["capabilities", *(f"{size}" for size in sizes), "fitted to n capabilities", last]
    table = (
        f"{markdown(columns, rows)}\n\nSmolLM2-135M-Instruct's shapes: a capability of two bases "
        f"of rank 8 takes {each / 1e6:.1f} MB. Weights are random, regions lie apart. The "
        "fit is a straight line, by least squares."
    )
    write_results("growth", {"costs": costs, "fits": fits}, table)


def added(repository: Repository, name: str) -> float:
    """Seconds to commit one more capability."""
    train(repository, name, SITES, RANK, 2, seed=len(repository.atlas()))
    return seconds(lambda: commit(repository, name, f"Add {name}"))


def measured(repository: Repository) -> dict[str, float]:
    """All costs except the commit's, of a repository as it is."""
    disk = size_of(repository)
    return {
        "disk": disk,
        "verify": median(lambda: require(repository.verify().ok)),
        **in_memory(repository),
        "merge": merged(repository),
    }


def in_memory(repository: Repository) -> dict[str, float]:
    """Routing among all capabilities, and having them all resident."""
    names = sorted(repository.atlas())
    model = Model(repository, resident=len(names))
    before = resident()
    load = seconds(model.route)
    cells = resident() - before
    z = torch.randn(1, DIM)
    route = median(lambda: [model.routes.bids(z) for _ in range(100)]) / 100
    uses = [seconds(lambda name=name: model.use(name)) for name in names]
    return {
        "load": load,
        "route": route,
        "cells": cells,
        "checkout": statistics.median(uses),
        "resident": resident() - before,
    }


def merged(repository: Repository) -> float:
    """Seconds to merge a branch with one more capability; the repository is left as it was."""
    git, main = repository.git.plain, repository.git.branch()
    before = repository.git.head()
    git("branch", "--quiet", "side")
    added(repository, "ours")
    repository.checkout("side")
    added(repository, "theirs")
    repository.checkout(main)
    took = seconds(lambda: repository.merge("side"))
    git("branch", "--quiet", "-D", "side")
    git("reset", "--quiet", "--hard", before)
    return took


def resident() -> int:
    """Resident bytes of this process, without free ones, which would hide later growth."""
    gc.collect()
    with suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return psutil.Process().memory_info().rss


def require(good: bool) -> None:
    if not good:
        raise RuntimeError("the repository is damaged")


def median(work: Callable[[], object]) -> float:
    return statistics.median(seconds(work) for _ in range(ROUNDS))


def fitted(sizes: list[int], costs: list[float]) -> tuple[float, float]:
    """(cost of none, cost of each): the straight line that fits the measurements best."""
    slope, start = np.polyfit(sizes, costs, 1)
    return float(start), float(slope)


def exponent(sizes: list[int], costs: list[float]) -> float:
    """p of a cost that grows as n^p from one size to another."""
    _, power = fitted(np.log(sizes), np.log(costs))
    return power


def line(fit: tuple[float, float], unit: float) -> str:
    start, slope = (value * unit for value in fit)
    return f"{start:.3g} {'+' if slope >= 0 else '−'} {abs(slope):.2g} n"


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    main()
