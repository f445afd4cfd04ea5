"""Checkpoints: a training run as one file, written atomically."""

from __future__ import annotations

from pathlib import Path

from niwfstore import write_tensors
from niwfstore.atomic import publish, temporary_file
from torch import Tensor

from niwfctl.errors import StorageError
from niwfctl.tensors import as_bytes, read_tensors
from niwfctl.training.run import Run, read_run


def save(path: Path, run: Run, tensors: dict[str, Tensor]) -> None:
    """Writes a checkpoint; the previous one is kept until this one is durable.

    Raises:
        StorageError: the disk is full or read-only.
    """
    try:
        with temporary_file(path.parent) as (file, temporary):
            write_tensors(file, as_bytes(tensors), run.model_dump_json())
            publish(file, temporary, path)
    except OSError as error:
        raise StorageError(
            f"the checkpoint {path} cannot be written ({error.strerror}): the previous one "
            "is kept; free some space and run `niwfctl train --resume`"
        ) from error


def load(path: Path) -> tuple[Run, dict[str, Tensor]]:
    """A checkpoint's record and tensors.

    Raises:
        FormatError, FileNotFoundError: as in `read_run`.
    """
    return read_run(path), read_tensors(path)
