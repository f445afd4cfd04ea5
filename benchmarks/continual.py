"""Learning tasks one after another: niwfctl, the paper's own system and its rivals, in one run.

    python benchmarks/continual.py RESULTS_DIR [--data DATA_DIR] [--quick | --full]

DATA_DIR holds code.jsonl, instruct.jsonl and shell.jsonl; the last 200 rows of each are held out.
Without it there are only the sequences made from Python's own library. RESULTS_DIR keeps a line for
every commit of every method; a run that is started again resumes.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from common import RESULTS, data_folder, write_results
from continual_plots import draw
from continual_tables import reports
from rivals.protocol import Setting
from rivals.registry import METHODS
from rivals.results import Key, MixedResults, Origin, Results, UncommittedCode, code_commit
from rivals.run import Turns, run
from rivals.streams import CLASSES, SEQUENCES, WITHOUT_DATA, Streams

from niwfctl.backbone.load import load, resolve
from niwfctl.errors import NiwfError
from niwfctl.training.run import TrainingOptions

ABLATIONS = ("penalty-unlocked",)
RIVALS = [name for name in METHODS if name not in ABLATIONS]
SIZES: dict[str, dict[str, object]] = {
    "quick": {"sequences": ["two"], "seeds": [0], "methods": RIVALS, "steps": 40},
    "usual": {"sequences": ["two", "five"], "seeds": [0], "methods": RIVALS, "steps": 60},
    "full": {
        "sequences": list(SEQUENCES),
        "seeds": [0, 1, 2],
        "methods": list(METHODS),
        "steps": 100,
    },
}


def main() -> None:
    given = arguments()
    try:
        if not given.table:
            measure(given)
        found = reports(Results(given.results).records)
    except (MixedResults, UncommittedCode, NiwfError) as error:
        sys.exit(str(error))
    for one in found:
        write_results(one.name, one.figures, one.text, "continual")
        draw(one, RESULTS / f"{one.name}.svg")


def measure(given: argparse.Namespace) -> None:
    """Runs what has not been run yet."""
    source = resolve(given.model)
    backbone = partial(load, source)
    results = Results(given.results, Origin(code_commit(), source.identity))
    streams = Streams(given.data, given.results, given.classes)
    first, turns = backbone(), Turns(given.lock, given.turn)
    tokenizer, width = first.tokenizer, first.width
    del first
    for sequence in given.sequences:
        tasks = streams.tasks(sequence, tokenizer)
        for seed in given.seeds:
            options = TrainingOptions(steps=given.steps, seed=seed).for_width(width)
            setting = Setting(backbone, options, streams.sequences[sequence])
            for method in given.methods:
                key = Key(method, sequence, seed, given.steps)
                run(key, METHODS[method], setting, tasks, results, turns)
    turns.give()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="folder of one commit's results")
    parser.add_argument("--data", type=data_folder, help="folder with TASK.jsonl files")
    parser.add_argument("--model", default="smollm2", help="the backbone, as for `niwfctl init`")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_const", const="quick", dest="size")
    size.add_argument("--full", action="store_const", const="full", dest="size")
    parser.add_argument("--sequences", nargs="+", choices=SEQUENCES)
    parser.add_argument("--methods", nargs="+", choices=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--steps", type=int, help="of 8 rows, for each task")
    parser.add_argument("--classes", type=Path, help="folder of TASK/{train,test}.json")
    parser.add_argument("--lock", type=Path, help="file to lock while computing, to take turns")
    parser.add_argument("--turn", type=float, default=120.0, help="seconds of a turn")
    parser.add_argument("--table", action="store_true", help="only make tables of existing results")
    given = parser.parse_args()
    for name, value in SIZES[given.size or "usual"].items():
        if getattr(given, name) is None:
            setattr(given, name, value)
    if given.data is None:
        given.sequences = [name for name in given.sequences if name in WITHOUT_DATA] or WITHOUT_DATA
    if given.classes and CLASSES not in given.sequences:
        given.sequences = [*given.sequences, CLASSES]
    return given


if __name__ == "__main__":
    main()
