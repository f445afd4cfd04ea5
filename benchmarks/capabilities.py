"""Real capabilities on the embedded backbone, for benchmarks that need them.

A folder given again is continued: what is committed there is not retrained.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from common import BROAD, HELD_OUT, LONGEST, MEASURED, data_folder

from niwfctl.records import Example
from niwfctl.repository import Repository
from niwfctl.repository.commit import RoutingOptions
from niwfctl.training.data import read_examples
from niwfctl.training.loop import Progress
from niwfctl.training.run import TrainingOptions

VALIDATION = 64  # rows before the held-out ones, for tuning


def arguments(description: str) -> argparse.ArgumentParser:
    """The options that these benchmarks share."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("data", type=data_folder, help="folder with TASK.jsonl files")
    parser.add_argument("folder", type=Path, help="where the repository is, or will be")
    parser.add_argument("--tasks", nargs="+", default=["code", "shell", "instruct"])
    parser.add_argument("--steps", type=int, default=60, help="of 8 rows, for each capability")
    parser.add_argument("--rows", type=int, default=MEASURED, help="held out, to measure on")
    return parser


def repository_at(folder: Path) -> Repository:
    """The repository in a folder, made if there is none."""
    path = folder / "repository"
    return Repository.open(path) if path.exists() else Repository.init(path)


def trained(repository: Repository, name: str, file: Path, options: TrainingOptions) -> None:
    """Trains and commits a capability unless it exists."""
    if name in repository.atlas():
        return
    rows = [line for line in file.read_text().splitlines() if line]
    learned = repository.path.parent / f"{name}.train.jsonl"
    learned.write_text("\n".join(rows[: -HELD_OUT - VALIDATION]) + "\n")
    options = options.model_copy(
        update={
            "max_length": LONGEST,
            "skip_long": True,
            "val_split": 0.02,
            "general": name in BROAD,
        }
    )
    repository.train(name, [learned], options, report=_report(name))
    repository.commit([name], f"Train {name}", RoutingOptions(accept_shadow=True))


def held_out(repository: Repository, file: Path, rows: int) -> list[Example]:
    """The first short rows of the held-out ones."""
    return short(repository, read_examples([str(file)])[-HELD_OUT:])[:rows]


def validation(repository: Repository, file: Path) -> list[Example]:
    """Rows that are neither learned from nor held out."""
    rows = read_examples([str(file)])[-HELD_OUT - VALIDATION : -HELD_OUT]
    return short(repository, rows)


def short(repository: Repository, examples: Sequence[Example]) -> list[Example]:
    """Those of at most LONGEST tokens."""
    from transformers import AutoTokenizer

    from niwfctl.backbone.prompts import encode
    from niwfctl.repository.backbone import pinned_source

    tokenizer = AutoTokenizer.from_pretrained(pinned_source(repository).folder)
    return [one for one in examples if len(encode(tokenizer, one)) <= LONGEST]


def _report(name: str):
    def report(now: Progress) -> None:
        if now.stage != "training" or now.step % 20 == 0:
            print(f"{name}: {now.stage} {now.step}/{now.steps}", flush=True)

    return report
