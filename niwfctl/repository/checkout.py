"""What is checked out: a capability to answer with, and a revision of the work tree."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from niwfstore import write_atomic

from niwfctl.atlas import listed, parse_target, split_target
from niwfctl.errors import UnknownName, UsageError
from niwfctl.layout import MANIFESTS, manifest_file
from niwfctl.repository.names import two_meanings, warn_of_capability
from niwfctl.repository.same_field import usable

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository

logger = logging.getLogger(__name__)
LEFT = "-"  # the branch, or commit, that was checked out before this one, as in git
_FILE = "niwf-active"  # in the git folder of a work tree: each work tree has its own


def active(repository: Repository) -> str | None:
    """Implements `Repository.active`."""
    try:
        return json.loads((repository.git.folder / _FILE).read_bytes())["capability"]
    except (OSError, ValueError, KeyError):
        return None


def checkout(repository: Repository, target: str | None, branch: str | None) -> str:
    """Implements `Repository.checkout`."""
    if target == LEFT:
        left_last(repository)  # refuses if there is none; by a name, it might be a capability
        target = "@{-1}"
    if branch is not None:
        return _new_branch(repository, branch, "HEAD" if target is None else target)
    if target is None:
        activate(repository, None)
        return "the bare backbone is active"
    if names_capability(repository, target):
        usable(repository, target)
        name, revision = parse_target(target)
        if revision != "HEAD":
            name = f"{name}@{repository.git.resolve(revision)}"
        activate(repository, name)
        return f"capability {name!r} is active"
    try:
        commit_called(repository, target)
    except UnknownName as error:
        if _followed(repository, target):
            return _place(repository)
        if there := _branches_with(repository, target):
            raise UnknownName(
                f"{error}; it is on {', '.join(there)}: `niwfctl checkout {target}@{there[0]}`"
            ) from error
        raise
    with _leaving(repository):
        repository.git.checkout(target.removeprefix("refs/heads/"))
    return _place(repository)


def left_last(repository: Repository) -> str:
    """The branch that was checked out before this one; the commit, if that was on no branch.

    Raises:
        UsageError: nothing else was checked out yet, or that branch is gone.
    """
    try:
        commit = repository.git.resolve("@{-1}")
    except UnknownName as error:
        raise UsageError(
            "`-` is the branch that was checked out before this one, but there was none, or it is "
            "gone: name a branch, as `niwfctl branch` lists them"
        ) from error
    return repository.git.plain("rev-parse", "--abbrev-ref", "@{-1}") or commit


def _new_branch(repository: Repository, branch: str, start: str) -> str:
    commit = repository.git.resolve(start)
    with _leaving(repository):
        repository.git.plain("checkout", "--quiet", "-b", branch, commit)
    warn_of_capability(repository, branch)
    return _place(repository)


def _followed(repository: Repository, branch: str) -> bool:
    """Checks out a branch that only a remote has, as git would; returns whether one has it."""
    with _leaving(repository):
        return repository.git.follow(branch)


def _branches_with(repository: Repository, name: str) -> list[str]:
    """The branches that have a capability of that name."""
    git, file = repository.git, manifest_file(name)
    return [ref.name for ref in git.refs("heads") if file in git.files(ref.commit, MANIFESTS)]


@contextmanager
def _leaving(repository: Repository) -> Iterator[None]:
    """A block that checks out something else; warns of commits that no branch or tag then has."""
    git = repository.git
    with repository.writing():  # a commit in progress lands on the branch where it began
        left = None if git.branch() else git.head()
        yield
        behind = int(git.plain("rev-list", "--count", left, "--not", "--all")) if left else 0
    if behind:
        logger.warning(
            "you leave behind %d commit%s that no branch or tag holds, and that gc removes in the "
            "end: keep them with `niwfctl branch NAME %s`",
            behind,
            "s" * (behind > 1),
            left[:12],
        )


def _place(repository: Repository) -> str:
    """Where the work tree is now."""
    commit = repository.git.resolve("HEAD")[:12]
    branch = repository.git.branch()
    return f"at {branch} ({commit})" if branch else f"at {commit}, on no branch"


def names_capability(repository: Repository, target: str) -> bool:
    """Implements `Repository.names_capability`."""
    _, revision = split_target(target)
    if revision:
        return not revision.startswith("{")  # as in HEAD@{1}, which is git's
    if target not in repository.atlas():
        return False
    if words := two_meanings(repository, target):
        raise UsageError(words)
    return True


def commit_called(repository: Repository, target: str) -> str:
    """The commit that a target names which could have named a capability, but does not.

    Raises:
        UnknownName: it names nothing; the message lists the capabilities.
    """
    try:
        return repository.git.resolve(target)
    except UnknownName as error:
        raise UnknownName(
            f"neither a capability, a branch, a tag nor a commit is called {target!r}: "
            f"capabilities are {listed(repository.atlas())}"
        ) from error


def activate(repository: Repository, capability: str | None) -> None:
    """Makes a capability active; None for the bare backbone."""
    content = json.dumps({"capability": capability}).encode()
    write_atomic(repository.git.folder / _FILE, content)
