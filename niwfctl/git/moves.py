"""Moving a branch, with the index and the work tree: all of it or nothing, and no edit is lost."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import git
from niwfstore.atomic import write_atomic

from niwfctl.errors import GitError, NiwfError, UsageError
from niwfctl.git.index import rewrite_index
from niwfctl.git.merges import GitMerges
from niwfctl.git.process import words
from niwfctl.git.reflocks import await_locks

_FILE = re.compile(r"^:\d+ 100644 \w+ (\w+) \w\t(.+)$", re.M)  # (blob, path) from `diff-tree`


class GitMoves(GitMerges):
    """The branch that HEAD is on, and what lies in the work tree."""

    def refuse_loss(self, new: str, paths: Iterable[str]) -> None:
        """Refuses where `sync` would lose what neither HEAD nor `new` has.

        What a killed `sync` wrote equals `new`, so doing it again is not refused.

        Raises:
            UsageError: a file has local changes, staged or not, or is not tracked.
        """
        with self._command("look for local changes"):
            changed = self._changed(paths)
            if not changed:
                return
            known = [self._listed("ls-tree", "-rz", of, "--", *changed) for of in ("HEAD", new)]
            staged = self._listed("ls-files", "--stage", "-z", "--", *changed)
            here = self._hashed([path for path in changed if (self.worktree / path).is_file()])
        lost = [
            path
            for path in changed
            if {here.get(path), staged.get(path)} - {None, *(blobs.get(path) for blobs in known)}
        ]
        if lost:
            raise UsageError(
                f"local changes of {', '.join(lost)} would be lost: commit them with git, or put "
                "them aside with `git stash --include-untracked`"
            )

    def _changed(self, paths: Iterable[str]) -> list[str]:
        """Those of `paths` that differ from HEAD in the work tree or the index."""
        if not (paths := sorted(paths)):  # git would list everything
            return []
        plain = ("--no-optional-locks", "status", "--porcelain", "-z", "--no-renames")
        listed = self._git(*plain, "--untracked-files=all", "--", *paths)
        return [line[3:] for line in listed.split("\0") if line]

    def sync(self, commit: str, paths: Iterable[str]) -> None:
        """Writes `paths` as of `commit` to the work tree and the index.

        Every file, and the index, is replaced atomically.

        Raises:
            UsageError: a folder is a symbolic link, which may lead anywhere.
        """
        paths = list(paths)
        for folder in {(self.worktree / path).parent for path in paths} - {self.worktree}:
            if folder.is_symlink():
                raise UsageError(f"{folder} is a symbolic link: replace it with a folder")
        with self._command("update the index"), self.scratch() as scratch:
            blobs = self._listed("ls-tree", "-r", "-z", commit, "--", *paths)
            contents = self.blobs(blobs.values())
            for path in paths:
                if path in blobs:
                    # Through a temporary file outside the work tree, since a kill leaves it behind.
                    write_atomic(self.worktree / path, contents[blobs[path]], scratch=scratch)
                else:
                    (self.worktree / path).unlink(missing_ok=True)
            staged = {path: blobs.get(path) for path in paths}
            rewrite_index(
                self.folder,
                scratch,
                lambda index: self._stage(staged, {"GIT_INDEX_FILE": str(index)}),
            )

    def advance(self, new: str, old: str | None, reason: str) -> None:
        """Moves HEAD's branch from `old` to `new`.

        Raises:
            Busy: another git is moving a branch.
            GitError: it is no longer at `old`: someone else moved it.
        """
        self.await_locks()
        with self._command("move the branch, which has changed meanwhile: try again"):
            self._git("update-ref", "-m", reason, "HEAD", new, old or "")

    def await_locks(self) -> None:
        """Waits for others that change refs; locks that a kill left behind are removed.

        Raises:
            Busy: another git does not end.
        """
        await_locks({self.folder, self.common})

    def move(self, old: str, new: str, reason: str) -> None:
        """Moves HEAD's branch, index and work tree from one commit to another.

        Raises:
            UsageError: local changes would be lost.
            Busy: another git is moving a branch.
            GitError: the branch is no longer at `old`; index and work tree are as before.
        """
        self.await_locks()
        with self._command("read the commit at HEAD"):
            head = self._run.rev_parse("HEAD^{commit}")
        if head != old:
            raise GitError("the branch has changed meanwhile: try again")
        self._read(old, new)
        try:
            self.advance(new, old, reason)
        except NiwfError:
            self._read(new, old)
            raise

    def _read(self, old: str, new: str) -> None:
        """Brings what differs between two commits into the index and the work tree.

        Raises:
            UsageError: local changes would be lost.
        """

        def read(index: Path) -> None:
            env = {"GIT_INDEX_FILE": str(index)}
            self._stage(self._brought(old, new), env)
            # The index has no file times for what `sync` wrote.
            self._git("update-index", "-q", "--refresh", env=env, with_exceptions=False)
            self._git("read-tree", "-m", "-u", old, new, env=env)

        try:
            with self.scratch() as scratch:
                rewrite_index(self.folder, scratch, read)
        except git.GitCommandError as error:
            raise UsageError(f"local changes would be lost: {words(error)}") from error

    def _brought(self, old: str, new: str) -> dict[str, str]:
        """Blob by path of the changes that are already in the work tree, from a killed move."""
        plain = ("-c", "core.quotePath=true")  # so that a quoted path names no file
        listed = self._git(*plain, "diff-tree", "-r", "--no-renames", "--diff-filter=AM", old, new)
        found = {path: blob for blob, path in _FILE.findall(listed)}
        files = [path for path in found if (self.worktree / path).is_file()]
        return dict(found.items() & self._hashed(files).items())
