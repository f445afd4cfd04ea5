"""The operation log: what niwfctl did here, and how to undo it."""

from __future__ import annotations

import filecmp
import hashlib
import json
import logging
import shutil
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from niwfstore import output_file, write_atomic

from niwfctl.errors import Busy, FormatError, NiwfError, UsageError
from niwfctl.repository.checkout import activate
from niwfctl.repository.lock import lock
from niwfctl.repository.underway import require_ended
from niwfctl.typed import command_line

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository

logger = logging.getLogger(__name__)

REMEMBERED = 500
PATIENCE = 60.0  # seconds to wait for another process that writes the log


@dataclass
class Operation:
    """One change that niwfctl made.

    Attributes:
        branch: full name of the branch that moved, or `HEAD` when detached.
        before, after: commits it moved between; None before the first commit.
        removed: trainings that were put aside, in the operation's folder.
        added: trainings that were made.
        active_before, active_after: the active capability, as in `Repository.active`; both None
            in older logs, which did not record it.
        worktree: git's name of the linked work tree where it was made; empty for the main one,
            None in older logs, whose operations count for every work tree.
    """

    id: str
    time: str
    command: str
    branch: str
    before: str | None = None
    after: str | None = None
    removed: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    active_before: str | None = None
    active_after: str | None = None
    worktree: str | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing changed."""
        return self.before == self.after and not self.removed and not self.added


class Operations:
    """The log of one repository, newest last."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._folder = repository.private / "operations"

    def entries(self) -> list[Operation]:
        """All remembered operations, oldest first.

        Raises:
            FormatError: the log is damaged, or of a newer version.
        """
        try:
            return [Operation(**entry) for entry in json.loads(self._file.read_bytes())]
        except FileNotFoundError:
            return []
        except (ValueError, TypeError) as error:
            raise FormatError(
                f"{self._file} is not an operation log that this version can read: use the version "
                "that wrote it, or remove it, after which `undo` knows nothing"
            ) from error

    @contextmanager
    def recording(self, command: str) -> Iterator[Operation]:
        """A block whose changes form one operation; any changes are logged, even if it fails.

        Trainings are put aside with `set_aside`, or listed in `added`.
        """
        operation = self._begin(command)
        try:
            yield operation
        finally:
            operation.after = self._repository.git.head()
            operation.active_after = self._repository.active
            if not operation.empty:
                self._log(operation)

    @contextmanager
    def recording_training(self, name: str) -> Iterator[None]:
        """A block that saves a training's first checkpoint; a previous one is kept for `undo`.

        No branch moves, so this does not take the commit lock.
        """
        with self._locked():
            operation = self._begin(command_line(f"Train {name}"))
            checkpoint = self._repository.trainings.checkpoint(name)
            if checkpoint.is_file():
                with suppress(OSError):
                    _share(checkpoint, self._aside(operation, name))
                    operation.removed.append(name)
            yield
            operation.added.append(name)
            with suppress(OSError):
                self._append(operation)

    def _log(self, operation: Operation) -> None:
        """Logs what is done; failing to must not make it look failed, as only `undo` is lost."""
        try:
            with self._locked():
                self._append(operation)
        except (OSError, Busy) as error:
            logger.warning(
                "%r is done, but `undo` does not know of it: %s", operation.command, error
            )

    def set_aside(self, operation: Operation, name: str) -> None:
        """Moves a training to where `undo` finds it, if the disk allows."""
        source = self._repository.trainings.root / name
        target = self.folder_of(operation) / name
        with suppress(OSError):
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)
            operation.removed.append(name)

    def undo(self) -> Operation:
        """Undoes the last operation of this work tree; done twice, it redoes it.

        Raises:
            NiwfError: there is nothing to undo.
            UsageError: the repository was changed by other means, or a git command is unfinished.
            Busy: another process is committing, or trains what would be undone.
        """
        with ExitStack() as locks:
            locks.enter_context(self._repository.writing())
            done = [one for one in self.entries() if one.worktree in (None, self._worktree)]
            if not done:
                raise NiwfError("there is nothing to undo: no operation is remembered here")
            last = done[-1]
            require_ended(self._repository)
            if last.added:  # they may be in progress
                locks.enter_context(self._repository.trainings.locked())
            self._check(last)
            operation = locks.enter_context(self.recording(_taking_back(last.command)))
            self._reverse(last, operation)
        return last

    def older(self, than: datetime) -> list[Operation]:
        """Operations before a time."""
        return [entry for entry in self.entries() if datetime.fromisoformat(entry.time) < than]

    def forget(self, older_than: datetime) -> None:
        """Drops operations before a time, and the trainings they put aside."""
        with self._locked():
            dropped = self.older(older_than)
            kept = [entry for entry in self.entries() if entry not in dropped]
            self._write(kept)
            for folder in self._folder.iterdir():
                if folder.is_dir() and folder.name not in {entry.id for entry in kept}:
                    shutil.rmtree(folder, ignore_errors=True)

    def folder_of(self, operation: Operation) -> Path:
        """Where an operation puts trainings aside."""
        return self._folder / operation.id

    @property
    def _worktree(self) -> str:
        git = self._repository.git
        return "" if git.folder == git.common else git.folder.name

    @property
    def _file(self) -> Path:
        return self._folder / "log.json"

    def _reverse(self, last: Operation, operation: Operation) -> None:
        """Undoes `last`, in steps that each leave every training in some known place.

        Any step may already be done, by an undo that was killed before it was logged. After the
        branch moves, only trainings are removed that have a copy elsewhere, so an interruption
        leaves one state or the other (of a renamed training perhaps both), and loses nothing.
        """
        git, trainings = self._repository.git, self._repository.trainings
        operation.id = _id_of_undoing(last)
        kept = [name for name in last.added if self._keep(last, operation, name)]
        for name in last.removed:
            _share(self._aside(last, name), trainings.checkpoint(name))
        if last.before != last.after:
            try:
                if git.head() != last.before:
                    git.move(last.after, last.before, f"niwfctl undo {last.id}")
            except (NiwfError, OSError):
                for name in set(last.removed) - set(last.added):
                    shutil.rmtree(trainings.root / name, ignore_errors=True)
                raise
            operation.before = last.after
        operation.removed, operation.added = kept, list(last.removed)
        self._reactivate(last, operation)
        for name in set(kept) - set(last.removed):
            shutil.rmtree(trainings.root / name, ignore_errors=True)

    def _reactivate(self, last: Operation, operation: Operation) -> None:
        """Makes active again what `last` made inactive, unless another was chosen since."""
        active = self._repository.active
        if last.active_before == last.active_after:
            return
        if active == last.active_after:
            activate(self._repository, last.active_before)
        if active in (last.active_before, last.active_after):
            operation.active_before = last.active_after

    def _keep(self, last: Operation, operation: Operation, name: str) -> bool:
        """Copies a training that is undone to a second place; False if the disk refuses."""
        checkpoint = self._repository.trainings.checkpoint(name)
        aside = self._aside(operation, name)
        if aside.is_file() and name in last.removed and self._is_back(last, name):
            return True
        try:
            if checkpoint.is_file():
                _share(checkpoint, aside)
        except OSError:
            return False
        return aside.is_file()

    def _aside(self, operation: Operation, name: str) -> Path:
        """Where an operation puts the checkpoint of a training aside."""
        return self.folder_of(operation) / name / self._repository.trainings.checkpoint(name).name

    def _is_back(self, last: Operation, name: str) -> bool:
        """Whether a training equals the one that an operation put aside."""
        checkpoint, aside = self._repository.trainings.checkpoint(name), self._aside(last, name)
        there = checkpoint.is_file() and aside.is_file()
        return there and filecmp.cmp(checkpoint, aside, shallow=False)

    def _check(self, last: Operation) -> None:
        git = self._repository.git
        branch = git.branch()
        here = f"refs/heads/{branch}" if branch else "HEAD"
        # It is at `before` if a previous undo was killed after moving it; this one resumes that.
        there = here == last.branch and git.head() in (last.before, last.after)
        if last.before != last.after and not there:
            raise UsageError(f"{last.command!r} cannot be undone: {self._moved(last, here)}")
        if last.before is None and last.after is not None:
            raise UsageError("the first commit cannot be undone: remove the repository instead")
        if last.added and last.before != last.after:
            self._require_objects(last)
        for name in last.removed:
            if not (self.folder_of(last) / name).is_dir():
                raise UsageError(
                    f"{last.command!r} cannot be undone: the training of {name!r} that it put "
                    "aside was cleaned away"
                )
            waits = name not in last.added and self._repository.trainings.checkpoint(name).is_file()
            if waits and not self._is_back(last, name):
                raise UsageError(
                    f"{last.command!r} cannot be undone: there is a newer training of {name!r}; "
                    "commit it first"
                )

    def _require_objects(self, last: Operation) -> None:
        """Requires what a commit that is done again made, for which its trainings are put away."""
        then, now = (self._repository.atlas(commit) for commit in (last.before, last.after))
        known = {ref.oid for capability in now.values() for ref in capability.objects}
        made = {ref.oid for capability in then.values() for ref in capability.objects} - known
        if any(oid not in self._repository.store for oid in made):
            raise UsageError(
                f"{last.command!r} cannot be undone: objects of that commit were removed since, as "
                f"by `git lfs prune`; make them again with `niwfctl commit {' '.join(last.added)}`"
            )

    def _moved(self, last: Operation, here: str) -> str:
        """Why the branch of an operation is not where it left it, and what to do, as a clause."""
        branch = last.branch.removeprefix("refs/heads/")
        tips = {f"refs/heads/{ref.name}": ref.commit for ref in self._repository.branches.entries()}
        if here != last.branch and tips.get(last.branch) in (last.before, last.after):
            return f"it is on the branch {branch!r}; run `niwfctl checkout {branch}` first"
        return f"{last.branch} has moved on, or is gone; go back with `niwfctl rollback --to`"

    def _begin(self, command: str) -> Operation:
        git = self._repository.git
        now = datetime.now(UTC).isoformat(timespec="seconds")
        branch, head = git.branch(), git.head()
        where = f"refs/heads/{branch}" if branch else "HEAD"
        operation = Operation(uuid.uuid4().hex[:8], now, command, where, head, head)
        operation.active_before = operation.active_after = self._repository.active
        operation.worktree = self._worktree
        return operation

    def _locked(self) -> AbstractContextManager[bool]:
        return lock(self._folder.with_suffix(".lock"), "operation log", PATIENCE)

    def _append(self, operation: Operation) -> None:
        operations = [*self._known(operation), operation]
        self._write(operations[-REMEMBERED:])
        last = {entry.worktree: entry.id for entry in operations[-REMEMBERED:]}
        for entry in operations:  # only the last of each work tree can be undone
            if entry.removed and entry.id not in last.values():
                shutil.rmtree(self.folder_of(entry), ignore_errors=True)

    def _known(self, operation: Operation) -> list[Operation]:
        """The logged operations; an unreadable log is moved away, as `operation` is done."""
        try:
            return self.entries()
        except FormatError:
            aside = self._file.with_name(f"unreadable-{operation.id}.json")
            self._file.replace(aside)
            logger.warning(
                "%s is not an operation log that this version can read and is put aside as %s: "
                "`undo` knows nothing from before",
                self._file,
                aside.name,
            )
            return []

    def _write(self, operations: list[Operation]) -> None:
        text = json.dumps([asdict(operation) for operation in operations], indent=1)
        write_atomic(self._file, text.encode())


def _share(source: Path, target: Path) -> None:
    """Gives a file a second name, atomically replacing any file of that name.

    On a file system without links, it makes a copy.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and target.samefile(source):
        return
    link = target.with_name(".tmp-link")
    try:
        link.unlink(missing_ok=True)
        link.hardlink_to(source)
    except OSError:
        with source.open("rb") as file, output_file(target) as copy:
            shutil.copyfileobj(file, copy)
    else:
        link.replace(target)


def _id_of_undoing(last: Operation) -> str:
    """The id of the operation that undoes `last`: the same however often it is started."""
    return hashlib.sha256(f"undo {last.id}".encode()).hexdigest()[: len(last.id)]


def _taking_back(command: str) -> str:
    """The name of undoing an operation; undoing an undo is a redo."""
    redone = command.removeprefix("undo of ")
    return (
        f"redo of {redone}" if redone != command else f"undo of {command.removeprefix('redo of ')}"
    )
