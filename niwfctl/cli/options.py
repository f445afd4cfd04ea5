"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from glob import escape, glob
from pathlib import Path
from typing import Annotated

import typer

from niwfctl.errors import UsageError
from niwfctl.training.run import TrainingOptions

_JSON = "niwfctl.json"  # where a context keeps whether --json was given


def _keep(ctx: typer.Context, asked: bool) -> bool:
    ctx.meta[_JSON] = asked
    return asked


def asks_json(ctx: typer.Context) -> bool:
    """Whether the command of this context, or one below it, was given --json."""
    return ctx.meta.get(_JSON, False)


AsJson = Annotated[
    bool,
    typer.Option(
        "--json", callback=_keep, is_eager=True, help="Report as JSON on standard output."
    ),
]
MaxTakeover = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Largest share it may win of each earlier region's anchors."),
]
Supersede = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="It competes for NAME's prompts on equal terms."),
]
Manual = Annotated[bool, typer.Option("--manual", help="Never route to it.")]
AcceptShadow = Annotated[
    bool, typer.Option("--accept-shadow", help="Commit even if earlier ones own its prompts.")
]

SkipEmpty = Annotated[
    bool, typer.Option("--skip-empty", help="Leave out records with an empty answer.")
]


DEFAULTS = {name: field.default for name, field in TrainingOptions.model_fields.items()}
STANDARD_INPUT = "-"  # in place of a prompt


def read_prompt(prompt: str) -> str:
    """A prompt as given, or read from standard input if it is `-`.

    Raises:
        UsageError: it is empty, or not UTF-8.
    """
    with in_utf8("the prompt"):
        if prompt == STANDARD_INPUT:
            prompt = sys.stdin.read().strip()
        prompt.encode()
    if not prompt.strip():
        raise UsageError("the prompt is empty: give one, or `-` and text on standard input")
    return prompt


@contextmanager
def in_utf8(what: str) -> Iterator[None]:
    """A block that reads or writes text.

    Raises:
        UsageError: it is not UTF-8.
    """
    try:
        yield
    except UnicodeError as error:
        raise UsageError(f"{what} is not UTF-8: convert it, for instance with iconv") from error


def inside(directory: Path, source: str) -> str:
    """A path or pattern as seen from -C DIR; what is neither, such as a hub id, stays as it is."""
    path = directory / source
    if path.exists():
        return str(path)
    pattern = str(Path(escape(str(directory))) / source)
    if glob(pattern, recursive=True):
        return pattern
    if Path(source).exists() or glob(source, recursive=True):  # here, but DIR is meant
        return str(path.absolute())
    return source


def by_name(directory: Path, given: Sequence[str]) -> dict[str, list[str]]:
    """Data sources given as `NAME=FILE`, by name; files as seen from -C DIR.

    Raises:
        UsageError: one of them lacks a name or a file.
    """
    sources: dict[str, list[str]] = {}
    for one in given:
        name, equals, source = one.partition("=")
        if not (name and equals and source):
            raise UsageError(f"--data {one}: say whose data it is, as in --data NAME=FILE")
        sources.setdefault(name, []).append(inside(directory, source))
    return sources


def template_args(given: Sequence[str]) -> dict[str, bool | int | float | str]:
    """Arguments of a chat template, from `NAME=VALUE`; what is no JSON value is a text.

    Raises:
        UsageError: one has no `=`, or is given twice.
    """
    found: dict[str, bool | int | float | str] = {}
    for one in given:
        name, equals, text = one.partition("=")
        if not equals or name in found:
            raise UsageError(
                f"--template-arg {one} is {'given twice' if equals else 'no NAME=VALUE'}: give "
                "each once, such as enable_thinking=false"
            )
        found[name] = _scalar(text)
    return found


def _scalar(text: str) -> bool | int | float | str:
    with suppress(ValueError, RecursionError):
        value = json.loads(text)
        if isinstance(value, bool | int | float | str):
            return value
    return text
