"""Progress of long work, on the error stream."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from niwfctl.cli.output import err, number, require_file
from niwfctl.training.processes import leads

if TYPE_CHECKING:
    from niwfctl.training.loop import Progress as TrainingProgress


STEP = ("step", "loss", "lr", "gradient_norm", "validation", "tokens_per_second")  # in a log


@contextmanager
def measuring_progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on a terminal, or a line for each thing measured if there is no terminal.

    Yields:
        A function to call with (what is under way, rows done, total rows or 0 if there are none).
    """
    if not err.is_terminal:
        yield _line
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[rows]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        task, under_way = bar.add_task("", total=None, rows=""), ""

        def report(what: str, done: int, rows: int) -> None:
            nonlocal under_way
            if done == 0 or what != under_way:
                bar.reset(task, total=rows or None)  # the time left is for this one alone
                under_way = what
            counted = f"{done} of {rows} rows" if rows else ""
            bar.update(task, description=what, completed=done, rows=counted)

        yield report


def _line(what: str, done: int, rows: int) -> None:
    if done == 0:
        err.print(f"{what}: measuring {rows} rows" if rows else what, markup=False)


@contextmanager
def training_progress(name: str) -> Iterator[Callable[[TrainingProgress], None]]:
    """A bar on a terminal, or a line now and then if there is no terminal."""
    if not leads():
        yield lambda now: None
        return
    if not err.is_terminal:
        yield _now_and_then(name)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(name, total=None, detail="")

        def report(now: TrainingProgress) -> None:
            bar.update(
                task,
                description=f"{name}: {now.stage}",
                total=now.steps or None,
                completed=now.step,
                detail=_detail(now),
            )

        yield report


def step_log(file: Path | None) -> Callable[[TrainingProgress], None]:
    """A function that appends every step to a file as a line of JSON, if one is given.

    Raises:
        UsageError: it is a folder, or its folder does not exist.
        OSError: it cannot be written. Where a line cannot be, later, the training goes on.
    """
    if file is None or not leads():
        return lambda now: None
    require_file(file, "--log", ())
    file.open("a").close()

    def note(now: TrainingProgress) -> None:
        if now.stage != "training":
            return
        line = json.dumps({key: getattr(now, key) for key in STEP})
        try:
            with file.open("a", encoding="utf-8") as log:
                log.write(f"{line}\n")
        except OSError as error:
            err.print(f"warning: {file} lacks step {now.step} ({error.strerror})", markup=False)

    return note


def _now_and_then(name: str) -> Callable[[TrainingProgress], None]:
    def report(now: TrainingProgress) -> None:
        if now.stage != "training" or now.step % max(now.steps // 10, 1) == 0:
            err.print(f"{name}: {now.stage} {_detail(now)}".rstrip(), markup=False)

    return report


def _detail(now: TrainingProgress) -> str:
    if now.stage != "training":
        return ""
    parts = [f"step {now.step}/{now.steps}", f"loss {number(now.loss)}"]
    if now.validation is not None:
        parts.append(f"validation perplexity {number(now.validation)}")
    parts += [f"{now.tokens_per_second:.0f} tokens/s", f"{_clock(now.seconds_left)} left"]
    return ", ".join(parts)


def _clock(seconds: float | None) -> str:
    minutes, rest = divmod(round(seconds or 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
