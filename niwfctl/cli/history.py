"""status, log, show: what there is and how it came about. They need no model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperCommand

from niwfctl.atlas import owner_names, parse_target, split_target
from niwfctl.cli.options import AsJson
from niwfctl.cli.output import emit_json, err, out, paged
from niwfctl.cli.schema import capability_json, commit_json, run_json
from niwfctl.cli.show import (
    run_line,
    show_capability,
    show_commit,
    show_commit_line,
)
from niwfctl.errors import FormatError, UnknownName, UsageError

if TYPE_CHECKING:
    from niwfctl.git.refs import Upstream
    from niwfctl.repository import Repository

app = typer.Typer()
_NUMBER = re.compile(r"-\d+")  # as in `log -3`
_LIMITS = ("-n", "--max-count")


class _Log(TyperCommand):
    """Takes -NUMBER for -n NUMBER, as git does."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        counted = [
            f"-n{one[1:]}" if _NUMBER.fullmatch(one) and before not in _LIMITS else one
            for before, one in pairwise(["", *args[:end]])
        ]
        return super().parse_args(ctx, counted + args[end:])


@app.command()
def status(
    ctx: typer.Context,
    short: Annotated[
        bool, typer.Option("-s", "--short", help="Only what there is to commit, one a line.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the active capability, trainings to commit, and what differs from HEAD and upstream."""
    from niwfctl.repository import Repository
    from niwfctl.repository.trainings import obstacle
    from niwfctl.repository.underway import under_way, way_out

    repository = Repository.open(ctx.obj)
    begun = under_way(repository.git.folder)
    upstream = repository.branches.upstream()
    atlas, waiting, changes = repository.atlas(), repository.uncommitted(), repository.changes()
    stuck = {run.name: clause for run in waiting if (clause := obstacle(run, atlas))}
    if as_json:
        emit_json(
            {
                "branch": repository.git.branch(),
                "commit": repository.git.head(),
                "upstream": upstream and upstream._asdict(),
                "active": repository.active,
                "capabilities": sorted(atlas),
                "uncommitted": [run_json(run) for run in waiting],
                "stuck": stuck,
                "changes": changes,
                "under_way": begun,
            }
        )
        return
    if short:
        for line in (*map(run_line, waiting), *changes):
            out.print(line, markup=False)
        return
    branch = repository.git.branch()
    out.print(f"On branch {branch}" if branch else f"HEAD detached at {repository.git.head()[:12]}")
    if upstream:
        out.print(_compared(upstream), markup=False)
    if begun:
        out.print(f"A `git {begun}` is under way: {way_out(begun)}", style="red", markup=False)
    active = repository.active
    gone = "" if active is None or active.split("@")[0] in atlas or "@" in active else " (not here)"
    out.print(f"Active: {active or 'the bare backbone'}{gone}", markup=False)
    out.print(f"Committed: {', '.join(sorted(atlas)) or 'nothing yet'}", markup=False)
    if waiting:
        out.print("\nUncommitted trainings:")
        for run in waiting:
            ready = run.finished and run.name not in stuck
            out.print(f"  {run_line(run)}", style="green" if ready else "red", markup=False)
            if run.name in stuck:
                out.print(
                    f"    {stuck[run.name]}: `niwfctl rm --training {run.name}` discards it",
                    markup=False,
                )
    if changes:
        undoes = "" if begun else " (`git restore --staged --worktree FILE` undoes)"
        out.print(f"\nFiles that differ from HEAD{undoes}:")
        for line in changes:
            out.print(f"  {line}", style="red", markup=False)
    if not (waiting or changes or begun):
        out.print("Nothing to commit.")


@app.command(cls=_Log)
def log(
    ctx: typer.Context,
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="REV|A..B|^REV|NAME",
            help="Where to start, HEAD by default; ^REV leaves out what it reaches; and "
            "capabilities, for only the commits that changed them.",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(*_LIMITS, help="At most this many; -3 is -n 3.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="From every branch, tag and branch of a remote.")
    ] = False,
    oneline: Annotated[bool, typer.Option("--oneline", help="One line per commit.")] = False,
    graph: Annotated[bool, typer.Option("--graph", help="Draw branches and merges.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the history, in terms of capabilities."""
    from niwfctl.repository import Repository

    repository = Repository.open(ctx.obj)
    history = repository.history
    revisions, names = _asked(repository, targets or ())
    if graph and not as_json:
        lines = history.graph(revisions, limit, names, everything)
        with paged():
            for drawn, commit in lines:
                show_commit_line(commit, drawn)
        return
    commits = history.log(revisions, limit, names=names, everything=everything)
    if as_json:
        emit_json([commit_json(commit) for commit in commits])
        return
    with paged():
        for commit in commits:
            (show_commit_line if oneline else show_commit)(commit)


@app.command()
def show(
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(help="NAME, NAME@REV, or a revision.")] = "HEAD",
    as_json: AsJson = False,
) -> None:
    """Show a capability, or what a commit did."""
    from niwfctl.git.signature import signature
    from niwfctl.repository import Repository
    from niwfctl.repository.checkout import commit_called

    repository = Repository.open(ctx.obj)
    if repository.names_capability(target):
        capability = repository.capability(target)
        if as_json:
            emit_json(capability_json(capability))
        else:
            show_capability(capability, _owners(repository, parse_target(target)[1]))
        return
    if ".." in target:
        raise UsageError(
            f"{target!r} is a range: `niwfctl log {target}` shows its commits, and `niwfctl diff "
            f"{target}` what they changed"
        )
    (commit,) = repository.history.log(commit_called(repository, target), 1)
    signed = signature(repository.git, commit.id)
    if as_json:
        emit_json(commit_json(commit) | {"signature": asdict(signed)})
        return
    show_commit(commit, signed)
    owner = _owners(repository, commit.id)
    for change in commit.changes:
        if change.capability is None:
            err.print(f"warning: {change.problem}", markup=False)
        else:
            show_capability(change.capability, owner, indent="    ")


def _compared(upstream: Upstream) -> str:
    """Where the current branch stands beside what it follows, in one sentence."""
    name, ahead, behind = upstream
    if ahead and behind:
        return f"Your branch and {name!r} have diverged, by {ahead} and {behind} commits."
    if not (ahead or behind):
        return f"Your branch is up to date with {name!r}."
    count = ahead or behind
    place = "ahead of" if ahead else "behind"
    return f"Your branch is {place} {name!r} by {count} commit{'s' if count > 1 else ''}."


def _asked(repository: Repository, targets: Sequence[str]) -> tuple[list[str], list[str]]:
    """(revisions and ranges, names of capabilities), in whatever order they were given."""
    names, revisions = [], []
    for target in targets:
        if _is_name(repository, target):
            name, revision = split_target(target)
            names.append(name)
            revisions += [revision] if revision else []
        else:
            revisions.append(target)
    return revisions, names


def _is_name(repository: Repository, target: str) -> bool:
    """Whether a target names a capability: of HEAD or, if it is not a revision, of any commit.

    Raises:
        UnknownName: it is neither.
    """
    from niwfctl.repository.checkout import commit_called

    if ".." in target or target.startswith("^"):
        return False
    if repository.names_capability(target):
        return True
    try:
        commit_called(repository, target)
    except UnknownName:
        if repository.history.knows(target):
            return True
        raise
    return False


def _owners(repository: Repository, revision: str) -> dict[str, str]:
    """Names of capabilities by region; empty if the revision's atlas cannot be read."""
    try:
        return owner_names(repository.atlas(revision))
    except FormatError:  # reported where it matters
        return {}
