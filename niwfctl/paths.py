"""Places that a command is asked to write to."""

from __future__ import annotations

from pathlib import Path

from niwfctl.errors import UsageError


def existing_ancestor(path: Path) -> Path:
    """The path itself if it exists, else the nearest folder above it that does."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def require_folder(path: Path) -> None:
    """Requires that a folder exists or can be made.

    Raises:
        UsageError: a file is in the way.
    """
    ancestor = existing_ancestor(path)
    if not ancestor.is_dir():
        raise UsageError(f"{ancestor} is a file where a folder is needed: give another place")


def require_new(folder: Path) -> None:
    """Requires that a folder can be made, or exists and is empty.

    Raises:
        UsageError: a file is in the way, or the folder is not empty.
    """
    require_folder(folder)
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} already exists and is not empty: give another folder")


def require_new_file(path: Path) -> None:
    """Requires that a file can be made.

    Raises:
        UsageError: it exists, or its folder is a file.
    """
    require_folder(path.parent)
    if path.exists():
        raise UsageError(f"{path} already exists: give the name of a new file")
