"""Uncommitted trainings: one folder per name, outside the work tree."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from niwfctl.atlas import Atlas
from niwfctl.errors import FormatError, UsageError
from niwfctl.repository.lock import lock
from niwfctl.training.run import Run, read_run

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository

logger = logging.getLogger(__name__)


def obstacle(run: Run, atlas: Atlas) -> str:
    """Why a training cannot be committed onto an atlas, as a clause; empty if it can."""
    mode = run.options.mode
    if mode == "new":
        return "has the name of a capability that is committed here" if run.name in atlas else ""
    verb = "extends" if mode == "extend" else "revises"
    return "" if run.name in atlas else f"{verb} a capability that is not in this commit"


def uncommitted(repository: Repository, name: str) -> Run | None:
    """The training of a name; None if there is none, or only what a kill left behind its commit."""
    found = repository.trainings.get(name)
    return None if found is None or repository.committed(found) else found


def to_resume(repository: Repository, name: str) -> Run:
    """The training of a name, to go on with.

    Raises:
        UsageError: there is none, or it is finished; the message says what trains it further.
    """
    found = uncommitted(repository, name)
    if found and not found.finished:
        return found
    if found:
        raise UsageError(
            f"the training of {name!r} is finished: commit it with `niwfctl commit {name}`, or "
            "train it anew with --restart, --data and more --steps; once it is committed, "
            f"{_further(name)}"
        )
    if name in repository.atlas():
        raise UsageError(f"the training of {name!r} is finished and committed: {_further(name)}")
    raise UsageError(f"there is no training of {name!r} to resume: start it with --data")


def _further(name: str) -> str:
    """How to train what is committed further, as a clause."""
    return (
        f"--revise makes a new version, which builds on this one with --from {name}, and --extend "
        "adds other prompts to it"
    )


class Trainings:
    """The trainings under one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def checkpoint(self, name: str) -> Path:
        """Where the checkpoint of a training is, or would be."""
        return self.root / name / "checkpoint.safetensors"

    def get(self, name: str) -> Run | None:
        """The record of a training; None if there is none.

        Raises:
            FormatError: its checkpoint is of a newer version, or damaged.
        """
        path = self.checkpoint(name)
        return read_run(path) if path.is_file() else None

    def checkpoints(self) -> list[Path]:
        """The checkpoints of all trainings, by name."""
        return sorted(self.root.glob("*/checkpoint.safetensors"))

    def runs(self) -> list[Run]:
        """All trainings that can be read, by name; warns of each that cannot."""
        found = []
        for path in self.checkpoints():
            try:
                found.append(read_run(path))
            except FileNotFoundError:  # committed or undone in the meantime
                continue
            except (FormatError, OSError) as error:
                logger.warning("the training of %r is left out: %s", path.parent.name, error)
        return found

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the lock under which training runs: one at a time in a repository.

        Raises:
            Busy: another process is training here.
        """
        with lock(self.root.parent / "training.lock", "training"):
            yield
