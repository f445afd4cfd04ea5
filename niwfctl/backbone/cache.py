"""Converted models, made once and reused by later commands."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from niwfstore.atomic import fsync_dir

from niwfctl.backbone.identity import earlier_identities, files_identity
from niwfctl.errors import BackboneError

_SCRATCH = ".tmp-"
_LONGEST_WRITE = 24 * 3600.0  # seconds
logger = logging.getLogger(__name__)

IDENTITY = "niwf-identity"  # file in a kept folder: the identity of the other files


def cache_folder() -> Path:
    """Where converted models and hashes are kept: $NIWFCTL_CACHE, else ~/.cache/niwfctl."""
    return Path(os.environ.get("NIWFCTL_CACHE") or Path.home() / ".cache" / "niwfctl")


def hashes() -> Path:
    """Where the hashes of files are cached."""
    return cache_folder() / "hashes"


def is_whole(folder: Path) -> bool:
    """Whether a kept folder still is what was written."""
    try:
        written = (folder / IDENTITY).read_text()
        return written == files_identity(folder, hashes()) or written in earlier_identities(
            folder, hashes()
        )
    except (OSError, ValueError, BackboneError):
        return False


def keep(target: Path, write: Callable[[Path], None]) -> None:
    """Creates `target` from what `write` produces, unless an intact copy exists.

    Two processes may do so at once: each writes a folder of its own and one rename wins.

    Args:
        target: the folder to create.
        write: fills the empty folder that it is given.

    Raises:
        OSError: the disk is full or read-only; nothing is left behind.
    """
    if not is_whole(target) and _is_there(target / IDENTITY):
        logger.warning("%s was damaged and is made again", target)
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target.parent)
    with tempfile.TemporaryDirectory(
        dir=target.parent, prefix=_SCRATCH, ignore_cleanup_errors=True
    ) as scratch:
        folder = Path(scratch) / target.name  # readable by others, unlike the scratch folder
        folder.mkdir()
        write(folder)
        identity = folder / IDENTITY
        identity.write_text(files_identity(folder, None))
        for file in folder.iterdir():  # safetensors makes them readable by the user only
            shutil.copymode(identity, file)
        _make_durable(folder)
        _put(folder, target)


def _is_there(file: Path) -> bool:
    """Whether a file exists and can be seen; another user's folder may deny access."""
    try:
        return file.exists()
    except OSError:
        return False


def _remove_leftovers(folder: Path) -> None:
    """Removes what killed processes left, once nobody can still be writing it."""
    for scratch in folder.glob(f"{_SCRATCH}*"):
        with suppress(OSError):
            if time.time() - scratch.stat().st_mtime > _LONGEST_WRITE:
                shutil.rmtree(scratch, ignore_errors=True)


def _put(folder: Path, target: Path) -> None:
    if is_whole(target):  # another process was faster
        return
    shutil.rmtree(target, ignore_errors=True)
    try:
        os.replace(folder, target)
    except OSError:
        if not is_whole(target):
            raise
    fsync_dir(target.parent)


def _make_durable(folder: Path) -> None:
    """Syncs a folder, so that a power cut after the rename cannot leave it incomplete."""
    for file in folder.iterdir():
        with file.open("rb") as content:
            os.fsync(content.fileno())
    fsync_dir(folder)
