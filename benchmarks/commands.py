"""Start-up of commands that need no model, over the imports they cannot do without.

python benchmarks/commands.py [--capabilities 20] [--rounds 9]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import markdown, write_results

from niwfctl.repository import Repository
from niwfctl.repository.commit import RoutingOptions
from niwfctl.training.checkpoint import load, save
from niwfctl.training.run import TrainingOptions

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from tiny import save_tiny, write_data

NIWFCTL = str(Path(sys.executable).with_name("niwfctl"))
REFERENCE = [sys.executable, "-c", "import typer, rich, git"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--capabilities", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NIWFCTL_CACHE"] = f"{folder}/cache"
        repository = many(Path(folder), arguments.capabilities)
        commands = {name: [NIWFCTL, "-C", str(repository), name] for name in ("status", "log")}
        commands["show"] = [NIWFCTL, "-C", str(repository), "show", "c0"]
        ratios: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(arguments.rounds):
            reference = seconds(REFERENCE)
            for name, command in commands.items():
                ratios[name].append(seconds(command) / reference)
    medians = {name: statistics.median(found) for name, found in ratios.items()}
    table = markdown(
        ["command", "times `python -c 'import typer, rich, git'`"],
        [[name, f"{ratio:.2f}"] for name, ratio in medians.items()],
    )
    table += f"\n\nA repository of {arguments.capabilities} capabilities, one commit each."
    write_results("commands", {"ratio": medians, "rounds": ratios}, table)


def many(folder: Path, count: int) -> Path:
    """A repository with this many capabilities, one commit each; all but one are copies."""
    backbone = save_tiny(folder / "backbone")
    data = write_data(folder / "data.jsonl")
    repository = Repository.init(folder / "repository", model=str(backbone), dim=8)
    repository.train("c0", [data], TrainingOptions(steps=1, rank=2, val_split=0.2))
    run, tensors = load(repository.trainings.checkpoint("c0"))
    for number in range(count):
        name = f"c{number}"
        copy = run.model_copy(update={"name": name, "id": name})
        save(repository.trainings.checkpoint(name), copy, tensors)
        repository.commit([name], f"Add {name}", RoutingOptions(accept_shadow=True))
    return repository.path


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
