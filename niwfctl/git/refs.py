"""Branches and tags: listed, made and deleted by git itself."""

from __future__ import annotations

from typing import NamedTuple

from niwfctl.errors import UnknownName, UsageError
from niwfctl.git.git import Git, Ref
from niwfctl.git.process import lines_of
from niwfctl.several import Names, several


class Upstream(NamedTuple):
    """The remote's branch that a branch follows, as last fetched.

    Attributes:
        ahead: how many commits the branch has that this lacks.
        behind: how many commits the branch lacks.
    """

    name: str
    ahead: int
    behind: int


class _Refs:
    """The refs of one kind."""

    command: str  # git's, and the noun in messages
    folder: str  # below refs/

    def __init__(self, git: Git) -> None:
        self._git = git

    def entries(self, patterns: Names = ()) -> list[Ref]:
        """All, or those whose names match any of some patterns such as `v1*`, by name."""
        return self._matching(self.folder, patterns)

    def _matching(self, folder: str, patterns: Names, *options: str) -> list[Ref]:
        """Refs of a folder that match patterns as git matches them, with `options`."""
        entries = self._git.refs(folder)
        if not (patterns := several(patterns)):
            return entries
        options = (*options, "--format=%(refname:lstrip=2)")
        found = lines_of(self._git.plain(self.command, "--list", *options, "--", *patterns))
        return [ref for ref in entries if ref.name in found]

    def delete(self, names: Names, force: bool = False) -> str:
        """Deletes some, unless they are unmerged branches; returns git's output.

        Args:
            force: delete unmerged branches, too.

        Raises:
            UnknownName: there is none of some name, and none is deleted; the message lists what
                there is.
            UsageError: git refuses to delete those that it names; it deleted the others.
        """
        self.require(names)
        options = ["--force"] if force else []
        return self._git.plain(self.command, "--delete", *options, "--", *several(names))

    def require(self, names: Names) -> None:
        """Requires that one of each name exists.

        Raises:
            UnknownName: there is none; the message lists what there is.
        """
        known = [ref.name for ref in self._git.refs(self.folder)]
        if missing := [repr(name) for name in several(names) if name not in known]:
            there = ", ".join(known) or "none yet"
            raise UnknownName(
                f"no {self.command} is called {' or '.join(missing)}: there are {there}"
            )


class Branches(_Refs):
    """The branches of one repository."""

    command, folder = "branch", "heads"

    def text(self, *options: str, patterns: Names = ()) -> str:
        """The list as git shows it, with the current one marked, and `options` of git."""
        return self._git.plain("branch", "--list", "-v", *options, "--", *several(patterns))

    def of_remotes(self, patterns: Names = ()) -> list[Ref]:
        """The branches of remotes as last fetched, such as `origin/main`, by name."""
        return self._matching("remotes", patterns, "--remotes")

    def upstream(self) -> Upstream | None:
        """What the current branch follows; None if nothing, or nothing that was fetched."""
        try:
            name = self._git.plain("rev-parse", "--abbrev-ref", "@{upstream}")
            span = ("--count", "--left-right", "HEAD...@{upstream}")
            ahead, behind = self._git.plain("rev-list", *span).split()
        except UsageError:
            return None
        return Upstream(name, int(ahead), int(behind))

    def make(self, name: str, start: str = "HEAD") -> None:
        """Makes a branch at a revision; it is not checked out.

        Raises:
            UnknownName: there is no such revision.
            UsageError: git refuses the name, or it is taken.
        """
        self._git.plain("branch", "--", name, self._git.resolve(start))

    def rename(self, old: str | None, new: str, force: bool = False) -> None:
        """Renames a branch, the current one where `old` is None.

        Args:
            force: replace a branch that has the new name.

        Raises:
            UnknownName: there is none of that name; the message lists what there is.
            UsageError: git refuses the new name, or it is taken.
        """
        if old is not None:
            self.require(old)
        options = ["--force"] if force else []
        self._git.plain("branch", "--move", *options, "--", *([old] if old else []), new)


class Tags(_Refs):
    """The tags of one repository."""

    command, folder = "tag", "tags"

    def text(self, patterns: Names = ()) -> str:
        """The list as git shows it, with the first line of each message."""
        return self._git.plain("tag", "--list", "-n1", "--", *several(patterns))

    def make(self, name: str, revision: str = "HEAD", message: str | None = None) -> None:
        """Tags a revision; with a message, the tag is annotated.

        Raises:
            UnknownName: there is no such revision.
            UsageError: git refuses the name, or it is taken.
        """
        annotated = ("-m", message) if message is not None else ()
        self._git.plain("tag", *annotated, "--", name, self._git.resolve(revision))
