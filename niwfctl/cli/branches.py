"""branch, tag, merge, rollback, rm, mv, undo: history only moves forward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from niwfctl.atlas import changes
from niwfctl.cli.options import AsJson
from niwfctl.cli.output import emit_json, out
from niwfctl.cli.schema import merged_json, operation_json
from niwfctl.cli.show import show_merged
from niwfctl.errors import UsageError

if TYPE_CHECKING:
    from niwfctl.git.refs import Branches, Tags

Message = Annotated[str | None, typer.Option("-m", "--message", help="Commit message.")]
app = typer.Typer()


@app.command()
def branch(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME [START]",
            help="A new branch and where it starts, HEAD by default; omit both to list branches.",
        ),
    ] = None,
    delete: Annotated[
        bool, typer.Option("-d", "--delete", help="Delete merged branches, by their names.")
    ] = False,
    move: Annotated[
        bool, typer.Option("-m", "--move", help="Rename: -m OLD NEW, or -m NEW for this branch.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List, create, rename or delete branches."""
    from niwfctl.repository import Repository
    from niwfctl.repository.names import warn_of_capability

    repository = Repository.open(ctx.obj)
    branches = repository.branches
    said = ""
    if (delete or move) and not names:
        raise UsageError(f"--{'delete' if delete else 'move'}: say which branch")
    if delete and move:
        raise UsageError("--delete and --move exclude each other: give one of them")
    if not names:
        said = branches.text()
    elif delete:
        said = branches.delete(names)
    elif move:
        *old, new = _two(names, "OLD NEW, or NEW for this branch")
        branches.rename(old[0] if old else None, new)
        warn_of_capability(repository, new)
    else:
        branches.make(*_two(names, "NAME and where the branch starts"))
        warn_of_capability(repository, names[0])
    _show_refs(branches, said, as_json)


@app.command()
def tag(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME [REVISION]",
            help="A new tag and what to tag, HEAD by default; omit both to list tags.",
        ),
    ] = None,
    message: Annotated[
        str | None, typer.Option("-m", "--message", help="Create an annotated tag.")
    ] = None,
    delete: Annotated[
        bool, typer.Option("-d", "--delete", help="Delete tags, by their names.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List, create or delete tags."""
    from niwfctl.repository import Repository
    from niwfctl.repository.names import warn_of_capability

    repository = Repository.open(ctx.obj)
    tags = repository.tags
    said = ""
    if delete and message is not None:
        raise UsageError("--delete and --message exclude each other: give one of them")
    if (delete or message is not None) and not names:
        raise UsageError(f"--{'delete' if delete else 'message'}: say which tag")
    if not names:
        said = tags.text()
    elif delete:
        said = tags.delete(names)
    else:
        name, *revision = _two(names, "NAME and what to tag")
        tags.make(name, *(revision or ["HEAD"]), message)
        warn_of_capability(repository, name)
    _show_refs(tags, said, as_json)


@app.command()
def merge(
    ctx: typer.Context,
    revision: Annotated[
        str,
        typer.Argument(
            metavar="BRANCH", help="What to merge into HEAD; `-`: the branch left last."
        ),
    ],
    ours: Annotated[bool, typer.Option("--ours", help="Where both changed, take ours.")] = False,
    theirs: Annotated[bool, typer.Option("--theirs", help="Where both changed, theirs.")] = False,
    rename: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]NEW", help="Keep both, theirs (of NAME) under a new name; repeatable."
        ),
    ] = None,
    message: Message = None,
    as_json: AsJson = False,
) -> None:
    """Merge a branch: the union of the capabilities of both, exactly as they are."""
    from niwfctl.repository import Repository
    from niwfctl.repository.checkout import LEFT, left_last
    from niwfctl.repository.merge import Resolution

    if ours and theirs:
        raise UsageError("--ours and --theirs exclude each other: give one of them")
    side = "ours" if ours else "theirs" if theirs else None
    resolution = Resolution(side, tuple(_pair(one) for one in rename or []))
    repository = Repository.open(ctx.obj)
    revision = left_last(repository) if revision == LEFT else revision
    merged = repository.merge(revision, resolution, message)
    if as_json:
        emit_json(merged_json(merged))
    else:
        show_merged(merged)


@app.command()
def rollback(
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="A capability; without it everything, which needs --to.")
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(metavar="REV", help="By default the version of NAME before this one."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would change.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Restore a capability, or everything, bit for bit as it was, in a new commit."""
    from niwfctl.repository import Repository

    done = Repository.open(ctx.obj).rollback(name, to, dry_run)
    different = changes(done.before, done.after)._asdict()
    if as_json:
        known = {"commit": done.commit, "source": done.source, "dry_run": dry_run}
        emit_json({**known, "changes": different})
        return
    words = f"rolled back: {done.commit[:12]}" if done.commit else "would change"
    out.print(f"{words}, as of {done.source[:12]}")
    for kind, names in different.items():
        for one in names:
            out.print(f"  {kind:<8} {one}", markup=False)


@app.command()
def rm(
    ctx: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Capabilities.")],
    message: Message = None,
    as_json: AsJson = False,
) -> None:
    """Remove capabilities in a new commit; history keeps them."""
    from niwfctl.repository import Repository

    commit = Repository.open(ctx.obj).remove(names, message)
    _made(commit, f"removed {', '.join(names)}", as_json)


@app.command()
def mv(
    ctx: typer.Context,
    old: Annotated[str, typer.Argument(help="The capability.")],
    new: Annotated[str, typer.Argument(help="Its new name.")],
    message: Message = None,
    as_json: AsJson = False,
) -> None:
    """Rename a capability in a new commit."""
    from niwfctl.repository import Repository

    _made(Repository.open(ctx.obj).rename(old, new, message), f"renamed {old} to {new}", as_json)


@app.command()
def undo(
    ctx: typer.Context,
    show_list: Annotated[
        bool, typer.Option("--list", help="List the operations, newest last.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Undo the last operation; a second undo redoes it."""
    from niwfctl.repository import Repository

    operations = Repository.open(ctx.obj).operations
    if not show_list:
        undone = operations.undo()
        if as_json:
            emit_json(operation_json(undone))
        else:
            out.print(f"took back: {undone.command}", markup=False)
        return
    done = operations.entries()
    if as_json:
        emit_json([operation_json(operation) for operation in done])
        return
    for operation in done:
        moved = f"{(operation.before or '')[:7]} → {(operation.after or '')[:7]}"
        where = moved if operation.before != operation.after else ""
        out.print(f"{operation.time}  {operation.command}  {where}".rstrip(), markup=False)


def _show_refs(refs: Branches | Tags, said: str, as_json: bool) -> None:
    if as_json:
        emit_json([ref._asdict() for ref in refs.entries()])
    elif said:
        out.print(said, markup=False)


def _two(names: list[str], expected: str) -> list[str]:
    """Requires that no more than two names were given."""
    if len(names) > 2:
        raise UsageError(f"{' '.join(names)} are {len(names)} names: expected {expected}")
    return names


def _made(commit: str, what: str, as_json: bool) -> None:
    if as_json:
        emit_json({"commit": commit})
    else:
        out.print(f"[{commit[:7]}] {what}", markup=False)


def _pair(text: str) -> tuple[str | None, str]:
    name, equals, new = text.rpartition("=")
    if not new or (equals and not name):
        raise UsageError(f"--rename {text}: expected NEW or NAME=NEW")
    return name or None, new
