"""push, fetch, pull, clone: git and git-lfs move the bytes, in the order that loses nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from niwfctl.errors import RemoteError, UsageError
from niwfctl.repository.git import require_git
from niwfctl.repository.objects import require_new

if TYPE_CHECKING:
    from niwfctl.repository.merge import Merged
    from niwfctl.repository.repository import Repository


class Remotes:
    """The remotes of one repository."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._git = repository.git

    def push(self, remote: str, refs: list[str]) -> int:
        """Pushes refs; returns how many objects went before them.

        Objects travel first, each hashed before it leaves, so that a remote never holds a pointer
        without its object.

        Raises:
            ObjectError: an object is missing or corrupt here; nothing is pushed.
            RemoteError: the remote cannot be reached, or refuses.
        """
        refs = refs or [self._branch()]
        oids = self._outgoing(remote, refs)
        for oid in oids:
            self._repository.object_path(oid)
        if oids:
            require_lfs()
            listed = "".join(f"{oid}\n" for oid in oids)
            _run(self._there("lfs", "push", "--object-id", "--stdin", remote), listed)
        _run(self._there("push", "--set-upstream", remote, *refs))
        return len(oids)

    def fetch(self, remote: str, everything: bool = False, lazy: bool = False) -> None:
        """Fetches refs, then the objects of HEAD and of the remote's branches.

        Args:
            everything: the objects of all history.
            lazy: no objects; they come when a command first needs them.

        Raises:
            RemoteError: the remote cannot be reached.
        """
        _run(self._there("fetch", "--tags", remote))
        if not lazy:
            require_lfs()
            listed = self._git.plain(
                "for-each-ref", "--format=%(refname)", f"refs/remotes/{remote}"
            )
            what = (
                ["--all"] if everything else [r for r in listed.split() if not r.endswith("/HEAD")]
            )
            _run(self._there("lfs", "fetch", remote, *what))

    def pull(self, remote: str, lazy: bool = False) -> Merged:
        """Fetches, and merges the remote's branch of the same name.

        Raises:
            RemoteError, Conflict, UsageError: as `fetch` and `Repository.merge`.
        """
        self.fetch(remote, lazy=lazy)
        return self._repository.merge(f"{remote}/{self._branch()}")

    def fetch_object(self, oid: str) -> bool:
        """Gets one object of HEAD from the first remote that has it; whether it is here now."""
        for remote in self._git.plain("remote").split():
            if shutil.which("git-lfs"):
                include = ("--include", f"objects/{oid}.safetensors")
                subprocess.run(
                    self._there("lfs", "fetch", remote, "HEAD", *include),
                    stdout=subprocess.DEVNULL,
                    check=False,
                )
            if oid in self._repository.store:
                return True
        return False

    def _outgoing(self, remote: str, refs: list[str]) -> list[str]:
        return self._objects([*refs, "--not", f"--remotes={remote}"])

    def _objects(self, revisions: list[str]) -> list[str]:
        listed = self._git.plain("rev-list", "--objects", *revisions)
        paths = (line.split(" ", 1)[1] for line in listed.splitlines() if " " in line)
        return [Path(path).stem for path in paths if path.startswith("objects/")]

    def _branch(self) -> str:
        branch = self._git.branch()
        if branch is None:
            raise UsageError("HEAD is detached: say which branch, or check one out")
        return branch

    def _there(self, *arguments: str) -> list[str]:
        return ["git", "-C", str(self._git.worktree), *arguments]


def clone(url: str, folder: Path) -> None:
    """Clones history and pointers; `fetch` brings the objects.

    Raises:
        UsageError: the folder is there and not empty.
        RemoteError: the remote cannot be reached.
    """
    require_git()
    require_new(folder)
    _run(["git", "clone", url, str(folder)])


def require_lfs() -> None:
    """Asks for git-lfs before anything is transferred.

    Raises:
        RemoteError: it is not installed.
    """
    if not shutil.which("git-lfs"):
        raise RemoteError(
            "git-lfs is not installed, and objects travel with it: https://git-lfs.com"
        )


def _run(command: list[str], given: str = "") -> None:
    """Runs a transfer with its own progress on the terminal."""
    with tempfile.TemporaryFile() as file:
        file.write(given.encode())
        file.seek(0)
        done = subprocess.run(
            command,
            stdin=file,
            stdout=subprocess.DEVNULL,
            check=False,
            env={**os.environ, "GIT_LFS_SKIP_SMUDGE": "1"},
        )
    if done.returncode:
        what = " ".join(part for part in command[1:4] if not part.startswith(("-", "/")))
        raise RemoteError(
            f"`git {what}` failed (see above): nothing is lost, and the same command goes on "
            "where it stopped"
        )
