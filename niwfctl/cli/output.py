"""The one place that writes to the terminal: for people, or as JSON."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from niwfstore import output_file
from rich.console import Console
from rich.text import Text

from niwfctl.errors import StorageError, UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

SIGNS = {"added": "+", "changed": "~", "removed": "-", "extended": "^"}  # of a change


class StandardOutput(io.TextIOWrapper):
    """Standard output that writes `?` for what its encoding lacks, and whose errors are its own.

    So nobody takes an error of the report for one of the work that it reports.
    """

    @classmethod
    def take(cls) -> None:
        """Puts one in the place of Python's, which is None where the descriptor is closed."""
        if sys.stdout is None:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 1)  # to write there is an error still
            sys.stdout = sys.__stdout__ = os.fdopen(1, "w")
        was = sys.stdout
        settings = {"line_buffering": was.line_buffering, "write_through": was.write_through}
        sys.stdout = cls(was.buffer, was.encoding, "replace", **settings)

    def write(self, text: str) -> int:
        """Writes text; raises StorageError, or BrokenPipeError where nobody reads any more."""
        with self._reporting():
            return super().write(text)

    def flush(self) -> None:
        """Writes what is held back; raises as `write`."""
        with self._reporting():
            super().flush()

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())  # where the rest may go
            raise StorageError(
                f"the report could not be written to standard output ({error.strerror}), though "
                "all else that the command does is done"
            ) from error


def put(text: Text) -> None:
    """Writes a line of styled text; where nobody sees the styles, without what they cost."""
    if out.is_terminal:
        out.print(text)
    else:
        out.file.write(f"{text.plain}\n")


@contextmanager
def paged() -> Iterator[None]:
    """A block whose output a pager shows, where it goes to a terminal."""
    if not out.is_terminal:
        yield
        return
    # As git has it: less shows styles, and ends by itself where all is on one screen.
    os.environ.setdefault("LESS", "FRX")
    with out.pager(styles=True):
        yield


def emit_json(value: object) -> None:
    """Writes one JSON document to standard output, in UTF-8; docs/json.md describes each."""
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # `\udc80` is JSON, too
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def require_file(
    file: Path, option: str = "--plot", suffixes: Sequence[str] = (".png", ".svg")
) -> None:
    """Asks that the file that an option names can be written.

    Raises:
        UsageError: it has none of the suffixes, if any are asked for, is a folder, or its folder
            is not there.
    """
    if suffixes and file.suffix.lower() not in suffixes:
        expected = " or ".join(suffixes)
        raise UsageError(f"{option} {file.name}: expected a name that ends in {expected}")
    if file.is_dir():
        raise UsageError(f"{option} {file} is a folder: give a file")
    if not file.parent.is_dir():
        raise UsageError(f"{option} {file}: there is no folder {file.parent}")


def save_plot(figure: Figure, file: Path) -> None:
    """Writes a figure of matplotlib in the form that the name's suffix says."""
    with output_file(file) as output:
        figure.savefig(output, format=file.suffix[1:].lower())


def size(count: int) -> str:
    """Bytes for people: `7.4 MB`."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def number(value: float | None) -> str:
    """A perplexity or loss for people; `-` when there is none yet."""
    return "-" if value is None else f"{value:.4g}" if value >= 1000 else f"{value:.3f}"
