"""The one place that writes to the terminal: for people, or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from niwfctl.errors import UsageError

out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def put(text: Text) -> None:
    """Writes a line of styled text; where nobody sees the styles, without what they cost."""
    if out.is_terminal:
        out.print(text)
    else:
        out.file.write(f"{text.plain}\n")


def emit_json(value: object) -> None:
    """Writes one JSON document to standard output; docs/json.md describes each."""
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
