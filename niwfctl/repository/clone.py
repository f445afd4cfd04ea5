"""clone: history and pointers, then objects, into a folder that appears once it is complete."""

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

    The folder appears once all of its history is there. If it already is a clone of `url`, it is
    kept, so that a clone interrupted while fetching objects resumes.

    Args:
        lazy: fetch no objects; each comes when a command first needs it.

    Raises:
        UsageError: the folder is not empty and no clone of `url`, or it cannot be replaced.
        NotARepository: the remote is not a niwfctl repository.
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
            # git prints the folder's name, so it is cloned under the name that the user gave
            copy = ("clone", "--origin", "origin", "--", _located(url), folder.name)
            if transfer(Path(scratch), *copy) is not None:
                raise RemoteError(
                    f"{url} cannot be cloned (see above): nothing was made; check the URL and "
                    "whether it can be reached"
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
    """Requires that a folder can be made, or is empty and can be replaced."""
    require_new(folder)
    if folder == Path.cwd() or folder.is_mount():
        raise UsageError(
            f"{folder} is the current folder or a mount, which a clone cannot replace: give the "
            "name of a new folder"
        )


def _check_out(url: str, git: Git) -> None:
    """Requires that a clone is of a niwfctl repository; checks out a branch if git did not."""
    if git.head() is None:  # the remote's HEAD is a branch that was never pushed
        listed = git.plain("for-each-ref", "--format=%(refname:lstrip=3)", "refs/remotes/origin")
        branches = listed.split()
        if len(branches) > 1:
            raise UsageError(
                f"{url} has {', '.join(branches)}, but its HEAD is none of them: choose one there "
                f"with `git symbolic-ref HEAD refs/heads/{branches[0]}`"
            )
        for branch in branches:
            git.follow(branch)
    if git.head() is None or git.blob("HEAD", FILE) is None:
        raise NotARepository(f"{url} is not a niwfctl repository: it has no {FILE}")


def _is_clone(url: str, folder: Path) -> bool:
    if not (folder / ".git").is_dir():
        return False
    origin = ("git", "-C", str(folder), "config", "remote.origin.url")
    known = subprocess.run(origin, capture_output=True, text=True, check=False).stdout.strip()
    return known == _located(url)


def _located(url: str) -> str:
    """The absolute path of a folder; any other URL unchanged."""
    return str(Path(url).resolve()) if Path(url).exists() else url
