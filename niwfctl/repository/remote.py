"""push, fetch, pull, clone: git and git-lfs move the bytes, in the order that loses nothing."""

from __future__ import annotations

import itertools
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from niwfstore import Pointer

from niwfctl.errors import RemoteError, UsageError
from niwfctl.repository.lfs import fetch_object, lacking, require_lfs
from niwfctl.repository.objects import pointed, require_new
from niwfctl.repository.process import require_git

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

        Objects travel first, each hashed before it leaves, and the remote must say that it has
        them: so it never holds a pointer without its object.

        Raises:
            ObjectError: an object is missing or corrupt here; nothing is pushed.
            RemoteError: the remote cannot be reached, refuses, or has not what it was sent; no
                ref has moved there.
        """
        refs = refs or [self._branch()]
        oids = self._outgoing(remote, refs)
        for oid in oids:
            self._repository.object_path(oid)
        if oids:
            require_lfs()
            listed = "".join(f"{oid}\n" for oid in oids)
            _run(self._there("lfs", "push", "--object-id", "--stdin", remote), listed)
            self._prove(remote, oids)
        self._git.await_locks()
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
        self._git.await_locks()
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

    def fetch_object(self, oid: str) -> str | None:
        """Gets one object from the first remote that has it.

        Returns:
            None if it is here now; else why not, as a clause.
        """
        store = self._repository.store
        served, otherwise = self._first(
            lambda remote: fetch_object(self._git, remote, oid) and oid in store
        )
        return None if served else otherwise

    def who_has(self, pointer: Pointer) -> str:
        """Which remote has an object, and how to get it from there, as a clause."""
        holder, otherwise = self._first(lambda remote: not lacking(self._git, remote, [pointer]))
        has = f"{holder} has it: get it with `niwfctl fetch {holder} --all`"
        return has if holder else otherwise

    def _first(self, serves: Callable[[str], bool]) -> tuple[str | None, str]:
        """The first remote that serves, or None; and why none does, as a clause."""
        remotes = self._git.plain("remote").split()
        troubles = []
        for remote in remotes:
            try:
                if serves(remote):
                    return remote, ""
            except RemoteError as error:
                troubles.append(str(error))
        if not remotes:
            return None, "there is no remote that could have it"
        asked = f"no remote has it (asked {', '.join(remotes)})"
        return None, "; ".join(dict.fromkeys(troubles)) or asked

    def _prove(self, remote: str, oids: list[str]) -> None:
        store = self._repository.store
        missing = lacking(self._git, remote, [Pointer(oid, store.size(oid)) for oid in oids])
        if missing:
            raise RemoteError(
                f"{remote} took object {missing} and has it not: no branch was pushed; look at the "
                "remote's storage and push again"
            )

    def _outgoing(self, remote: str, refs: list[str]) -> list[str]:
        found = pointed(self._git, *refs, "--not", f"--remotes={remote}")
        return list(dict.fromkeys(found.values()))

    def _branch(self) -> str:
        branch = self._git.branch()
        if branch is None:
            raise UsageError("HEAD is detached: say which branch, or check one out")
        return branch

    def _there(self, *arguments: str) -> list[str]:
        return ["git", "-C", str(self._git.worktree), *arguments]


def clone(url: str, folder: Path) -> None:
    """Clones history and pointers; `fetch` brings the objects.

    The folder appears once all of its history is there. If it is a clone of `url` already, it
    stays as it is, so that a clone which was interrupted among its objects can go on.

    Raises:
        UsageError: the folder is there, not empty, and no clone of this.
        RemoteError: the remote cannot be reached.
    """
    require_git()
    if _is_clone(url, folder):
        return
    require_new(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".clone-") as scratch:
        whole = Path(scratch) / folder.name
        _run(["git", "clone", url, str(whole)])
        whole.rename(folder)


def _is_clone(url: str, folder: Path) -> bool:
    if not (folder / ".git").is_dir():
        return False
    origin = ("git", "-C", str(folder), "config", "remote.origin.url")
    known = subprocess.run(origin, capture_output=True, text=True, check=False).stdout.strip()
    return known == (str(Path(url).resolve()) if Path(url).exists() else url)


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
        what = " ".join(itertools.takewhile(str.isalpha, command[3 if command[1] == "-C" else 1 :]))
        raise RemoteError(
            f"`git {what}` failed (see above): nothing is lost, and the same command goes on "
            "where it stopped"
        )
