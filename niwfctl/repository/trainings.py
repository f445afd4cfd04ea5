"""Uncommitted trainings: one folder per name, outside the work tree."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from niwfctl.atlas import Atlas
from niwfctl.errors import FormatError
from niwfctl.repository.lock import lock
from niwfctl.training.run import Run, read_run

logger = logging.getLogger(__name__)


def obstacle(run: Run, atlas: Atlas) -> str:
    """Why a training cannot be committed onto an atlas, as a clause; empty if it can."""
    mode = run.options.mode
    if mode == "new":
        return "has the name of a capability that is committed here" if run.name in atlas else ""
    verb = "extends" if mode == "extend" else "revises"
    return "" if run.name in atlas else f"{verb} a capability that is not in this commit"


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
