"""Runs git and its hooks: durably, without an editor, its refusals raised as errors."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import git
from niwfstore.atomic import make_dirs

from niwfctl.errors import GitError, UsageError
from niwfctl.layout import PRIVATE

_DISK = {  # messages of the system, git and git-lfs, in lower case
    "no space left on device": errno.ENOSPC,
    "out of diskspace": errno.ENOSPC,
    "couldn't write '": errno.ENOSPC,  # a ref
    "failed to write new configuration": errno.ENOSPC,
    "disk quota exceeded": errno.EDQUOT,
    "read-only file system": errno.EROFS,
    "insufficient permission for adding an object": errno.EACCES,
}
# In the words of git, or of git-lfs. "Permission denied (publickey)" is ssh's, about the remote; a
# warning is no reason.
_CLOSED = re.compile(
    r"(?:(?:fatal|error): (?:.*? )?(?:'([^'\n]+)'|(\S+))|\b(?:mkdir|open) (/.+?))"
    r": permission denied'?$",
    re.IGNORECASE | re.MULTILINE,
)
# Variables that say which repository git is in, or lend it parts of another, as listed by `git
# rev-parse --local-env-vars`. Configuration (GIT_CONFIG_COUNT and such) stays: it belongs to none.
_OF_ONE_REPOSITORY = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_COMMON_DIR",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_SHALLOW_FILE",
    "GIT_GRAFT_FILE",
    "GIT_PREFIX",
    "GIT_INTERNAL_SUPER_PREFIX",
    "GIT_CONFIG",
    "GIT_NO_REPLACE_OBJECTS",
    "GIT_REPLACE_REF_BASE",
)
OLDEST = (2, 31)  # the first git with --diff-merges=first-parent
_RUNS_HOOKS = (2, 36)  # the first git with `git hook run`
_SHOW_PROGRESS = ("clone", "fetch", "push")
DURABLE = ("-c", "core.fsync=all", "-c", "core.fsyncMethod=fsync")


class GitCommand(git.Git):
    """git, run in exactly this folder: GitPython would expand a `$HOME` in its name."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self._working_dir = str(folder)


class Repo(git.Repo):
    """GitPython's repository, which runs git by `GitCommand`."""

    GitCommandWrapperType = GitCommand


class GitProcess:
    """git, run in one repository and its main work tree."""

    def __init__(self, repo: Repo) -> None:
        self._run = repo.git
        self.worktree = Path(repo.working_tree_dir)
        self.folder = Path(repo.git_dir)
        self.common = Path(repo.common_dir)

    def plain(self, *arguments: str) -> str:
        """Runs a git command; returns its output.

        Raises:
            UsageError: git refuses; the message is git's.
        """
        try:
            return self._git(*arguments)
        except git.GitCommandError as error:
            blame_disk(str(error.stderr))
            raise UsageError(f"git says: {words(error)}") from error

    def ask_hook(self, name: str, *arguments: str, env: dict[str, str] | None = None) -> None:
        """Runs a hook if there is one.

        Raises:
            GitError: it refuses.
        """
        try:
            self._hook(name, *arguments, env=env)
        except git.GitCommandError as error:
            raise GitError(f"the {name} hook refused: {words(error)}") from error

    def tell_hook(self, name: str, *arguments: str) -> None:
        """Runs a hook if there is one, after the fact: as with git, its failure changes nothing."""
        with suppress(git.GitCommandError):
            self._hook(name, *arguments)

    def _hook(self, name: str, *arguments: str, env: dict[str, str] | None = None) -> None:
        if self._run.version_info >= _RUNS_HOOKS:
            self._git("hook", "run", "--ignore-missing", name, "--", *arguments, env=env)
            return
        file = self.worktree / self._run.rev_parse("--git-path", f"hooks/{name}")
        if os.access(file, os.X_OK):
            self._run.execute([str(file), *arguments], env=env)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A temporary folder in the repository, for a block; gc removes what a kill leaves."""
        parent = self.common / PRIVATE / "tmp"
        make_dirs(parent)
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            yield Path(folder)

    def _is_set(self, name: str) -> bool:
        return self._git("config", "--type=bool", "--get", "--default=false", name) == "true"

    def _git(self, *arguments: str, env: dict[str, str] | None = None, **options: object) -> str:
        # Objects stay in the store; a work tree needs only their pointers. No editor opens.
        env = {"GIT_LFS_SKIP_SMUDGE": "1", "GIT_EDITOR": "false", **(env or {})}
        return self._run.execute(["git", *DURABLE, *arguments], env=env, **options)

    @contextmanager
    def _command(self, purpose: str) -> Iterator[None]:
        try:
            yield
        except git.GitCommandError as error:
            blame_disk(str(error.stderr))
            raise GitError(f"git could not {purpose}: {words(error)}") from error


def require_git() -> None:
    """Requires git, and drops variables that would lead it to another repository.

    git runs hooks with GIT_DIR and the like set; every git started by such a hook would then use
    that repository, wherever it is told to run.

    Raises:
        GitError: git is not installed.
    """
    for name in _OF_ONE_REPOSITORY:
        os.environ.pop(name, None)
    if not shutil.which("git"):
        raise GitError("git was not found: install git from https://git-scm.com")


def require_recent_git() -> None:
    """Requires a git that has every feature used here.

    Raises:
        GitError: it is too old, or not installed.
    """
    require_git()
    found = GitCommand(Path.cwd()).version_info
    if found < OLDEST:
        raise GitError(
            f"git {'.'.join(map(str, found))} is too old: install {'.'.join(map(str, OLDEST))} or "
            "a newer one, https://git-scm.com/downloads"
        )


def progress() -> int:
    """Where git-lfs draws its progress: the terminal's error stream, or nowhere."""
    return 2 if os.isatty(2) else subprocess.DEVNULL


def transfer(
    folder: Path, *command: str, given: str = "", env: Mapping[str, str] | None = None
) -> str | None:
    """Runs a transfer by git or git-lfs; its output goes to the error stream as it comes.

    Args:
        folder: where it runs.
        given: its input.
        env: added to the environment.

    Returns:
        None on success; else its output.

    Raises:
        OSError: the disk is full or read-only, or the user lacks permission for a file.
    """
    if command[0] == "lfs":
        streams = {"stdout": progress(), "stderr": subprocess.PIPE}
    else:
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        if os.isatty(2) and command[0] in _SHOW_PROGRESS:
            command = (command[0], "--progress", *command[1:])
    # In one language, since the output is searched for reasons.
    env = {**os.environ, "LANGUAGE": "C", "GIT_LFS_SKIP_SMUDGE": "1", **(env or {})}
    said = b""
    with (
        as_input(given) as file,
        subprocess.Popen(
            ["git", *DURABLE, *command], cwd=folder, stdin=file, env=env, **streams
        ) as process,
    ):
        stream = process.stderr or process.stdout
        while part := os.read(stream.fileno(), 1 << 16):
            os.write(2, part)
            said += part
    if not process.returncode:
        return None
    text = said.decode(errors="replace")
    blame_disk(text)
    return text


@contextmanager
def as_input(text: str) -> Iterator[IO[bytes]]:
    """A file with this text, for a command to read."""
    with tempfile.TemporaryFile() as file:
        file.write(text.encode())
        file.seek(0)
        yield file


def lines_of(listed: str) -> list[str]:
    """Lines as git ends them: `splitlines` would end them at a form feed or U+2028 as well."""
    return [line for line in listed.split("\n") if line]


def words(error: git.GitCommandError) -> str:
    """git's own message, in one line."""
    text = str(error.stderr).strip().removeprefix("stderr: ").removeprefix("'").removesuffix("'")
    return " ".join(line.strip() for line in text.splitlines()) or f"exit status {error.status}"


def blame_disk(said: str) -> None:
    """Raises OSError if git failed because of this machine's disk, or of who may access a file."""
    here = "\n".join(line for line in said.splitlines() if not line.startswith("remote:"))
    for reason, number in _DISK.items():
        if reason in here.lower():
            raise OSError(number, os.strerror(number))
    if closed := _CLOSED.search(here):
        path = Path(next(filter(None, closed.groups())))
        # A lock is not there: it is its folder that is closed.
        path = path.parent if path.suffix == ".lock" else path
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(path))
