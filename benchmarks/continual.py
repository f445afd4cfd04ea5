"""Learning tasks one after another: niwfctl, the paper's own system and its rivals, in one run.

    python benchmarks/continual.py DATA_DIR RESULTS_DIR [--quick | --full]

DATA_DIR holds TASK.jsonl files; the last 200 rows of each are held out. RESULTS_DIR keeps a line
for every commit of every method; a run that is started again goes on where it stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common import embedded, write_results
from continual_plots import draw
from continual_tables import report
from rivals.protocol import Setting
from rivals.registry import METHODS
from rivals.results import Key, Results, code_commit
from rivals.run import run
from rivals.streams import SEQUENCES, Streams

from niwfctl.training.run import TrainingOptions

ABLATIONS = ("penalty-unlocked",)
RIVALS = [name for name in METHODS if name not in ABLATIONS]
SIZES: dict[str, dict[str, list]] = {
    "quick": {"sequences": ["two"], "seeds": [0], "methods": RIVALS, "steps": [40]},
    "usual": {"sequences": ["two", "five"], "seeds": [0], "methods": RIVALS, "steps": [60]},
    "full": {
        "sequences": list(SEQUENCES),
        "seeds": [0, 1, 2],
        "methods": list(METHODS),
        "steps": [100],
    },
}


def main() -> None:
    given = arguments()
    if not given.table:
        results = Results(given.results, code_commit())
        streams = Streams(given.data, given.results, given.classes)
        tokenizer = embedded().tokenizer
        for sequence in given.sequences:
            tasks = streams.tasks(sequence, tokenizer)
            for seed in given.seeds:
                for method in given.methods:
                    key = Key(method, sequence, seed, given.steps)
                    setting = setting_of(key, streams)
                    run(key, METHODS[method], setting, tasks, results, given.lock)
    results = Results(given.results)
    found, text = report(results.records)
    draw(results.records)
    write_results("continual", found, text)


def setting_of(key: Key, streams: Streams) -> Setting:
    """What a run shares with all others of its sequence, seed and steps."""
    options = TrainingOptions(steps=key.steps, seed=key.seed)
    return Setting(embedded, options, streams.sequences[key.sequence])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with TASK.jsonl files")
    parser.add_argument("results", type=Path, help="folder for results, of one commit each")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_const", const="quick", dest="size")
    size.add_argument("--full", action="store_const", const="full", dest="size")
    parser.add_argument("--sequences", nargs="+", choices=SEQUENCES)
    parser.add_argument("--methods", nargs="+", choices=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--steps", type=int, help="of 8 rows, for each task")
    parser.add_argument("--classes", type=Path, help="folder of TASK/train.json and TASK/test.json")
    parser.add_argument("--lock", type=Path, help="file that is locked while anything is computed")
    parser.add_argument("--table", action="store_true", help="only make tables of what is there")
    given = parser.parse_args()
    for name, value in SIZES[given.size or "usual"].items():
        if getattr(given, name) is None:
            setattr(given, name, value[0] if name == "steps" else value)
    return given


if __name__ == "__main__":
    main()
