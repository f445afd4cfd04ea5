"""Models in another form, made once and found again by later commands."""

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

from niwfctl.backbone.identity import earlier_identity, files_identity
from niwfctl.errors import BackboneError

_SCRATCH = ".tmp-"
_LONGEST_WRITE = 24 * 3600.0  # seconds
logger = logging.getLogger(__name__)

IDENTITY = "niwf-identity"  # in a kept folder, of the files beside it


def cache_folder() -> Path:
    """Where models in other forms, and hashes, are kept: $NIWFCTL_CACHE, else ~/.cache/niwfctl."""
    return Path(os.environ.get("NIWFCTL_CACHE") or Path.home() / ".cache" / "niwfctl")


def hashes() -> Path:
    """Where the hashes of files are remembered."""
    return cache_folder() / "hashes"


def is_whole(folder: Path) -> bool:
    """Whether a kept folder is what was written."""
    try:
        written = (folder / IDENTITY).read_text()
        return written in (how(folder, hashes()) for how in (files_identity, earlier_identity))
    except (OSError, ValueError, BackboneError):
        return False


def keep(target: Path, write: Callable[[Path], None]) -> None:
    """Makes a folder of what `write` puts into the one it is given, unless it is there and whole.

    Two processes may do so at once: each writes a folder of its own and one rename wins.

    Raises:
        OSError: the disk is full or read-only; nothing is left of it.
    """
    if not is_whole(target) and _is_there(target / IDENTITY):
        logger.warning("%s was damaged, and is made anew", target)
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target.parent)
    with tempfile.TemporaryDirectory(
        dir=target.parent, prefix=_SCRATCH, ignore_cleanup_errors=True
    ) as scratch:
        folder = Path(scratch) / target.name  # others may read it, unlike the scratch folder
        folder.mkdir()
        write(folder)
        identity = folder / IDENTITY
        identity.write_text(files_identity(folder, None))
        for file in folder.iterdir():  # safetensors writes for its user alone
            shutil.copymode(identity, file)
        _make_durable(folder)
        _put(folder, target)


def _is_there(file: Path) -> bool:
    """Whether a file can be seen; others' folders may be closed."""
    try:
        return file.exists()
    except OSError:
        return False


def _remove_leftovers(folder: Path) -> None:
    """Removes what a kill left, once nobody can be writing it any more."""
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
    """So that a power cut after the rename leaves no folder that is there and not whole."""
    for file in folder.iterdir():
        with file.open("rb") as content:
            os.fsync(content.fileno())
    fsync_dir(folder)
