"""What is under way, on the error stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from niwfctl.cli.output import err


@contextmanager
def measuring_progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on the terminal, or a line for each thing measured where there is no terminal.

    Yields:
        A function to tell (what is under way, rows done, rows in all or 0 where there are none).
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
                bar.reset(task, total=rows or None)  # time left is that of this one alone
                under_way = what
            counted = f"{done} of {rows} rows" if rows else ""
            bar.update(task, description=what, completed=done, rows=counted)

        yield report


def _line(what: str, done: int, rows: int) -> None:
    if done == 0:
        err.print(f"{what}: measuring {rows} rows" if rows else what, markup=False)
