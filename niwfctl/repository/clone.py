"""clone: history and pointers, then objects, into a folder that is there once it is whole."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from niwfctl.config import FILE
from niwfctl.errors import NotARepository, RemoteError, UsageError
from niwfctl.git.git import Git
from niwfctl.git.process import require_recent_git, transfer
from niwfctl.paths import require_new
from niwfctl.repository.lfs import add_hook, require_lfs

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository


def clone(url: str, folder: Path, lazy: bool = False) -> Repository:
    """Clones history and pointers, then objects.

    The folder appears once all of its history is there. If it is a clone of `url` already, it
    stays as it is, so that a clone which was interrupted among its objects goes on.

    Args:
        lazy: no objects; they come when a command first needs them.

    Raises:
        UsageError: the folder is there, not empty, and no clone of this; or it cannot be replaced.
        NotARepository: what is there is no niwfctl repository.
        RemoteError: the remote cannot be reached, or git-lfs is missing.
    """
    from niwfctl.repository.repository import Repository

    require_recent_git()
    if not lazy:
        require_lfs()
    folder = folder.resolve()
    if not _is_clone(url, folder):
        _require_replaceable(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".clone-") as scratch:
            whole = Path(scratch) / folder.name
            # git names the folder it is given, and who asked wants none of a scratch folder's
            copy = ("clone", "--origin", "origin", "--", _located(url), folder.name)
            if transfer(Path(scratch), *copy) is not None:
                raise RemoteError(
                    f"{url} cannot be cloned (see above): nothing was made; look whether this is "
                    "where it is, and whether it can be reached"
                )
            git = Git.open(whole)
            _check_out(url, git)
            add_hook(git)
            whole.rename(folder)
    repository = Repository.open(folder)
    if not lazy:
        repository.remotes.fetch("origin")
    return repository


def _require_replaceable(folder: Path) -> None:
    """Asks that a folder can be made, or is empty and can make way for another."""
    require_new(folder)
    if folder == Path.cwd() or folder.is_mount():
        raise UsageError(
            f"{folder} is the current folder or a mount, and cannot make way for a clone: give the "
            "name of a new folder"
        )


def _check_out(url: str, git: Git) -> None:
    """Asks that a clone is of a niwfctl repository; checks out its branch where git did not."""
    if git.head() is None:  # the remote's HEAD is of a branch that was never pushed
        listed = git.plain("for-each-ref", "--format=%(refname:lstrip=3)", "refs/remotes/origin")
        branches = listed.split()
        if len(branches) > 1:
            raise UsageError(
                f"{url} has {', '.join(branches)}, and its HEAD is none of them: say there which, "
                f"with `git symbolic-ref HEAD refs/heads/{branches[0]}`"
            )
        for branch in branches:
            git.follow(branch)
    if git.head() is None or git.blob("HEAD", FILE) is None:
        raise NotARepository(f"{url} is no niwfctl repository: it has no {FILE}")


def _is_clone(url: str, folder: Path) -> bool:
    if not (folder / ".git").is_dir():
        return False
    origin = ("git", "-C", str(folder), "config", "remote.origin.url")
    known = subprocess.run(origin, capture_output=True, text=True, check=False).stdout.strip()
    return known == _located(url)


def _located(url: str) -> str:
    """A folder by its absolute path; any other URL as it is."""
    return str(Path(url).resolve()) if Path(url).exists() else url
