"""The task × commit table: every task measured at every commit that changed the atlas."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from niwfctl.atlas import Atlas, parse_range
from niwfctl.config import FILE
from niwfctl.continual import Transfer, transfer
from niwfctl.errors import FormatError, UnknownName, UsageError
from niwfctl.repository.check import committed_gates, gate_data
from niwfctl.repository.history import Commit
from niwfctl.repository.measure import (
    BATCH_SIZE,
    LONGEST_ANSWER,
    Bench,
    Data,
    Measured,
    Subject,
    base,
    named,
    routed,
)
from niwfctl.several import Sources

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """What is not to be forgotten: a capability's data.

    Attributes:
        learnt: index of the first row with the capability; None if no row has it.
    """

    name: str
    data: Data
    learnt: int | None


@dataclass(frozen=True)
class Row:
    """One commit.

    Attributes:
        there: names of its capabilities.
        figures: one per task.
    """

    commit: Commit
    there: frozenset[str]
    figures: tuple[Measured, ...]


@dataclass(frozen=True)
class Matrix:
    """All tasks at all commits, oldest first.

    Attributes:
        base: figures of the bare backbone, one per task.
        left_out: capabilities without data to measure on.
    """

    tasks: tuple[Task, ...]
    base: tuple[Measured, ...]
    rows: tuple[Row, ...]
    left_out: tuple[str, ...]

    @property
    def measures(self) -> tuple[str, ...]:
        """What was measured: `perplexity`, and `exact_match` if asked."""
        asked = self.base[0].exact_match is not None
        return ("perplexity", "exact_match") if asked else ("perplexity",)

    def transfer(self, measure: str) -> Transfer:
        """The measures of continual learning, from the scores of one measure."""
        scores = [[one.score(measure) for one in row.figures] for row in self.rows]
        untrained = [one.score(measure) for one in self.base]
        return transfer(scores, [task.learnt for task in self.tasks], untrained)


def matrix(
    repository: Repository,
    bench: Bench,
    sources: Mapping[str, Sources],
    revisions: str = "HEAD",
    *,
    auto: bool = False,
    exact_match: bool = False,
    longest_answer: int = LONGEST_ANSWER,
    batch_size: int = BATCH_SIZE,
) -> Matrix:
    """Measures every task at every commit of the first-parent history that changed the atlas.

    A task is answered by the capability of its name, or by the base where there is none yet.

    Args:
        sources: data files by task; a task without any uses the data of its gate.
        revisions: the last commit, or `FIRST..LAST`; FIRST is the first row, changed or not.
        auto: the owner of each prompt answers instead, as that commit's atlas routes.
        exact_match: also measure it.
        longest_answer: tokens to generate at most, for the exact match.
        batch_size: rows per forward pass.

    Raises:
        UnknownName: no such revision, or data for a task that no commit has (allowed with `auto`:
            the base may own it).
        UsageError: no commit has a capability, or none has data, or FIRST is not before LAST.
        DataError: data that cannot be used.
    """
    commits = _commits(repository, revisions)
    atlases = [repository.atlas(commit.id) for commit in commits]
    tasks, left_out = _tasks(repository, atlases, sources, auto)
    place, places = count(1), (1 + len(commits)) * len(tasks)

    def measured(task: Task, where: str, subject: Subject) -> Measured:
        label = f"{task.name} {where} ({next(place)} of {places})"
        return bench.measure(
            subject,
            task.data,
            label,
            exact_match=exact_match,
            longest_answer=longest_answer,
            batch_size=batch_size,
        )

    def row(commit: Commit, atlas: Atlas) -> Row:
        router = routed(commit.id, atlas) if auto else None
        figures = (
            measured(task, f"at {commit.id[:7]}", router or _owner(commit.id, atlas, task.name))
            for task in tasks
        )
        return Row(commit, frozenset(atlas), tuple(figures))

    untrained = tuple(measured(task, "of the base", base()) for task in tasks)
    rows = tuple(map(row, commits, atlases))
    return Matrix(tasks, untrained, rows, left_out)


def _owner(revision: str, atlas: Atlas, name: str) -> Subject:
    return named(f"{name}@{revision}", atlas[name]) if name in atlas else base()


def _commits(repository: Repository, revisions: str) -> list[Commit]:
    """The rows, oldest first."""
    first, dots, last = parse_range(revisions) or ("", "", revisions)
    if dots == "...":
        raise UsageError(f"--rev {revisions} is not a line of commits: give A..B, from A to B")
    line = repository.history.log(last, first_parent=True)
    if dots:
        start = repository.git.resolve(first)
        ids = [commit.id for commit in line]
        if start not in ids:
            raise UsageError(
                f"{first} is not on the first-parent history of {last}: give "
                "a commit that `niwfctl log` shows before it"
            )
        line = line[: ids.index(start) + 1]
    oldest_first = line[::-1]
    asked = [c for at, c in enumerate(oldest_first) if c.changes or (dots and at == 0)]
    kept = [commit for commit in asked if _readable(repository, commit)]
    if not any(repository.atlas(commit.id) for commit in kept):
        raise UsageError(f"no commit of {revisions} has a capability: train and commit one first")
    return kept


def _readable(repository: Repository, commit: Commit) -> bool:
    try:
        repository.atlas(commit.id)
    except FormatError as error:  # a later commit may have fixed it, but history keeps it
        logger.warning("%s is left out: %s", commit.id[:12], error)
        return False
    return True


def _tasks(
    repository: Repository,
    atlases: Sequence[Atlas],
    sources: Mapping[str, Sources],
    auto: bool,
) -> tuple[tuple[Task, ...], tuple[str, ...]]:
    """The tasks in the order in which they were learnt, and the capabilities without data."""
    learnt: dict[str, int] = {}
    for row, atlas in enumerate(atlases):
        for name in sorted(atlas):
            learnt.setdefault(name, row)
    strangers = [name for name in sources if name not in learnt]
    if strangers and not auto:
        raise UnknownName(
            f"no commit has a capability called {strangers[0]!r}: there are "
            f"{', '.join(sorted(learnt))}"
        )
    gates = {} if sources.keys() >= learnt.keys() else committed_gates(repository)
    tasks, left_out = [], []
    for name in (*learnt, *strangers):
        if name in sources:
            tasks.append(Task(name, Data.read(sources[name]), learnt.get(name)))
        elif name in gates:
            tasks.append(Task(name, gate_data(repository, name), learnt[name]))
        else:
            left_out.append(name)
    if not tasks:
        raise UsageError(
            f"there is no data to measure on: give --data {left_out[0]}=FILE, or a gate in {FILE}"
        )
    return tuple(tasks), tuple(left_out)
