"""The sequences of tasks, and where their rows come from."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from common import HELD_OUT, LONGEST, MEASURED
from transformers import PreTrainedTokenizerBase

from niwfctl.backbone.prompts import encode
from niwfctl.records import Example
from niwfctl.training.data import read_examples
from rivals.classification import library_tasks, read_task, write_task
from rivals.protocol import Task

SCRIPTS = Path(__file__).parent.parent.parent / "examples"
CLASSES = "classes"
FIVE = ("instruct", "code", "shell", "stdlib-code", "stdlib-explain")
SEQUENCES: dict[str, tuple[str, ...]] = {
    "two": ("instruct", "code"),  # the paper's, on a small scale
    "five": FIVE,
    "five-reversed": FIVE[::-1],
    "library": ("stdlib-explain", "stdlib-code"),
    CLASSES: ("package", "returns", "raises"),
}
WITHOUT_DATA = ["library", CLASSES]  # made from Python's own library
LIBRARY = "stdlib-"  # tasks that examples/stdlib_data.py makes from Python's own library


class Streams:
    """Reads tasks.

    Attributes:
        sequences: names of the tasks of each sequence.
    """

    def __init__(self, data: Path | None, scratch: Path, classes: Path | None = None) -> None:
        """
        Args:
            data: folder with TASK.jsonl files; the last 200 rows of each are held out. None if
                only tasks of the library are asked for.
            scratch: folder for data made from Python's own library.
            classes: folder with classification tasks, a folder each; made by default.
        """
        self._data, self._scratch, self._classes = data, scratch, classes
        self.sequences = dict(SEQUENCES)
        if classes:
            folders = sorted(path.name for path in classes.iterdir() if path.is_dir())
            self.sequences[CLASSES] = tuple(folders)

    def tasks(self, sequence: str, tokenizer: PreTrainedTokenizerBase) -> list[Task]:
        """The tasks of a sequence, in order, no row longer than LONGEST tokens."""
        read = self._class_rows if sequence == CLASSES else self._rows
        return [_task(name, *read(name), tokenizer) for name in self.sequences[sequence]]

    def _rows(self, name: str) -> tuple[list[Example], list[Example]]:
        if name.startswith(LIBRARY):
            kind, folder = name.removeprefix(LIBRARY), self._library()
            return tuple(
                read_examples([str(folder / f"{kind}{part}.jsonl")]) for part in ("", ".heldout")
            )
        examples = read_examples([str(self._data / f"{name}.jsonl")])
        return examples[:-HELD_OUT], examples[-HELD_OUT:]

    def _class_rows(self, name: str) -> tuple[list[Example], list[Example]]:
        if self._classes:
            return read_task(self._classes / name)
        folder = self._scratch / CLASSES
        if not folder.is_dir():
            for task, pairs in library_tasks(library_functions()).items():
                write_task(folder / task, pairs, HELD_OUT)
        return read_task(folder / name)

    def _library(self) -> Path:
        folder = self._scratch / "stdlib"
        if not folder.is_dir():
            script = [sys.executable, str(SCRIPTS / "stdlib_data.py"), str(folder)]
            subprocess.run(script, check=True, stdout=subprocess.DEVNULL)
        return folder


def library_functions() -> list:
    """The documented functions of Python's own library, always in the same order."""
    sys.path.insert(0, str(SCRIPTS))
    from stdlib_data import functions_in_order

    return functions_in_order(seed=0)


def _task(
    name: str,
    learned: Sequence[Example],
    held_out: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
) -> Task:
    """The last MEASURED rows that are not held out are for validation."""
    training, test = (
        [row for row in (encode(tokenizer, one) for one in examples) if len(row) <= LONGEST]
        for examples in (learned, held_out)
    )
    return Task(name, training[:-MEASURED], training[-MEASURED:], test[:MEASURED])
