"""Merging the files of two commits in git's object store; no ref, index or work tree changes."""

from __future__ import annotations

from pathlib import Path

import git

from niwfctl.errors import GitError
from niwfctl.git.objects import GitObjects
from niwfctl.git.process import lines_of

_WRITES_TREES = (2, 38)  # the first git whose merge-tree writes trees


class GitMerges(GitObjects):
    """Merges the trees of two commits."""

    def merge_bases(self, one: str, other: str) -> list[str]:
        """The best common ancestors: several after criss-cross merges, none if unrelated."""
        try:
            return lines_of(self._run.merge_base("--all", one, other))
        except git.GitCommandError:
            return []

    def forked_from(self, upstream: str) -> str | None:
        """Where HEAD's branch left an upstream, by what that ever was here; None if not known."""
        options = ("--fork-point", upstream, "HEAD")
        return self._git("merge-base", *options, with_exceptions=False).strip() or None

    def differing(self, one: str, other: str) -> list[str]:
        """Paths of the files that differ between two commits."""
        listed = self._git("diff-tree", "-r", "-z", "--name-only", "--no-renames", one, other)
        return [path for path in listed.split("\0") if path]

    def merge_tree(self, ours: str, theirs: str) -> tuple[str, list[str]]:
        """(tree of the merged files, paths in conflict), as `git merge` would have it.

        Raises:
            GitError: git fails.
        """
        if self._run.version_info < _WRITES_TREES:
            with self.scratch() as scratch:
                return self._merged_in(scratch, ours, theirs)
        status, text, error = self._git(
            "merge-tree",
            "--write-tree",
            "--name-only",
            "--no-messages",
            "-z",
            "--allow-unrelated-histories",
            ours,
            theirs,
            with_extended_output=True,
            with_exceptions=False,
        )
        if status not in (0, 1):
            raise GitError(f"git could not merge: {error}")
        tree, *paths = text.rstrip("\0").split("\0")
        return tree, paths

    def _merged_in(self, scratch: Path, ours: str, theirs: str) -> tuple[str, list[str]]:
        """The same in a temporary work tree; paths in conflict are not in the tree."""
        place = scratch / "tree"
        place.mkdir()
        env = {
            "GIT_DIR": str(self.folder),
            "GIT_WORK_TREE": str(place),
            "GIT_INDEX_FILE": str(scratch / "index"),
        }
        with self._command("merge"):
            self._git("read-tree", ours, env=env)
            self._git("checkout-index", "--all", "--index", env=env)
            status, _, error = self._git(
                *("merge-recursive", *self.merge_bases(ours, theirs), "--", ours, theirs),
                env=env,
                with_extended_output=True,
                with_exceptions=False,
            )
            if status not in (0, 1):
                raise GitError(f"git could not merge: {error}")
            unmerged = self._git("ls-files", "--unmerged", "-z", env=env).split("\0")
            paths = sorted({entry.split("\t", 1)[1] for entry in unmerged if entry})
            self._stage(dict.fromkeys(paths), env)
            return self._git("write-tree", env=env), paths
