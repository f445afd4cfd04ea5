"""Running git: durable, without an editor, its refusals as errors, its hooks."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import git
from niwfstore.atomic import make_dirs

from niwfctl.errors import GitError, UsageError

_DISK = {  # as the system and as git say it
    os.strerror(errno.ENOSPC): errno.ENOSPC,
    "Out of diskspace": errno.ENOSPC,
    os.strerror(errno.EROFS): errno.EROFS,
}
DURABLE = ("-c", "core.fsync=all", "-c", "core.fsyncMethod=fsync")


class GitProcess:
    """git, run in one repository and its main work tree."""

    def __init__(self, repo: git.Repo) -> None:
        self._run = repo.git
        self.worktree = Path(repo.working_tree_dir)
        self.folder = Path(repo.git_dir)
        self.common = Path(repo.common_dir)

    def plain(self, *arguments: str) -> str:
        """Runs a git command that does by itself what is wanted; returns its output.

        Raises:
            UsageError: git refuses; the message is git's.
        """
        try:
            return self._git(*arguments)
        except git.GitCommandError as error:
            _blame_disk(error)
            raise UsageError(f"git says: {words(error)}") from error

    def ask_hook(self, name: str, *arguments: str, env: dict[str, str] | None = None) -> None:
        """Runs a hook if there is one.

        Raises:
            GitError: it says no.
        """
        try:
            self._git("hook", "run", "--ignore-missing", name, "--", *arguments, env=env)
        except git.GitCommandError as error:
            raise GitError(f"the {name} hook says no: {words(error)}") from error

    def tell_hook(self, name: str, *arguments: str) -> None:
        """Runs a hook if there is one, after the fact: as with git, its failure changes nothing."""
        with suppress(git.GitCommandError):
            self._git("hook", "run", "--ignore-missing", name, "--", *arguments)

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        parent = self.common / "niwf" / "tmp"
        make_dirs(parent)
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            yield Path(folder)

    def _is_set(self, name: str) -> bool:
        return self._git("config", "--type=bool", "--get", "--default=false", name) == "true"

    def _git(self, *arguments: str, env: dict[str, str] | None = None, **options: object) -> str:
        # Objects stay in the store; a work tree needs their pointers only. Nobody sees an editor.
        env = {"GIT_LFS_SKIP_SMUDGE": "1", "GIT_EDITOR": "false", **(env or {})}
        return self._run.execute(["git", *DURABLE, *arguments], env=env, **options)

    @contextmanager
    def _command(self, purpose: str) -> Iterator[None]:
        try:
            yield
        except git.GitCommandError as error:
            _blame_disk(error)
            raise GitError(f"git could not {purpose}: {words(error)}") from error


def require_git() -> None:
    """Asks for git before anything needs it.

    Raises:
        GitError: it is not installed.
    """
    if not shutil.which("git"):
        raise GitError("there is no git on this machine: install git, https://git-scm.com")


def progress() -> int:
    """Where git-lfs is to draw its progress: the terminal's error stream, or nowhere."""
    return 2 if os.isatty(2) else subprocess.DEVNULL


@contextmanager
def as_input(text: str) -> Iterator[IO[bytes]]:
    """A file to be read by a command, with this text."""
    with tempfile.TemporaryFile() as file:
        file.write(text.encode())
        file.seek(0)
        yield file


def words(error: git.GitCommandError) -> str:
    """git's own words, in one line."""
    text = str(error.stderr).strip().removeprefix("stderr: ").removeprefix("'").removesuffix("'")
    return " ".join(line.strip() for line in text.splitlines()) or f"exit status {error.status}"


def _blame_disk(error: git.GitCommandError) -> None:
    """Raises what git met as the error that it was, where the disk was the reason."""
    for said, number in _DISK.items():
        if said in str(error.stderr):
            raise OSError(number, os.strerror(number)) from error
