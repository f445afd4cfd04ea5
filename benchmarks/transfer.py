"""What earlier capabilities bring to later ones of a stream of classifications: `--reuse auto`.

    python benchmarks/public_classes.py CLASSES
    python benchmarks/transfer.py CLASSES FOLDER [--steps 40] [--seeds 0]

Each task is trained and committed as by `train` and `commit`: alone, or with `--reuse auto`,
which gates the sealed bases of an earlier one where they help. Steps, test rows and the rows to
learn from are those of `benchmarks/continual.py`, but `train` holds out some of the latter and has
an order of its own. A FOLDER given again is continued.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from capabilities import repository_at, short
from common import LONGEST, MEASURED, markdown, write_results
from rivals.classification import read_task

from niwfctl.atlas import RegionEntry
from niwfctl.records import Example
from niwfctl.repository import Repository
from niwfctl.repository.commit import RoutingOptions
from niwfctl.repository.measure import Bench, Data, Subject, named, routed
from niwfctl.training.data import data_hash
from niwfctl.training.run import TrainingOptions

WAYS: dict[str, tuple[str, ...]] = {"alone": (), "--reuse auto": ("auto",)}
ANSWER = 8  # tokens at most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("classes", type=Path, help="folder of TASK/train.json and TASK/test.json")
    parser.add_argument("folder", type=Path, help="where the repositories are, or will be")
    parser.add_argument("--steps", type=int, default=40, help="of 8 rows, for each capability")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    given = parser.parse_args()
    tasks = sorted(path.parent.name for path in given.classes.glob("*/train.json"))
    if not tasks:
        parser.error(f"{given.classes} is no folder with TASK/train.json and TASK/test.json")
    results = [
        found
        for seed in given.seeds
        for way, reuse in WAYS.items()
        for found in stream(given, tasks, seed, way, reuse)
    ]
    write_results("transfer", {"steps": given.steps, "results": results}, table(results, given))


def stream(
    given: argparse.Namespace, tasks: Sequence[str], seed: int, way: str, reuse: tuple[str, ...]
) -> list[dict[str, object]]:
    """Learns all tasks one after another, then measures each on its test rows."""
    folder = given.folder / f"{way.split()[-1]}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    repository = repository_at(folder)
    options = TrainingOptions(
        steps=given.steps, seed=seed, reuse=reuse, max_length=LONGEST, skip_long=True
    )
    tested = {task: learned(repository, given.classes / task, options) for task in tasks}
    atlas, bench = repository.atlas(), Bench(repository)
    found = []
    for task, examples in tested.items():
        data = Data(tuple(examples), data_hash(examples))
        (entry,) = atlas[task].regions
        found.append(
            {
                "task": task,
                "seed": seed,
                "way": way,
                "reused": sorted({one.of for one in entry.run.reused}),
                "bytes": sum(ref.size for ref in entry.objects if ref.oid not in _reused(entry)),
                "told": accuracy(bench, named(task, atlas[task]), data),
                "auto": accuracy(bench, routed("HEAD", atlas), data),
            }
        )
        print(found[-1], flush=True)
    return found


def _reused(entry: RegionEntry) -> set[str]:
    return {one.oid for one in entry.run.reused}


def learned(repository: Repository, folder: Path, options: TrainingOptions) -> list[Example]:
    """Trains and commits a task unless it exists; returns its test rows."""
    name = folder.name
    training, test = (short(repository, examples) for examples in read_task(folder))
    if name not in repository.atlas():
        file = repository.path.parent / f"{name}.jsonl"
        rows = ({"prompt": one.messages[0].content, "completion": one.answer} for one in training)
        kept = list(rows)[:-MEASURED]
        file.write_text("".join(json.dumps(row) + "\n" for row in kept))
        repository.train(name, [file], options)
        repository.commit([name], f"Train {name}", RoutingOptions(accept_shadow=True))
    return test[:MEASURED]


def accuracy(bench: Bench, subject: Subject, data: Data) -> float:
    """Share of rows answered exactly."""
    return bench.measure(subject, data, exact_match=True, longest_answer=ANSWER).exact_match


def table(results: list[dict], given: argparse.Namespace) -> str:
    """Mean accuracies over seeds, for every task and for all."""
    tasks = list(dict.fromkeys(one["task"] for one in results))
    rows = []
    for way in WAYS:
        for told in ("told", "auto"):
            mine = [one for one in results if one["way"] == way]
            means = [statistics.mean(o[told] for o in mine if o["task"] == task) for task in tasks]
            size = statistics.mean(one["bytes"] for one in mine) / 1e6
            asked = "by name" if told == "told" else "`--auto`"
            figures = [f"{mean:.3f}" for mean in [*means, statistics.mean(means)]]
            rows.append([way, asked, *figures, f"{size:.2f}"])
    used = [f"{one['task']} ← {', '.join(one['reused'])}" for one in results if one["reused"]]
    return (
        f"{markdown(['trained', 'asked', *tasks, 'average', 'MB a task'], rows)}\n\n"
        f"Exact match on {MEASURED} test rows; {given.steps} steps of 8 rows; "
        f"seeds {', '.join(map(str, given.seeds))}. Reused: {'; '.join(used) or 'nothing'}."
    )


if __name__ == "__main__":
    main()
