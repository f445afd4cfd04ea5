"""The operation log: what niwfctl did here, and how to take it back."""

from __future__ import annotations

import json
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from niwfstore import write_atomic

from niwfctl.errors import NiwfError, UsageError

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository

REMEMBERED = 500


@dataclass
class Operation:
    """One change that niwfctl made.

    Attributes:
        branch: full name of the branch that moved, or `HEAD` when detached.
        before, after: commits it moved between; None before the first commit.
        removed: trainings that were put aside, to be found in the operation's folder.
        added: trainings that were made.
    """

    id: str
    time: str
    command: str
    branch: str
    before: str | None = None
    after: str | None = None
    removed: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether nothing changed."""
        return self.before == self.after and not self.removed and not self.added


class Operations:
    """The log of one repository, newest last."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._folder = repository.private / "operations"

    def list(self) -> list[Operation]:
        """All that is remembered, oldest first."""
        try:
            return [Operation(**entry) for entry in json.loads(self._file.read_bytes())]
        except FileNotFoundError:
            return []

    @contextmanager
    def recording(self, command: str) -> Iterator[Operation]:
        """A block whose changes are one operation, logged if there are any, also if it fails.

        Trainings are put aside with `set_aside`, or noted in `added`.
        """
        git = self._repository.git
        now = datetime.now(UTC).isoformat(timespec="seconds")
        branch = git.branch()
        operation = Operation(
            uuid.uuid4().hex[:8], now, command, f"refs/heads/{branch}" if branch else "HEAD"
        )
        operation.before = git.head()
        try:
            yield operation
        finally:
            operation.after = git.head()
            if not operation.empty:
                # A full disk must not make what is done look undone; only `undo` is lost.
                with suppress(OSError):
                    self._append(operation)

    def set_aside(self, operation: Operation, name: str) -> None:
        """Moves a training out of the way, to where `undo` finds it, as far as the disk allows."""
        source = self._repository.trainings.root / name
        target = self._folder / operation.id / name
        with suppress(OSError):
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)
            operation.removed.append(name)

    def undo(self) -> Operation:
        """Takes back the last operation; done twice, it takes back the taking back.

        Raises:
            NiwfError: there is nothing to take back.
            UsageError: the repository has moved on by other means.
        """
        done = self.list()
        if not done:
            raise NiwfError("there is nothing to undo: no operation is remembered here")
        last = done[-1]
        self._check(last)
        with self.recording(f"undo of {last.command}") as operation:
            if last.before != last.after and last.before:
                self._repository.git.move(last.after, last.before, f"niwfctl undo {last.id}")
            for name in last.added:
                self.set_aside(operation, name)
            for name in last.removed:
                self._bring_back(last, name)
                operation.added.append(name)
        return last

    def forget(self, older_than: datetime) -> int:
        """Drops operations, and trainings they put aside, from before a time; returns how many."""
        kept = [entry for entry in self.list() if datetime.fromisoformat(entry.time) >= older_than]
        dropped = [entry for entry in self.list() if entry not in kept]
        self._write(kept)
        for entry in dropped:
            shutil.rmtree(self._folder / entry.id, ignore_errors=True)
        return len(dropped)

    @property
    def _file(self) -> Path:
        return self._folder / "log.json"

    def _check(self, last: Operation) -> None:
        git = self._repository.git
        branch = git.branch()
        here = f"refs/heads/{branch}" if branch else "HEAD"
        if last.before != last.after and (here != last.branch or git.head() != last.after):
            raise UsageError(
                f"{last.command!r} cannot be undone: {last.branch} has moved on since, or is not "
                "checked out; go back with `niwfctl rollback --to`"
            )
        if last.before is None and last.after is not None:
            raise UsageError("the first commit cannot be undone: remove the repository instead")
        for name in last.removed:
            if self._repository.trainings.get(name):
                raise UsageError(
                    f"{last.command!r} cannot be undone: there is a newer training of {name!r}; "
                    "commit it first"
                )

    def _bring_back(self, last: Operation, name: str) -> None:
        source = self._folder / last.id / name
        if not source.is_dir():
            raise UsageError(
                f"the training of {name!r} was cleaned away and cannot be brought back"
            )
        target = self._repository.trainings.root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            shutil.rmtree(target)
        source.replace(target)

    def _append(self, operation: Operation) -> None:
        self._write([*self.list(), operation][-REMEMBERED:])

    def _write(self, operations: list[Operation]) -> None:
        text = json.dumps([asdict(operation) for operation in operations], indent=1)
        write_atomic(self._file, text.encode())


def command_line() -> str:
    """What the user typed, for the log."""
    return " ".join(["niwfctl", *sys.argv[1:]])[:200]
