"""git, through its plumbing: commits are made without the index, and refs are compared and swapped.

A kill can leave no index.lock behind, since none is taken, and everything git writes is fsynced.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import git
from niwfstore.atomic import fsync_dir, make_dirs, write_atomic

from niwfctl.errors import GitError, NotARepository, UnknownName, UsageError

Changes = Mapping[str, bytes | None]
_NO_OBJECT = "0" * 40
_DURABLE = ("-c", "core.fsync=all", "-c", "core.fsyncMethod=fsync")


class Git:
    """One git repository and its main work tree."""

    def __init__(self, repo: git.Repo) -> None:
        self._repo = repo
        self._run = repo.git
        self.worktree = Path(repo.working_tree_dir)
        self.folder = Path(repo.git_dir)
        self.common = Path(repo.common_dir)

    @classmethod
    def open(cls, path: Path) -> Git:
        """The repository that `path` lies in.

        Raises:
            NotARepository: there is none, or it has no work tree.
        """
        try:
            repo = git.Repo(path, search_parent_directories=True)
        except (git.InvalidGitRepositoryError, git.NoSuchPathError) as error:
            raise NotARepository(
                f"{path} is not inside a niwfctl repository: make one with `niwfctl init`"
            ) from error
        if repo.working_tree_dir is None:
            raise NotARepository(f"{path} is a bare git repository: clone it and work in the clone")
        return cls(repo)

    @classmethod
    def init(cls, path: Path) -> Git:
        """Makes a repository at `path`, or joins the one that is rooted there."""
        return cls(git.Repo.init(path, mkdir=True))

    @staticmethod
    def require_identity(path: Path) -> None:
        """Asks git who commits, as it would know inside `path`.

        Raises:
            GitError: git knows no name or e-mail.
        """
        there = next(folder for folder in (path, *path.resolve().parents) if folder.is_dir())
        try:
            git.Git(there).var("GIT_COMMITTER_IDENT")
            git.Git(there).var("GIT_AUTHOR_IDENT")
        except git.GitCommandError as error:
            raise GitError(
                "git does not know who you are: run `git config --global user.name NAME` and "
                "`git config --global user.email EMAIL`"
            ) from error

    def head(self) -> str | None:
        """Commit id of HEAD; None before the first commit."""
        try:
            return self.resolve("HEAD")
        except UnknownName:
            return None

    def resolve(self, revision: str) -> str:
        """Full id of the commit a revision names.

        Raises:
            UnknownName: there is no such commit.
        """
        if not revision.startswith("-"):
            try:
                return self._run.rev_parse("--verify", "--quiet", f"{revision}^{{commit}}")
            except git.GitCommandError:
                pass
        raise UnknownName(
            f"no commit is called {revision!r}: expected a branch, a tag or a commit id, as "
            "`niwfctl log` shows them"
        )

    def branch(self) -> str | None:
        """Name of the current branch; None when HEAD is detached."""
        try:
            return self._run.symbolic_ref("--short", "--quiet", "HEAD")
        except git.GitCommandError:
            return None

    def names(self, name: str) -> list[str]:
        """Full names of the branches and tags called `name`."""
        listed = self._run.for_each_ref(
            "--format=%(refname)", f"refs/heads/{name}", f"refs/tags/{name}"
        )
        return [ref for ref in listed.splitlines() if ref.split("/", 2)[2] == name]

    def files(self, commit: str, folder: str) -> dict[str, str]:
        """Blob id by path of the files in one folder of a commit."""
        listed = self._run.ls_tree("-z", commit, "--", f"{folder}/")
        entries = (entry.split("\t", 1) for entry in listed.split("\0") if entry)
        return {path: meta.split()[2] for meta, path in entries if meta.split()[1] == "blob"}

    def blob(self, commit: str, path: str) -> bytes | None:
        """Content of a file in a commit; None if there is no such file."""
        try:
            return self._cat(f"{commit}:{path}")
        except git.GitCommandError:
            return None

    def blobs(self, ids: Iterable[str]) -> dict[str, bytes]:
        """Contents of blobs by id, read by one git process."""
        wanted = list(dict.fromkeys(ids))
        if not wanted:
            return {}
        with _as_input("".join(f"{blob}\n" for blob in wanted)) as questions:
            answer = self._run.cat_file(
                "--batch", istream=questions, stdout_as_string=False, strip_newline_in_stdout=False
            )
        found, start = {}, 0
        for blob in wanted:
            end = answer.index(b"\n", start)
            size = int(answer[start:end].split()[2])
            found[blob] = answer[end + 1 : end + 1 + size]
            start = end + size + 2
        return found

    def commit(self, changes: Changes, message: str, parents: Sequence[str]) -> str:
        """Makes a commit object: the first parent's files with `changes`. No ref moves.

        Args:
            changes: new content by path; None removes the file.
            parents: commit ids; none for a first commit.

        Raises:
            GitError: git refuses, for instance without an identity.
        """
        with self._command("make the commit"), self._scratch() as scratch:
            index = {"GIT_INDEX_FILE": str(scratch / "index")}
            if parents:
                self._git("read-tree", parents[0], env=index)
            kept = {path: content for path, content in changes.items() if content is not None}
            blobs = dict(zip(kept, self._write_blobs(scratch, list(kept.values())), strict=True))
            self._stage({path: blobs.get(path) for path in changes}, index)
            tree = self._git("write-tree", env=index)
            line = [part for parent in parents for part in ("-p", parent)]
            return self._git("commit-tree", tree, *line, "-m", message)

    def sync(self, commit: str, paths: Iterable[str]) -> None:
        """Makes the work tree and the index hold `paths` as `commit` has them.

        Every file, and the index, is replaced atomically.
        """
        paths, index = list(paths), self.folder / "index"
        with self._command("update the index"), self._scratch() as scratch:
            listed = self._run.ls_tree("-r", "-z", commit, "--", *paths)
            entries = (entry.split("\t", 1) for entry in listed.split("\0") if entry)
            blobs = {path: meta.split()[2] for meta, path in entries}
            contents = self.blobs(blobs.values())
            for path in paths:
                if path in blobs:
                    write_atomic(self.worktree / path, contents[blobs[path]])
                else:
                    (self.worktree / path).unlink(missing_ok=True)
            copy = scratch / "index"
            if index.exists():
                shutil.copyfile(index, copy)
            self._stage({path: blobs.get(path) for path in paths}, {"GIT_INDEX_FILE": str(copy)})
            if copy.exists():
                os.replace(copy, index)
                fsync_dir(self.folder)

    def advance(self, new: str, old: str | None, reason: str) -> None:
        """Moves HEAD's branch from `old` to `new`.

        Raises:
            GitError: it no longer is at `old`: someone else moved it.
        """
        with self._command("move the branch, which has changed meanwhile: try again"):
            self._git("update-ref", "-m", reason, "HEAD", new, old or _NO_OBJECT)

    def checkout(self, revision: str) -> str:
        """`git checkout REVISION`; returns what git said.

        Raises:
            UsageError: git refuses, because local changes would be lost.
        """
        try:
            status = self._run.checkout(revision, with_extended_output=True)
        except git.GitCommandError as error:
            raise UsageError(f"git cannot check out {revision!r}: {_reason(error)}") from error
        return status[2]

    def changes(self, *paths: str) -> list[str]:
        """Lines of `git status --short` for paths of the work tree."""
        listed = self._run.status(
            "--short", "--untracked-files=all", "--", *paths, strip_newline_in_stdout=False
        )
        return listed.splitlines()

    def log(self, revision: str, format: str, *options: str) -> str:
        """`git log` with a format."""
        return self._run.log(revision, f"--format={format}", *options)

    def _write_blobs(self, scratch: Path, contents: Sequence[bytes]) -> list[str]:
        files = [scratch / f"blob{number}" for number in range(len(contents))]
        for file, content in zip(files, contents, strict=True):
            file.write_bytes(content)
        with _as_input("".join(f"{file}\n" for file in files)) as paths:
            options = ("-w", "--no-filters", "--stdin-paths")
            return self._git("hash-object", *options, istream=paths).split()

    def _stage(self, blobs: Mapping[str, str | None], index: dict[str, str]) -> None:
        """Puts blobs into an index; None takes the path out."""
        lines = "".join(
            f"100644 {blob}\t{path}\n" if blob else f"0 {_NO_OBJECT}\t{path}\n"
            for path, blob in blobs.items()
        )
        with _as_input(lines) as info:
            self._git("update-index", "--add", "--index-info", istream=info, env=index)

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        parent = self.common / "niwf" / "tmp"
        make_dirs(parent)
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            yield Path(folder)

    def _cat(self, name: str) -> bytes:
        return self._run.cat_file(
            "blob", name, stdout_as_string=False, strip_newline_in_stdout=False
        )

    def _git(self, *arguments: str, **options: object) -> str:
        return self._run.execute(["git", *_DURABLE, *arguments], **options)

    @contextmanager
    def _command(self, purpose: str) -> Iterator[None]:
        try:
            yield
        except git.GitCommandError as error:
            raise GitError(f"git could not {purpose}: {_reason(error)}") from error


@contextmanager
def _as_input(text: str) -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as file:
        file.write(text.encode())
        file.seek(0)
        yield file


def _reason(error: git.GitCommandError) -> str:
    text = str(error.stderr).strip().removeprefix("stderr: ").strip("'\n ")
    return " ".join(line.strip() for line in text.splitlines()) or f"exit status {error.status}"
