"""Files of records, and hub datasets."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from glob import escape, glob
from pathlib import Path

from niwfctl.errors import DataError
from niwfctl.several import Source
from niwfctl.training.layouts import LAYOUTS

_LONGEST_FIELD = 2**31 - 1  # of CSV, the most any system allows; overlong rows are found by tokens
_DELIMITERS = ",;\t"
_KEPT = "\ud800"  # set before indentation, which `csv` would skip; no file in UTF-8 can hold it
_PACKED = ".gz"
_POINTER = "version https://git-lfs"
_HUB_NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::(.+))?")
_OBJECTS_ON_LINES = re.compile(r"\s*\{.*\}[ \t\r]*\n\s*\{")

Records = Iterator[tuple[str, object]]  # each with its origin


def expanded(sources: Iterable[Source]) -> list[Source]:
    """The sources, with the data files, by name, of folders and patterns such as `data/*.jsonl`.

    Hidden files are left out, and what no reader is for.

    Raises:
        DataError: a folder holds no data file, or none matches a pattern.
    """
    return [
        file
        for one in sources
        for file in (_files(str(one)) if isinstance(one, str | Path) else [one])
    ]


def _files(source: str) -> list[str]:
    if os.path.isdir(source):
        lack, found = f"the folder {source} holds", glob(os.path.join(escape(source), "*"))
    elif os.path.exists(source) or not (found := glob(source, recursive=True)):
        return [source]
    else:
        lack = f"the pattern {source} matches"
    if files := sorted({one for one in found if os.path.isfile(one) and reader_of(one)}):
        return files
    raise DataError(f"{lack} no data file: expected some of {SUFFIXES}")


def reader_of(source: str) -> Callable[[str], Records] | None:
    """What reads a file of this name; None if nothing does."""
    name = source.lower()
    plain = name.removesuffix(_PACKED)
    reader = _READERS.get(os.path.splitext(plain)[1])
    return None if reader is _parquet and plain != name else reader  # it is packed by itself


def records(source: str) -> Records:
    """The records of a file, or of a hub dataset as `owner/name:split`.

    Raises:
        DataError: there is no such source, or it is not what its suffix says.
        OSError: it cannot be read.
    """
    if os.path.isfile(source):
        if reader := reader_of(source):
            return reader(source)
        raise DataError(f"{source} has an unknown suffix: expected one of {SUFFIXES}")
    if os.path.exists(source):
        raise DataError(f"{source} is not a file: name the data files themselves")
    hub = _HUB_NAME.fullmatch(source)
    if hub and not reader_of(hub[1]):
        return _hub(source, hub[1], hub[2] or "train")
    raise DataError(f"data file {source} does not exist: check its path")


def lines(source: str) -> Iterator[tuple[int, str]]:
    """The lines of a text file, packed by gzip or not, with their numbers, from 1 on.

    Raises:
        DataError: it is not UTF-8, or packed and damaged.
        OSError: it cannot be read.
    """
    with (gzip.open if source.lower().endswith(_PACKED) else open)(source, "rb") as file:
        for number, line in enumerate(_unpacked(source, file), 1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise DataError(f"{source}:{number} is not UTF-8: save the file as UTF-8") from None


def _unpacked(source: str, file: Iterable[bytes]) -> Iterator[bytes]:
    try:
        yield from file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{source} is no whole gzip file ({error}): write it again") from None


def _jsonl(source: str) -> Records:
    for number, line in lines(source):
        if text := line.rstrip():
            yield f"{source}:{number}", _parse(text, source, number)


def _json(source: str) -> Records:
    text = "".join(line for _, line in lines(source)).rstrip()
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
    first = next((line for _, line in lines(source) if line.strip()), "")
    delimiter = _delimiter(first, delimiter)
    unquoted = re.sub('"[^"]*"', "", first)
    spaced = unquoted.count(f"{delimiter} ") == unquoted.count(delimiter)
    indent = re.compile(rf'(^|{delimiter} )(?= +[^ "])')  # what `spaced` does not skip
    rows = csv.reader(
        (indent.sub(rf"\1{_KEPT}", line) if spaced else line for _, line in lines(source)),
        delimiter=delimiter,
        skipinitialspace=spaced,
        strict=True,
    )
    header: list[str] = []
    origin = f"{source}:1"
    try:
        for row in rows:
            row = [field.replace(_KEPT, "") for field in row]
            if row and header:
                if len(row) != len(header):
                    raise csv.Error(f"{len(row)} fields where the header has {len(header)}")
                yield origin, dict(zip(header, row, strict=True))
            header = header or _named([name.lstrip(" ") for name in row] if spaced else row)
            origin = f"{source}:{rows.line_num + 1}"
    except csv.Error as error:
        raise DataError(
            f"{origin} is not CSV ({error}): put a field that holds delimiters, quotes or line "
            "breaks in quotes, and double the quotes inside it"
        ) from None


def _delimiter(first: str, usual: str) -> str:
    """What delimits a CSV file; spreadsheets take others in countries with decimal commas.

    It is the first that finds a layout in the header, else the one that finds most columns.
    """
    headers = {one: _header(first, one) for one in (usual, *_DELIMITERS)}
    found = (one for one, header in headers.items() if _has_layout(_plain(header)))
    return next(found, max(headers, key=lambda one: len(headers[one])))


def _header(first: str, delimiter: str) -> list[str]:
    with suppress(csv.Error):
        return next(csv.reader([first], delimiter=delimiter, skipinitialspace=True), [])
    return []


def _named(header: list[str]) -> list[str]:
    """The columns of a CSV file, by the names they have here if only case and spaces differ."""
    plain = _plain(header)
    distinct = len(set(plain)) == len(plain)
    return plain if distinct and _has_layout(plain) and not _has_layout(header) else header


def _plain(header: list[str]) -> list[str]:
    return [name.strip().lower() for name in header]


def _has_layout(columns: list[str]) -> bool:
    return any(layout <= set(columns) for layout in LAYOUTS)


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
SUFFIXES = f"{', '.join(_READERS)}, or of text with {_PACKED} after it"
