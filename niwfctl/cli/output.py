"""The one place that writes to the terminal: for people, or as JSON."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, NoReturn

from niwfstore import output_file
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from niwfctl.errors import StorageError, UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

READER_GONE = 141  # what a shell says of a process that SIGPIPE ended
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_UPPER_CONTROL = re.compile("[\x7f-\x9f]")  # which JSON need not escape


def clean(text: str) -> str:
    """Text without what a terminal would obey: control characters, except line ends and tabs.

    Messages, names and answers come from whoever made a repository or a model.
    """
    return _CONTROL.sub("\ufffd", text)


def leave(descriptor: int) -> NoReturn:
    """Ends the command, since nobody reads a stream any more; /dev/null takes the rest.

    As an exception, unlike SIGPIPE, so that what the command still has to close is closed.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    raise SystemExit(READER_GONE)


def one_line(text: str) -> str:
    """Text without line ends, after which a pipeline would take what follows for a command."""
    return " ".join(text.splitlines())


class _Console(Console):
    """A console whose reader may go away, and that hands on no control characters of others."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Renders as rich does; only what rich itself says to the terminal is left as it is."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(clean(text), style)

    def on_broken_pipe(self) -> NoReturn:
        """Ends the command, with a code of its own rather than rich's 1."""
        leave(self.file.fileno())


out = _Console(highlight=False, soft_wrap=True, emoji=False)
err = _Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


class Warnings(logging.Handler):
    """Shows warnings as Python does where nothing else is set up, but by `err`."""

    def emit(self, record: logging.LogRecord) -> None:
        """Shows one, and the traceback of the error it tells of, if it does."""
        err.print(one_line(record.getMessage()), markup=False)
        if record.exc_info:
            trace = logging.Formatter().formatException(record.exc_info)
            # An error's words, which may be others', begin no line that a pipeline could obey.
            err.print(indent(trace, "| ", lambda line: True), markup=False)


SIGNS = {"added": "+", "changed": "~", "removed": "-", "extended": "^"}  # of a change


class StandardOutput(io.TextIOWrapper):
    """Standard output that writes `?` for characters its encoding lacks, with errors of its own.

    So a failure to report is never mistaken for a failure of the work.
    """

    @classmethod
    def take(cls) -> None:
        """Replaces Python's, which is None if the descriptor is closed."""
        if sys.stdout is None:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 1)  # read-only: writing still fails
            sys.stdout = sys.__stdout__ = os.fdopen(1, "w")
        was = sys.stdout
        settings = {"line_buffering": was.line_buffering, "write_through": was.write_through}
        sys.stdout = cls(was.buffer, was.encoding, "replace", **settings)

    def write(self, text: str) -> int:
        """Writes text; raises StorageError, or SystemExit if nobody reads it any more."""
        with self._reporting():
            return super().write(text)

    def flush(self) -> None:
        """Writes what is buffered; raises as `write` does."""
        with self._reporting():
            super().flush()

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno == errno.EPIPE:
                leave(self.fileno())
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())  # takes the rest
            raise StorageError(
                f"the report could not be written to standard output ({error.strerror}), but "
                "everything else the command does is done"
            ) from error


def put(text: Text) -> None:
    """Writes a line of styled text; plain, which is faster, if it is not for a terminal."""
    if out.is_terminal:
        out.print(text)
    else:
        out.file.write(f"{clean(text.plain)}\n")


@contextmanager
def paged() -> Iterator[None]:
    """A block whose output a pager shows, if it goes to a terminal."""
    if not out.is_terminal:
        yield
        return
    # As git sets it: less shows styles, and quits if everything fits on one screen.
    os.environ.setdefault("LESS", "FRX")
    with out.pager(styles=True):
        yield


def emit_json(value: object) -> None:
    """Writes one JSON document to standard output, in UTF-8; docs/json.md describes each."""
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # `\udc80` is JSON, too
    text = json.dumps(value, indent=2, ensure_ascii=False)
    text = _UPPER_CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    sys.stdout.write(f"{text}\n")


def require_file(
    file: Path, option: str = "--plot", suffixes: Sequence[str] = (".png", ".svg")
) -> None:
    """Checks that the file an option names can be written.

    Raises:
        UsageError: it has none of the suffixes, if there are any, is a folder, or its folder does
            not exist.
    """
    if suffixes and file.suffix.lower() not in suffixes:
        expected = " or ".join(suffixes)
        raise UsageError(f"{option} {file.name}: expected a name that ends in {expected}")
    if file.is_dir():
        raise UsageError(f"{option} {file} is a folder: give a file")
    if not file.parent.is_dir():
        raise UsageError(f"{option} {file}: there is no folder {file.parent}")


def save_plot(figure: Figure, file: Path) -> None:
    """Writes a matplotlib figure in the format of the file's suffix."""
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
