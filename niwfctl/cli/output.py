"""The one place that writes to the terminal: for people, or as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console

from niwfctl.errors import UsageError

out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def emit_json(value: object) -> None:
    """Writes one JSON document to standard output; docs/json.md describes each."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def require_image(file: Path) -> None:
    """Asks that a plot can be written.

    Raises:
        UsageError: it is neither .png nor .svg, or its folder is not there.
    """
    if file.suffix not in (".png", ".svg"):
        raise UsageError(f"--plot {file.name}: expected a name that ends in .png or .svg")
    if not file.parent.is_dir():
        raise UsageError(f"--plot {file}: there is no folder {file.parent}")


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
