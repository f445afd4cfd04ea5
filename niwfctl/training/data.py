"""Training examples: read from files or the hub, split and hashed."""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

from niwfctl.errors import DataError
from niwfctl.records import Example, Message
from niwfctl.several import Source, Sources, several, sources_of
from niwfctl.training.files import expanded, lines, records
from niwfctl.training.layouts import ACCEPTED, Answers, answers_of
from niwfctl.training.processes import leads

logger = logging.getLogger(__name__)

NAMED = 5  # records in a message, at most
FEW_HELD_OUT = 8  # prompts; what fewer say may be chance
MOST_HELD_OUT = 256  # rows; more would take longer and hardly change the perplexity
_Row = TypeVar("_Row")


@dataclass(frozen=True)
class Reading:
    """What was read.

    Attributes:
        empty: how many records were left out, an answer of theirs being empty.
    """

    examples: list[Example]
    empty: int


def read_examples(sources: Sources, skip_empty: bool = False) -> list[Example]:
    """The examples that `read` finds."""
    return read(sources, skip_empty).examples


def read(sources: Sources, skip_empty: bool = False) -> Reading:
    """Reads every source, in order.

    Args:
        sources: paths of .json, .jsonl, .ndjson, .csv, .tsv or .parquet files (all but the last
            also with .gz after it), folders of such files, patterns such as `data/*.jsonl`, or
            hub datasets as `owner/name:split`, the split being `train` when left out. Also records,
            such as the rows of a `datasets.Dataset`, and examples.
        skip_empty: leave records out in which an answer is empty, instead of refusing them.

    Raises:
        DataError: a source cannot be read, or a record in it is not an example.
    """
    if not (given := expanded(sources_of(sources))):
        raise DataError("no data is given: name at least one file or hub dataset")
    found = [record for index, one in enumerate(given) for record in _records(index, one)]
    empty = [record for record in found if record.empty]
    if empty and (len(empty) == len(found) or not skip_empty):
        raise DataError(_of_empty(empty, len(found)))
    _tell_of_unasked(found)
    return Reading([example for record in found for example in record.examples], len(empty))


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
    together = _kept_together(examples)
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


def share_to_hold_out(examples: Sequence[Example], share: float) -> float:
    """The share of prompts to hold out where none is asked for.

    One or two held-out prompts tell little, and the radius of a region is a quantile over them, so
    of few prompts it is more: a fifth, up to FEW_HELD_OUT.

    Args:
        share: the least.
    """
    different = len(set(_kept_together(examples)))
    few = min(FEW_HELD_OUT, different // 5)
    return max(share, round(few / max(different, 1), 4))


def repeated(training: Iterable[Example], held_out: Sequence[Example]) -> int:
    """How many held-out examples come from records whose first prompt is learned from, too."""
    learned = set(_prompts_of(training))
    return sum(prompt in learned for prompt in _prompts_of(held_out))


def _kept_together(examples: Sequence[Example]) -> list[Hashable]:
    """For each example, what it shares with those that stay on its side of a split."""
    together = _prompts_of(examples)
    return together if len(set(together)) > 1 else _contents_of(examples)


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


def _records(index: int, source: Source) -> list[Answers]:
    if isinstance(source, str | Path):
        return _read(str(source))
    origin = f"record {index}"
    if isinstance(source, Example):
        named = source if source.origin else replace(source, origin=origin)
        return [Answers(named.origin, [named])]
    return [answers_of(origin, source)]


def _read(source: str) -> list[Answers]:
    try:
        found = [answers_of(origin, record) for origin, record in records(source)]
    except OSError as error:
        raise DataError(f"{source} cannot be read: {error.strerror or error}") from None
    if not found:
        raise DataError(f"{source} holds no records: {ACCEPTED} in at least one")
    return found


def _of_empty(empty: Sequence[Answers], count: int) -> str:
    """Says of which records, of so many, an answer is empty."""
    if len(empty) == count:
        return (
            f"{empty[0].origin} {empty[0].empty}, as has every record: write what is to be learned"
        )
    way = "leave the record out, as `train` and `import` do with --skip-empty"
    if len(empty) == 1:
        return f"{empty[0].origin} {empty[0].empty}: write one, or {way}"
    named = [record.origin for record in empty[:NAMED]]
    more = f" and {len(empty) - NAMED} more" if len(empty) > NAMED else ""
    return (
        f"{len(empty)} of {count} records have an empty answer ({', '.join(named)}{more}): write "
        f"one, or {way}"
    )


def _tell_of_unasked(read: Sequence[Answers]) -> None:
    """Warns of what is not learned although nothing says so."""
    unasked = [record.origin for record in read if record.unasked]
    if unasked and leads():
        logger.warning(
            "%d of %d records, the first being %s, begin with a turn of the assistant: it has no "
            "prompt, so it is read but not learned; give it a weight of 0 to say so yourself",
            len(unasked),
            len(read),
            unasked[0],
        )


def _prompts(source: str) -> list[Example]:
    try:
        examples = [
            Example((Message("user", line.strip()),), "", f"{source}:{number}")
            for number, line in lines(source)
            if line.strip()
        ]
    except OSError as error:
        raise DataError(f"{source} cannot be read: {error.strerror or error}") from None
    if not examples:
        raise DataError(f"{source} holds no prompts: expected text, one prompt per line")
    return examples
