"""Training examples: read from files or the hub, split and hashed."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

from niwfctl.errors import DataError
from niwfctl.records import Example, Message
from niwfctl.several import Source, Sources, several, sources_of
from niwfctl.training.layouts import ACCEPTED, examples_of

MOST_HELD_OUT = 256  # rows; more would take longer and hardly change the perplexity
_LONGEST_FIELD = 2**31 - 1  # of CSV, the most any system allows; overlong rows are found by tokens
_POINTER = "version https://git-lfs"
_Row = TypeVar("_Row")
_HUB_NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::(.+))?")
_OBJECTS_ON_LINES = re.compile(r"\s*\{.*\}[ \t\r]*\n\s*\{")

Records = Iterator[tuple[str, object]]  # each with its origin


def read_examples(sources: Sources) -> list[Example]:
    """Reads every source, in order.

    Args:
        sources: paths of .json, .jsonl, .ndjson, .csv, .tsv or .parquet files, or hub datasets
            as `owner/name:split`; the split is `train` when left out. Also records, such as the
            rows of a `datasets.Dataset`, and examples.

    Raises:
        DataError: a source cannot be read, or a record in it is not an example.
    """
    if not (given := sources_of(sources)):
        raise DataError("no data is given: name at least one file or hub dataset")
    return [example for index, one in enumerate(given) for example in _examples(index, one)]


def read_prompts(sources: Iterable[str | Path]) -> list[Example]:
    """Reads text files with one prompt per line, as examples without an answer.

    Raises:
        DataError: a file cannot be read, is not UTF-8, or has no prompt.
    """
    return [example for source in several(sources) for example in _prompts(source)]


def split(
    examples: Sequence[Example], share: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Splits examples into (training, held out), both in their given order.

    Prompts are drawn, with all their answers and, of a chat, everything that follows, so that
    nothing is measured that was memorized. If all records have the same prompt, whole records are.

    Args:
        examples: from at least two different records.
        share: of the different prompts to hold out, in (0, 1); each side gets at least one, and at
            most MOST_HELD_OUT rows are held out, unless a single prompt has more.
        seed: with the same examples, the same seed gives the same split.

    Raises:
        DataError: there are fewer than two different records, or the share is out of range.
    """
    if not 0 < share < 1:
        raise DataError(f"a share of {share} cannot be held out: give one between 0 and 1")
    together = _prompts_of(examples)
    if len(set(together)) < 2:
        together = _contents_of(examples)
    different = list(dict.fromkeys(together))
    if len(different) < 2:
        raise DataError(
            "at least 2 different records are needed, some to learn from and some to measure on: "
            f"the data holds {len(different)}, so add some"
        )
    count = min(max(round(share * len(different)), 1), len(different) - 1)
    draw = random.Random(seed)  # only its method random() is stable across Python versions
    drawn = sorted(different, key=lambda _: draw.random())[:count]
    rows = Counter(together)
    totals = accumulate(rows[one] for one in drawn)
    fitting = [one for one, total in zip(drawn, totals, strict=True) if total <= MOST_HELD_OUT]
    chosen = set(fitting or drawn[:1])
    held_out = [one in chosen for one in together]
    return (
        [example for example, held in zip(examples, held_out, strict=True) if not held],
        [example for example, held in zip(examples, held_out, strict=True) if held],
    )


def repeated(training: Iterable[Example], held_out: Sequence[Example]) -> int:
    """How many held-out examples come from records whose first prompt is learned from, too."""
    learned = set(_prompts_of(training))
    return sum(prompt in learned for prompt in _prompts_of(held_out))


def _prompts_of(examples: Iterable[Example]) -> list[Hashable]:
    """The first prompt of each example's record."""
    firsts: dict[str, Hashable] = {}
    return [firsts.setdefault(one.origin, one.messages) for one in examples]


def _contents_of(examples: Iterable[Example]) -> list[Hashable]:
    """All that each example's record holds."""
    contents: dict[str, tuple] = {}
    for one in examples:
        contents[one.origin] = (
            *contents.get(one.origin, ()),
            *(one.messages, one.answer, one.reasoning_content),
        )
    return [contents[one.origin] for one in examples]


def spread(rows: Sequence[_Row], most: int) -> list[_Row]:
    """At most `most` rows, evenly spaced, since rows come file by file and are often sorted."""
    count = min(len(rows), most)
    return [rows[index * len(rows) // count] for index in range(count)]


def data_hash(examples: Iterable[Example]) -> str:
    """`sha256:…` over the messages and answers, independent of where they were read from.

    What an assistant thought follows what it said, where the data tell it apart.
    """
    total = hashlib.sha256()
    for example in examples:
        messages = [
            [message.role, message.content, *_thought(message)] for message in example.messages
        ]
        line = json.dumps([messages, example.answer, *_thought(example)], separators=(",", ":"))
        total.update(f"{line}\n".encode())
    return f"sha256:{total.hexdigest()}"


def _thought(one: Message | Example) -> list[str]:
    return [] if one.reasoning_content is None else [one.reasoning_content]


def _examples(index: int, source: Source) -> list[Example]:
    if isinstance(source, str | Path):
        return _read(str(source))
    origin = f"record {index}"
    if isinstance(source, Example):
        return [source if source.origin else replace(source, origin=origin)]
    return examples_of(origin, source)


def _read(source: str) -> list[Example]:
    try:
        examples = [e for origin, record in _records(source) for e in examples_of(origin, record)]
    except OSError as error:
        raise DataError(f"{source} cannot be read: {error.strerror or error}") from None
    if not examples:
        raise DataError(f"{source} holds no records: {ACCEPTED} in at least one")
    return examples


def _prompts(source: str) -> list[Example]:
    try:
        examples = [
            Example((Message("user", line.strip()),), "", f"{source}:{number}")
            for number, line in _lines(source)
            if line.strip()
        ]
    except OSError as error:
        raise DataError(f"{source} cannot be read: {error.strerror or error}") from None
    if not examples:
        raise DataError(f"{source} holds no prompts: expected text, one prompt per line")
    return examples


def _records(source: str) -> Records:
    suffix = os.path.splitext(source)[1].lower()
    if os.path.isfile(source):
        if suffix in _READERS:
            return _READERS[suffix](source)
        raise DataError(f"{source} has an unknown suffix: expected one of {', '.join(_READERS)}")
    if os.path.exists(source):
        raise DataError(f"{source} is not a file: name the data files themselves")
    hub = _HUB_NAME.fullmatch(source)
    if hub and not hub[1].lower().endswith(tuple(_READERS)):
        return _hub(source, hub[1], hub[2] or "train")
    raise DataError(f"data file {source} does not exist: check its path")


def _lines(source: str) -> Iterator[tuple[int, str]]:
    with open(source, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise DataError(f"{source}:{number} is not UTF-8: save the file as UTF-8") from None


def _jsonl(source: str) -> Records:
    for number, line in _lines(source):
        if text := line.rstrip():
            yield f"{source}:{number}", _parse(text, source, number)


def _json(source: str) -> Records:
    text = "".join(line for _, line in _lines(source)).rstrip()
    if _OBJECTS_ON_LINES.match(text):
        yield from _jsonl(source)
    elif text:
        content = _parse(text, source, 1)
        if isinstance(content, dict) and isinstance(content.get("data"), list):
            content = content["data"]
        for index, record in enumerate(content if isinstance(content, list) else [content]):
            yield f"{source}[{index}]", record


def _parse(text: str, source: str, line: int) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if text.startswith(_POINTER):
            raise DataError(
                f"{source} is a Git LFS pointer in place of the data: get them with `git lfs pull "
                f"--include {source}`"
            ) from None
        line += error.lineno - 1
        reason = f"at column {error.colno} ({error.msg})"
    except (ValueError, RecursionError) as error:  # too many digits, or brackets too deep
        reason = f"that can be read ({error})"
    raise DataError(f"{source}:{line} is not JSON {reason}: fix that line or write the file again")


def _csv(source: str, delimiter: str) -> Records:
    csv.field_size_limit(_LONGEST_FIELD)
    rows = csv.reader((line for _, line in _lines(source)), delimiter=delimiter, strict=True)
    header: list[str] = []
    origin = f"{source}:1"
    try:
        for row in rows:
            if row and header:
                if len(row) != len(header):
                    raise csv.Error(f"{len(row)} fields where the header has {len(header)}")
                yield origin, dict(zip(header, row, strict=True))
            header = header or row
            origin = f"{source}:{rows.line_num + 1}"
    except csv.Error as error:
        raise DataError(
            f"{origin} is not CSV ({error}): put a field that holds delimiters, quotes or line "
            "breaks in quotes, and double the quotes inside it"
        ) from None


def _parquet(source: str) -> Records:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise DataError(f"{source} needs pyarrow to be read: `pip install pyarrow`") from None
    try:
        with ParquetFile(source) as file:
            rows = (row for batch in file.iter_batches() for row in batch.to_pylist())
            yield from ((f"{source} row {index}", row) for index, row in enumerate(rows))
    except (ArrowException, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{source} is not readable Parquet ({reason}): write it again") from None


def _hub(source: str, name: str, part: str) -> Records:
    try:
        from datasets import load_dataset
    except ImportError:
        raise DataError(
            f"{source} is not a file, and reading it as a hub dataset needs the datasets library: "
            "`pip install 'niwfctl[hub]'`"
        ) from None
    try:
        rows = enumerate(load_dataset(name, split=part))
        yield from ((f"{source} row {index}", row) for index, row in rows)
    except Exception as error:  # the library documents no common base class
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"{source} is not a file, and cannot be loaded as a hub dataset ({reason}): "
            "check its name and split"
        ) from None


_READERS: dict[str, Callable[[str], Records]] = {
    ".json": _json,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".csv": partial(_csv, delimiter=","),
    ".tsv": partial(_csv, delimiter="\t"),
    ".parquet": _parquet,
}
