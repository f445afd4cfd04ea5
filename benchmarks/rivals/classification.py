"""Classification tasks in the layout of the standard continual-learning benchmark.

A task is a folder with train.json and test.json, each a list of {"sentence": …, "label": …}.
"""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from niwfctl.errors import DataError
from niwfctl.records import Example, Message

LABELS = 5  # of the package task
QUESTION = "{sentence}\n\nAnswer with one of: {labels}."


def read_task(folder: Path) -> tuple[list[Example], list[Example]]:
    """(training, test) examples of one task; every prompt names all labels.

    Raises:
        DataError: a file is missing or of another layout, or has a label that training lacks.
    """
    training, test = (read_records(folder / f"{part}.json") for part in ("train", "test"))
    labels = sorted({label for _, label in training})
    for index, (_, label) in enumerate(test):
        if label not in labels:
            raise DataError(
                f"{folder / 'test.json'}[{index}] has the label {label!r}, and train.json has only "
                f"{', '.join(labels)}: fix one of them"
            )
    return _examples(training, labels, folder), _examples(test, labels, folder)


def read_records(file: Path) -> list[tuple[str, str]]:
    """(sentence, label) of every record.

    Raises:
        DataError: the file cannot be read, or is not a list of {"sentence", "label"}.
    """
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read as JSON ({error}): check the file") from error
    if not isinstance(content, list) or not content:
        raise DataError(f'{file} is no list of {{"sentence", "label"}}: expected one or more')
    return [_record(record, f"{file}[{index}]") for index, record in enumerate(content)]


def _record(record: object, origin: str) -> tuple[str, str]:
    if isinstance(record, dict):
        pair = record.get("sentence"), record.get("label")
        if all(isinstance(text, str) and text.strip() for text in pair):
            return pair
    raise DataError(f'{origin} is no record: expected texts for "sentence" and "label"')


def _examples(records: Iterable[tuple[str, str]], labels: list[str], folder: Path) -> list[Example]:
    return [
        Example(
            (Message("user", QUESTION.format(sentence=sentence, labels=", ".join(labels))),),
            label,
            f"{folder.name}[{index}]",
        )
        for index, (sentence, label) in enumerate(records)
    ]


def library_tasks(functions: list) -> dict[str, list[tuple[str, str]]]:
    """(sentence, label) pairs of three tasks about functions of Python's own library, by name.

    `package`: which of five packages it is from, by its docstring. `returns`: whether it returns a
    value, `raises`: whether it raises an error, both by its source: two tasks with one kind of
    prompt.

    Args:
        functions: as `examples/stdlib_data.py` finds them, in the order to split by.
    """
    packages = Counter(_package(function) for function in functions)
    common = {name for name, _ in packages.most_common(LABELS)}
    return {
        "package": [(f.summary, _package(f)) for f in functions if _package(f) in common],
        "returns": [(_source(f), _yes(_has(f, _returns))) for f in functions],
        "raises": [(_source(f), _yes(_has(f, _raises))) for f in functions],
    }


def write_task(folder: Path, pairs: Sequence[tuple[str, str]], held_out: int) -> None:
    """Writes (sentence, label) pairs in that layout, the first `held_out` of them as test.json."""
    records = [{"sentence": sentence, "label": label} for sentence, label in pairs]
    folder.mkdir(parents=True, exist_ok=True)
    for part, kept in (("test", records[:held_out]), ("train", records[held_out:])):
        (folder / f"{part}.json").write_text(json.dumps(kept, ensure_ascii=False), "utf-8")


def _package(function) -> str:
    return function.name.partition(":")[0].partition(".")[0]


def _source(function) -> str:
    return f"{function.head}\n{function.body}"


def _yes(fact: bool) -> str:
    return "yes" if fact else "no"


def _has(function, kind) -> bool:
    return any(kind(node) for node in ast.walk(ast.parse(_source(function))))


def _returns(node: ast.AST) -> bool:
    return isinstance(node, ast.Return) and node.value is not None


def _raises(node: ast.AST) -> bool:
    return isinstance(node, ast.Raise)
