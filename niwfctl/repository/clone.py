"""clone: history and pointers, then objects, into a folder that appears once it is complete."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from niwfctl.config import FILE
from niwfctl.errors import NotARepository, RemoteError, UsageError
from niwfctl.git.git import Git
from niwfctl.git.process import require_recent_git, transfer
from niwfctl.paths import require_new
from niwfctl.repository.bundle import add_tags, is_bundle, take
from niwfctl.repository.lfs import add_hook, require_lfs
from niwfctl.repository.pointers import pointed
from niwfctl.repository.tracking import branches_of, place
from niwfctl.storage import storing

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository


def clone(url: str, folder: Path, lazy: bool = False, branch: str | None = None) -> Repository:
    """Clones history and pointers, then objects; of a bundle, all that it holds, without a remote.

    The folder appears once all of its history is there. If it already is a clone of `url` that
    lacks objects, it is kept, so that a clone interrupted while fetching objects resumes.

    Args:
        url: as git takes it, or a file that `Repository.write_bundle` wrote.
        lazy: fetch no objects; each comes when a command first needs it.
        branch: the branch or tag to check out; the remote's HEAD by default.

    Raises:
        FormatError, ObjectError: the bundle is incomplete or damaged.
        UsageError: the folder is not empty and no clone of `url`, or a complete one, or it cannot
            be replaced; or a branch is asked of a bundle.
        NotARepository: the remote is not a niwfctl repository.
        RemoteError: the remote cannot be reached, or git-lfs is missing.
    """
    from niwfctl.repository.repository import Repository

    require_recent_git()
    folder = folder.resolve()
    if is_bundle(Path(url)):
        if branch is not None:
            raise UsageError(
                f"{url} is a bundle, of which the bundled commit is checked out: leave --branch "
                "out, and check out a tag of it with `niwfctl checkout TAG`"
            )
        return _unbundled(Path(url), folder)
    if not lazy:
        require_lfs()
    if _is_clone(url, folder):
        if lazy or _has_objects(Repository.open(folder)):
            raise UsageError(
                f"{folder} already is a clone of {_shown(url)}: get what is new there with "
                "`niwfctl pull` in it, or give the name of a new folder"
            )
    else:
        with _appearing(folder) as whole:
            # git prints the folder's name, so it is cloned under the name that the user gave
            # git would warn of a remote HEAD that is no branch; `_check_out` chooses one instead
            options = ["--no-checkout", "--origin", "origin"]
            options += [] if branch is None else [f"--branch={branch}"]
            copy = ("clone", *options, "--", _located(url), folder.name)
            if transfer(whole.parent, *copy) is not None:
                raise RemoteError(
                    f"{_shown(url)} cannot be cloned (see above): nothing was made; check the URL, "
                    "whether it can be reached, and whether it has the branch if one was asked for"
                )
            git = Git.open(whole)
            _check_out(url, git)
            add_hook(git)
    repository = Repository.open(folder)
    if not lazy:
        repository.remotes.fetch("origin")
    return repository


def _unbundled(file: Path, folder: Path) -> Repository:
    """A repository of what a bundle holds."""
    from niwfctl.repository.repository import Repository

    with storing(), _appearing(folder) as whole:
        git = Git.init(whole)
        taken = take(Repository(git), file)
        if taken.branch:
            git.plain("symbolic-ref", "HEAD", f"refs/heads/{taken.branch}")
        git.plain("reset", "--quiet", "--hard", taken.commit)
        add_tags(Repository(git), taken.tags)
        add_hook(git)
    return Repository.open(folder)


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A temporary place for a folder, which appears once the block has filled it.

    Raises:
        UsageError: the folder is not empty, or it cannot be replaced.
    """
    _require_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".clone-") as scratch:
        whole = Path(scratch) / folder.name
        yield whole
        whole.rename(folder)


def _require_replaceable(folder: Path) -> None:
    """Requires that a folder can be made, or is empty and can be replaced."""
    require_new(folder)
    if folder == Path.cwd() or folder.is_mount():
        raise UsageError(
            f"{folder} is the current folder or a mount, which a clone cannot replace: give the "
            "name of a new folder"
        )


def _check_out(url: str, git: Git) -> None:
    """Checks out HEAD or else the only branch; requires that it is of a niwfctl repository."""
    if git.head() is None:  # the remote's HEAD is a branch that was never pushed
        branches = branches_of(git, "origin")
        if len(branches) > 1:
            raise UsageError(
                f"{_shown(url)} has {', '.join(branches)}, but its HEAD is none of them: choose "
                f"one there with `git symbolic-ref HEAD refs/heads/{branches[0]}`"
            )
        for branch in branches:
            git.follow(branch)
    else:
        git.checkout("HEAD")
    if git.head() is None or git.blob("HEAD", FILE) is None:
        raise NotARepository(f"{_shown(url)} is not a niwfctl repository: it has no {FILE}")


def _is_clone(url: str, folder: Path) -> bool:
    if not (folder / ".git").is_dir():
        return False
    origin = ("git", "-C", str(folder), "config", "remote.origin.url")
    known = subprocess.run(origin, capture_output=True, text=True, check=False).stdout.strip()
    return known == _located(url)


def _has_objects(repository: Repository) -> bool:
    """Whether everything is here that a clone fetches."""
    branches = [place("origin", name) for name in branches_of(repository.git, "origin")]
    needed = pointed(repository.git, "--no-walk", "HEAD", *branches).values()
    return all(oid in repository.store for oid in needed)


def _shown(url: str) -> str:
    """A URL as messages and logs may show it: without a password or token, as git shows it."""
    return re.sub(r"^(\w[\w+.-]*://)[^/@]*@", r"\1", url)


def _located(url: str) -> str:
    """The absolute path of a folder; any other URL unchanged."""
    return str(Path(url).resolve()) if Path(url).exists() else url
