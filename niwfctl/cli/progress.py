"""Progress of long work, on the error stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from niwfctl.cli.output import err, number
from niwfctl.training.processes import leads

if TYPE_CHECKING:
    from niwfctl.training.loop import Progress as TrainingProgress


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
