"""Commit, checkout, diff and log at Mistral-7B's geometry, as ratios; the same by other tools.

    python benchmarks/history.py [--ranks 8 32] [--rounds 5] [--commits 1000]
                                 [--dvc PATH] [--git-theta PATH]

The weights are random, with the true shapes: two bases on all seven linears of layers 4 to 31 of a
32-layer model of width 4,096. No model of that size is loaded. The reference for commit is
`sha256sum` plus `cp` of the same bytes; for checkout and diff, reading them; for log, `git log`.
All files are in the page cache. Sides take turns in every round; the figure is the median of the
rounds' ratios.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import markdown, write_results
from safetensors.torch import load_file
from synthetic import adapter, commit, empty, sites, train
from torch import Tensor
from versioning import Tool, available, notes

from niwfctl.repository import Repository
from niwfctl.repository import diff as differences
from niwfctl.repository.regions import load_region

SITES = sites(
    range(4, 32),
    {
        "self_attn.q_proj": (4096, 4096),
        "self_attn.k_proj": (4096, 1024),
        "self_attn.v_proj": (4096, 1024),
        "self_attn.o_proj": (4096, 4096),
        "mlp.gate_proj": (4096, 14336),
        "mlp.up_proj": (4096, 14336),
        "mlp.down_proj": (14336, 4096),
    },
)
JOBS = {
    "commit": "commit over `sha256sum` and `cp` of the same bytes",
    "checkout": "checkout, in memory and ready to use, over reading the bytes",
    "first": "the same at the first use of objects from elsewhere, which hashes them",
    "diff": "diff of two capabilities over one read of both",
}
GOALS = {"commit": "≤ 1.5", "checkout": "≤ 1.2", "first": "", "diff": "< 1"}
Pairs = list[tuple[float, float]]
"""(our seconds, the reference's), by round."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 32], help="of each basis")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--commits", type=int, default=1000)
    parser.add_argument("--dvc", type=Path, help="the `dvc` program")
    parser.add_argument("--git-theta", type=Path, help="the `git-theta` program")
    arguments = parser.parse_args()
    programs = (arguments.dvc, arguments.git_theta)
    ranks = {}
    for rank in arguments.ranks:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["NIWFCTL_CACHE"] = f"{folder}/cache"
            tools = available(Path(folder), *programs)
            repository = empty(Path(folder))
            ranks[rank] = measured(repository, rank, arguments.rounds, tools)
            if rank == arguments.ranks[-1]:
                logs = log(repository, arguments.commits, arguments.rounds)
    headline = ranks[arguments.ranks[0]]
    table = f"{ratios(ranks, logs, arguments.commits)}\n\n{others(ranks, tools)}"
    write_results("history", {**headline, "log": logs, "ranks": ranks}, table)


def ratios(ranks: dict[int, dict], logs: dict, commits: int) -> str:
    """The table of goals, with notes."""
    rows = [
        [what, *(f"{of[key]['ratio']:.2f}" for of in ranks.values()), GOALS[key]]
        for key, what in JOBS.items()
    ]
    over = [
        [f"`{what}`", f"{of['ratio']:.1f}", "≤ 3" if what == "git log" else ""]
        for what, of in logs["over"].items()
    ]
    columns = [f"rank {rank}, {of['bytes'] / 1e6:.0f} MB" for rank, of in ranks.items()]
    return (
        f"{markdown(['', *columns, 'goal'], rows)}\n\n"
        "diff multiplies what it reads: that work grows with the square of the rank, the bytes "
        "with the rank.\n\n"
        f"{markdown([f'log of {commits:,} commits over', 'ratio', 'goal'], over)}\n\n"
        f"Of the {logs['seconds']:.2f} s that `niwfctl log` takes, {logs['start']:.2f} s are those "
        "of a log of one commit: Python's start and its imports. git reads no file of a commit for "
        "`git log`, and all that changed for `git log --patch`; niwfctl reads every manifest that "
        "changed."
    )


def others(ranks: dict[int, dict], tools: list[Tool]) -> str:
    """The table of the same jobs by other tools."""
    titles = ["niwfctl", *(tool.title for tool in tools)]
    rows = [
        [f"{job}, rank {rank}", *(f"{of[job + ' by'][title]:.2f}" for title in titles)]
        for rank, of in ranks.items()
        for job in ("commit", "checkout")
    ]
    return (
        "The same capability as one PEFT adapter, a new version committed and the one before "
        "checked out and read, in seconds of whole commands (of niwfctl with its start and its "
        "import of torch):\n\n"
        f"{markdown(['seconds', *titles], rows)}\n\n{notes(tools)}"
    )


def measured(repository: Repository, rank: int, rounds: int, tools: list[Tool]) -> dict:
    """All jobs at one rank."""
    names = [f"c{number}" for number in range(rounds + 1)]
    commits = [committed(repository, name, rank, seed) for seed, name in enumerate(names)]
    folder = repository.path.parent / "peft"
    files = [adapter(repository, name, folder / name) for name in names[:3]]
    return {
        "bytes": repository.atlas()[names[0]].size,
        "commit": ratio(commits[1:]),
        "checkout": ratio([checked_out(repository, name) for name in names[1:]]),
        "first": ratio([checked_out(forgetful(repository), name) for name in names[1:]]),
        "diff": ratio([compared(repository, *pair) for pair in itertools.pairwise(names)]),
        **by_others(repository, rank, files, tools),
    }


def committed(repository: Repository, name: str, rank: int, seed: int) -> tuple[float, float]:
    """(seconds of a commit, seconds of sha256sum and cp of what it stored)."""
    train(repository, name, SITES, rank, 2, seed)
    mine = seconds(lambda: commit(repository, name, f"Add {name}"))
    files = objects(repository, name)
    with tempfile.TemporaryDirectory(dir=repository.path.parent) as target:
        return mine, seconds(lambda: hash_and_copy(files, target))


def hash_and_copy(files: list[Path], target: str) -> None:
    quietly(["sha256sum", *map(str, files)])
    quietly(["cp", *map(str, files), target])


def checked_out(repository: Repository, name: str) -> tuple[float, float]:
    """(seconds until a capability's tensors are in memory, seconds to read its bytes)."""

    def use() -> None:
        repository.checkout(name)
        (entry,) = repository.capability(name).regions
        for basis in load_region(repository, entry).bases:
            touch(basis.tensors())

    files = objects(repository, name)
    other = seconds(lambda: [file.read_bytes() for file in files])
    return seconds(use), other


def forgetful(repository: Repository) -> Repository:
    """The repository, forgetting which objects were hashed."""
    (repository.private / "cache" / "verified.json").unlink(missing_ok=True)
    return Repository.open(repository.path)


def touch(tensors: dict[str, Tensor]) -> None:
    """Touches every page."""
    for tensor in tensors.values():
        tensor.view(torch.uint8).flatten()[::4096].sum()


def compared(repository: Repository, a: str, b: str) -> tuple[float, float]:
    """(seconds to compare two capabilities, seconds to read both)."""
    pair = [repository.capability(name) for name in (a, b)]
    files = objects(repository, a) + objects(repository, b)
    other = seconds(lambda: [file.read_bytes() for file in files])
    return seconds(lambda: differences.capabilities(repository, *pair)), other


def objects(repository: Repository, name: str) -> list[Path]:
    """Files of all objects of a capability."""
    return [repository.store.path(ref.oid) for ref in repository.capability(name).objects]


def by_others(
    repository: Repository, rank: int, files: list[Path], tools: list[Tool]
) -> dict[str, dict[str, float]]:
    """Seconds of whole commands: commit a version, commit a second, go back to the first."""
    git = repository.git
    for seed in (100, 101):
        train(repository, "one", SITES, rank, 2, seed)
        commits = {"niwfctl": seconds(lambda: niwfctl(repository, "commit", "one", "-m", "One"))}
    before = git.resolve("HEAD~1")

    def back() -> None:
        niwfctl(repository, "checkout", f"one@{before}")
        (entry,) = repository.capability(f"one@{before}").regions
        for basis in load_region(repository, entry).bases:
            touch(basis.tensors())

    checkouts = {"niwfctl": seconds(back)}
    for tool in tools:
        for number, file in enumerate(files):
            tool.put(file, "one.safetensors")
            commits[tool.title] = seconds(
                lambda tool=tool, number=number: tool.commit("one.safetensors", f"One {number}")
            )

        def back_by(tool: Tool = tool) -> None:
            tool.checkout("HEAD~1")
            touch(load_file(tool.folder / "one.safetensors"))

        checkouts[tool.title] = seconds(back_by)
    return {"commit by": commits, "checkout by": checkouts}


def niwfctl(repository: Repository, *arguments: str) -> None:
    """A command as its user runs it."""
    program = str(Path(sys.executable).with_name("niwfctl"))
    quietly([program, "-C", str(repository.path), *arguments])


def log(repository: Repository, commits: int, rounds: int) -> dict[str, object]:
    """`niwfctl log` over `git log`, `git log --raw` and `git log --patch`, all as processes.

    Every commit changes a manifest. `start` is the seconds of a command that does nothing.
    """
    revise(repository, commits)
    git = ["git", "-C", str(repository.path), "log"]
    sides: dict[str, Callable[[], object]] = {
        "mine": lambda: niwfctl(repository, "log"),
        "start": lambda: niwfctl(repository, "log", "--max-count", "1"),
        "git log": lambda: quietly(git),
        "git log --raw": lambda: quietly([*git, "--raw"]),
        "git log --patch": lambda: quietly([*git, "--patch"]),
    }
    taken = [{name: seconds(side) for name, side in sides.items()} for _ in range(rounds)]
    over = {
        name: ratio([(one["mine"], one[name]) for one in taken])
        for name in sides
        if name.startswith("git")
    }
    start = statistics.median(one["start"] for one in taken)
    mine = statistics.median(one["mine"] for one in taken)
    return {**over["git log"], "over": over, "start": start, "seconds": mine}


def revise(repository: Repository, commits: int) -> None:
    """Commits that change the manifest of c0, packed, as `git fast-import` makes them."""
    capability = repository.capability("c0")
    (entry,) = capability.regions
    branch = repository.git.plain("symbolic-ref", "HEAD")
    stream = b""
    for number in range(commits):
        other = entry.model_copy(update={"radius": 1 + number / commits})
        text = capability.model_copy(update={"regions": (other,)}).dump().encode()
        stream += (
            f"commit {branch}\ncommitter Ada <ada@example.org> {10**9 + number} +0000\n".encode()
        )
        stream += b"data 6\nRevise\n"
        stream += f"from {branch}^0\n".encode() if number == 0 else b""
        stream += b"M 100644 inline capabilities/c0.json\n" + b"data %d\n%s\n" % (len(text), text)
    command = ["git", "-C", str(repository.path), "fast-import", "--quiet"]
    subprocess.run(command, input=stream, check=True)


def quietly(command: list[str]) -> None:
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def ratio(pairs: Pairs) -> dict[str, object]:
    ratios = [mine / other for mine, other in pairs]
    return {"ratio": statistics.median(ratios), "rounds": ratios, "seconds": pairs}


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
