"""Commit, checkout, diff and log at Mistral-7B's geometry, as ratios; and bytes against copies.

    python benchmarks/history.py [--rank 32] [--rounds 5] [--commits 1000]

The tensors are random, of the true shapes: all seven linears of layers 8 to 31 of a 32-layer model
of width 4,096. No model of that size is loaded. The reference for commit is `sha256sum` plus `cp`
of the same bytes; for checkout and diff, reading them; for log, `git log`.
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

from niwfctl.field.basis import Basis, Site
from niwfctl.field.generator import Generator
from niwfctl.repository import Repository
from niwfctl.repository import diff as differences
from niwfctl.repository.record import record
from niwfctl.repository.regions import load_region
from niwfctl.training.checkpoint import load, save
from niwfctl.training.run import TrainingOptions

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from tiny import save_tiny, write_data

LAYERS = range(8, 32)
SHAPES = {
    "self_attn.q_proj": (4096, 4096),
    "self_attn.k_proj": (4096, 1024),
    "self_attn.v_proj": (4096, 1024),
    "self_attn.o_proj": (4096, 4096),
    "mlp.gate_proj": (4096, 14336),
    "mlp.up_proj": (4096, 14336),
    "mlp.down_proj": (14336, 4096),
}
SITES = [Site(layer, module, *shape) for layer in LAYERS for module, shape in SHAPES.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rank", type=int, default=32, help="of each of the two bases")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--commits", type=int, default=1000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NIWFCTL_CACHE"] = f"{folder}/cache"
        repository = empty(Path(folder))
        names = [f"c{number}" for number in range(arguments.rounds + 1)]
        commits = [commit(repository, name, arguments.rank) for name in names]
        size = repository.atlas()[names[0]].size
        results = {
            "bytes": size,
            "commit": ratio(commits[1:]),
            "checkout": ratio([checkout(repository, name) for name in names][1:]),
            "diff": ratio([diff(repository, *pair) for pair in itertools.pairwise(names)]),
            "log": ratio(log(repository, arguments.commits, arguments.rounds)),
            "storage": storage(Path(folder)),
        }
    rows = [
        ["commit", "`sha256sum` and `cp` of the same bytes", f"{results['commit']['ratio']:.2f}"],
        ["checkout, ready to use", "reading the same bytes", f"{results['checkout']['ratio']:.2f}"],
        ["diff of two capabilities", "reading both once", f"{results['diff']['ratio']:.2f}"],
        [
            f"log of {arguments.commits:,} commits",
            "`git log` of the same",
            f"{results['log']['ratio']:.2f}",
        ],
    ]
    table = markdown(["command", "over", "ratio"], rows)
    kept = results["storage"]
    table += (
        f"\n\nA capability has {size / 1e6:.0f} MB here (2 bases of rank {arguments.rank}). "
        f"20 capabilities with 3 revisions each, of which 2 change one basis: "
        f"{kept['niwfctl'] / 1e6:.1f} MB in niwfctl, {kept['copies'] / 1e6:.1f} MB as plain "
        f"copies; after `gc` of a history cut to its end {kept['after_gc'] / 1e6:.1f} MB."
    )
    write_results("history", results, table)


def empty(folder: Path) -> Repository:
    """A repository on a tiny backbone, with one trained checkpoint to copy."""
    backbone = save_tiny(folder / "backbone")
    repository = Repository.init(folder / "repository", model=str(backbone), dim=32)
    data = write_data(folder / "data.jsonl")
    repository.train("pattern", [data], TrainingOptions(steps=1, rank=2, val_split=0.2))
    return repository


def commit(repository: Repository, name: str, rank: int) -> tuple[float, float]:
    """(seconds of a commit, seconds of sha256sum and cp of what it stored)."""
    run, pattern = load(repository.trainings.checkpoint("pattern"))
    run = run.model_copy(
        update={
            "id": name,
            "name": name,
            "options": run.options.model_copy(update={"rank": rank, "bases": 2}),
        }
    )
    random = torch.Generator().manual_seed(int(name.removeprefix("c")))
    tensors = {key: pattern[key].clone() for key in ("coordinates", "held_out", "probe")}
    for index in range(2):
        basis = Basis.initial(SITES, rank, random)
        for up in basis.up.values():
            up.normal_(std=0.01, generator=random)
        tensors |= {f"bases.{index}.{key}": value for key, value in basis.tensors().items()}
    generator = Generator(32, len(LAYERS), 2)
    tensors |= {f"generator.{key}": value for key, value in generator.state_dict().items()}
    save(repository.trainings.checkpoint(name), run, tensors)
    mine = seconds(lambda: repository.commit([name], f"Add {name}"))
    files = [repository.store.path(ref.oid) for ref in repository.capability(name).objects]
    with tempfile.TemporaryDirectory(dir=repository.path.parent) as target:
        other = seconds(lambda: hash_and_copy(files, target))
    return mine, other


def hash_and_copy(files: list[Path], target: str) -> None:
    subprocess.run(["sha256sum", *files], stdout=subprocess.DEVNULL, check=True)
    subprocess.run(["cp", *files, target], check=True)


def checkout(repository: Repository, name: str) -> tuple[float, float]:
    """(seconds until a capability's tensors are in memory, seconds to read its bytes)."""
    files = [repository.store.path(ref.oid) for ref in repository.capability(name).objects]

    def use() -> None:
        repository.checkout(name)
        (entry,) = repository.capability(name).regions
        region = load_region(repository, entry)
        for basis in region.bases:
            for tensor in basis.tensors().values():
                tensor.view(torch.uint8).flatten()[::4096].sum()  # every page of it is mapped

    other = seconds(lambda: [file.read_bytes() for file in files])
    return seconds(use), other


def diff(repository: Repository, a: str, b: str) -> tuple[float, float]:
    """(seconds to compare two capabilities, seconds to read both)."""
    pair = [repository.capability(name) for name in (a, b)]
    files = [repository.store.path(ref.oid) for one in pair for ref in one.objects]
    other = seconds(lambda: [file.read_bytes() for file in files])
    return seconds(lambda: differences.capabilities(repository, *pair)), other


def log(repository: Repository, commits: int, rounds: int) -> list[tuple[float, float]]:
    """(seconds of `niwfctl log`, seconds of `git log`), as processes."""
    for number in range(commits):
        repository.git.plain("commit", "--quiet", "--allow-empty", "-m", f"Note {number}")
    niwfctl = [str(Path(sys.executable).with_name("niwfctl")), "-C", str(repository.path), "log"]
    git = ["git", "-C", str(repository.path), "log", "--raw"]
    return [
        (seconds(lambda: quietly(niwfctl)), seconds(lambda: quietly(git))) for _ in range(rounds)
    ]


def storage(folder: Path) -> dict[str, int]:
    """Bytes of 20 capabilities with 3 revisions each, two of which change one basis of two."""
    repository = empty(folder / "storage")
    run, tensors = load(repository.trainings.checkpoint("pattern"))
    copies = 0
    for number in range(20):
        name = f"c{number}"
        shifted = {
            key: value + number if key.startswith("bases.") else value
            for key, value in tensors.items()
        }
        fresh = run.model_copy(update={"id": name, "name": name})
        save(repository.trainings.checkpoint(name), fresh, shifted)
        repository.commit([name], f"Add {name}")
        for revision in (1, 2):
            revise(repository, name, revision)
        copies += 3 * repository.capability(name).size
    used = size_of(repository)
    repository.git.plain("checkout", "--quiet", "--orphan", "short")
    repository.git.plain("commit", "--quiet", "-m", "Only the end")
    return {"niwfctl": used, "copies": copies, "after_gc": after_gc(repository)}


def revise(repository: Repository, name: str, revision: int) -> None:
    """A new version of a capability in which one basis of two is another."""
    from niwfctl.atlas import ObjectRef
    from niwfctl.tensors import as_bytes, read_tensors

    capability = repository.capability(name)
    entry = capability.regions[0]
    basis = read_tensors(repository.object_path(entry.bases[1].oid))
    changed = {key: value + revision for key, value in basis.items()}
    ref = ObjectRef.of(repository.store.put_tensors(as_bytes(changed)))
    revised = entry.model_copy(update={"bases": (entry.bases[0], ref)})
    new = capability.model_copy(update={"regions": (revised,)})
    record(repository, lambda atlas: atlas | {name: new}, f"Revise {name}")


def after_gc(repository: Repository) -> int:
    from niwfctl.repository.upkeep import collect

    others = repository.git.plain("for-each-ref", "--format=%(refname:short)", "refs/heads").split()
    for branch in others:
        if branch != "short":
            repository.git.plain("branch", "--quiet", "-D", branch)
    repository.git.plain("reflog", "expire", "--expire=now", "--all")
    collect(repository, 0.0, False)
    return size_of(repository)


def size_of(repository: Repository) -> int:
    return sum(repository.store.size(oid) for oid in repository.store)


def ratio(pairs: list[tuple[float, float]]) -> dict[str, object]:
    ratios = [mine / other for mine, other in pairs]
    return {"ratio": statistics.median(ratios), "rounds": ratios, "seconds": pairs}


def quietly(command: list[str]) -> None:
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
