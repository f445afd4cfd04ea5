"""History in terms of capabilities, read by two git processes whatever its length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from niwfctl.atlas import Capability, manifest_name, parse_range
from niwfctl.errors import FormatError
from niwfctl.git.git import Git
from niwfctl.layout import MANIFESTS, manifest_file
from niwfctl.several import Names, several

_FORMAT = "%x00%H%x00%an%x00%ae%x00%aI%x00%D%x00%B%x00"  # NUL: not in any message
_OF_MERGES = "--diff-merges=first-parent"  # it also decides which commits changed a path
_FIELDS = 7  # the last is what the commit changed


@dataclass(frozen=True)
class Change:
    """What a commit did to one capability.

    Attributes:
        kind: `added`, `changed` or `removed`.
        name: of the capability.
        capability: as of the commit, or of its parent if removed; None if its manifest cannot be
            read, which a later commit may have fixed.
        problem: why the manifest cannot be read; empty if it can.
    """

    kind: str
    name: str
    capability: Capability | None
    problem: str = ""


@dataclass(frozen=True)
class Commit:
    """One commit of the history."""

    id: str
    author: str
    email: str
    date: str
    refs: tuple[str, ...]
    message: str
    changes: tuple[Change, ...]

    @property
    def subject(self) -> str:
        """The first line of the message."""
        return self.message.split("\n", 1)[0]


class History:
    """Reads a repository's history."""

    def __init__(self, git: Git) -> None:
        self._git = git

    def log(
        self,
        revisions: Names = "HEAD",
        limit: int | None = None,
        first_parent: bool = False,
        by_branch: bool = False,
        names: Names = (),
        everything: bool = False,
    ) -> list[Commit]:
        """Commits reachable from any of some revisions, newest first.

        Args:
            revisions: also ranges, `A..B` or `A...B`, and `^A` for all but what A reaches, as in
                git.
            limit: of the number of commits.
            first_parent: omit what merges brought in.
            by_branch: keep each branch together whatever the dates, as a graph does.
            names: only commits that changed one of these capabilities, with only those changes.
            everything: also from HEAD and every branch, tag and branch of a remote.

        Raises:
            UnknownName: there is no such revision.
        """
        options = ["--raw", "--no-abbrev", "--no-renames", _OF_MERGES]
        if limit is not None:
            options.append(f"--max-count={limit}")
        if first_parent:
            options.append("--first-parent")
        if by_branch:
            options.append("--topo-order")
        text = self._log(revisions, everything, _FORMAT, *options, *_paths(names))
        fields = iter(text.split("\0")[1:])
        parsed = [_parse(*record) for record in zip(*[fields] * _FIELDS, strict=True)]
        contents = self._git.blobs(blob for _, changes in parsed for _, blob, _ in changes)
        return [Commit(*fields, tuple(_changes(changes, contents))) for fields, changes in parsed]

    def graph(
        self,
        revisions: Names = "HEAD",
        limit: int | None = None,
        names: Names = (),
        everything: bool = False,
    ) -> list[tuple[str, Commit | None]]:
        """Lines of git's graph, each with the commit it shows, or None between commits.

        Raises:
            UnknownName: there is no such revision.
        """
        listed = self.log(revisions, limit, by_branch=True, names=names, everything=everything)
        commits = {commit.id: commit for commit in listed}
        options = ["--graph", "--no-patch", _OF_MERGES]
        options += [f"--max-count={limit}"] if limit is not None else []
        text = self._log(revisions, everything, "%x1e%H", *options, *_paths(names))
        lines = (line.partition("\x1e") for line in text.split("\n"))
        return [(drawn, commits.get(commit)) for drawn, _, commit in lines]

    def knows(self, name: str) -> bool:
        """Whether any commit of any branch had a capability of that name."""
        return bool(self._git.log("HEAD", "%H", "--all", "--max-count=1", *_paths(name)))

    def _log(self, revisions: Names, everything: bool, format: str, *options: str) -> str:
        """`git log` from revisions by the ids of their commits."""
        spans = [self._span(revision) for revision in several(revisions) or ["HEAD"]]
        spans += ["--all"] if everything else []
        return self._git.log(spans[0], format, *spans[1:], *options)

    def _span(self, revision: str) -> str:
        """A revision, range or exclusion by the ids of its commits."""
        if revision.startswith("^"):
            return f"^{self._git.resolve(revision[1:])}"
        if found := parse_range(revision):
            first, dots, last = found
            return dots.join(map(self._git.resolve, (first, last)))
        return self._git.resolve(revision)


def _paths(names: Names) -> list[str]:
    """Arguments of `git log` that limit it to commits which changed some capabilities."""
    files = [f":(literal){manifest_file(name)}" for name in several(names)]
    return ["--", *files] if files else []


def _parse(
    commit: str, author: str, email: str, date: str, refs: str, message: str, raw: str
) -> tuple[tuple, list[tuple[str, str, str]]]:
    """The fields of a commit, and (kind, blob, path) of each manifest it changed."""
    fields = (commit, author, email, date, tuple(filter(None, refs.split(", "))), message.strip())
    changes = []
    for line in filter(None, raw.split("\n")):
        meta, path = line.split("\t", 1)
        if path.startswith(f"{MANIFESTS}/") and path.endswith(".json"):
            _, _, before, after, _ = meta.split()
            kind = "added" if _none(before) else "removed" if _none(after) else "changed"
            changes.append((kind, before if _none(after) else after, path))
    return fields, changes


def _none(blob: str) -> bool:
    """Whether it is git's null id."""
    return not blob.strip("0")


def _changes(changes: list[tuple[str, str, str]], contents: dict[str, bytes]) -> Iterator[Change]:
    for kind, blob, path in changes:
        name = manifest_name(path)
        try:
            yield Change(kind, name, Capability.parse(contents[blob], path))
        except FormatError as error:
            yield Change(kind, name, None, str(error))
