"""branch, tag, merge, rollback, rm, mv, undo: history only moves forward."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from niwfctl.atlas import changes
from niwfctl.cli.options import AsJson
from niwfctl.cli.output import emit_json, out
from niwfctl.cli.schema import merged_json, operation_json
from niwfctl.cli.show import show_merged
from niwfctl.errors import UsageError

if TYPE_CHECKING:
    from niwfctl.git.git import Ref

Message = Annotated[str | None, typer.Option("-m", "--message", help="Commit message.")]
Listing = Annotated[
    bool, typer.Option("-l", "--list", help="List all, or those that match patterns.")
]
app = typer.Typer()


@app.command()
def branch(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="A new branch and, after it, where it starts, HEAD by default; none to list.",
        ),
    ] = None,
    delete: Annotated[
        bool, typer.Option("-d", "--delete", help="Delete merged branches, by their names.")
    ] = False,
    delete_any: Annotated[
        bool, typer.Option("-D", help="Delete branches, even unmerged ones.")
    ] = False,
    move: Annotated[
        bool, typer.Option("-m", "--move", help="Rename: -m OLD NEW, or -m NEW for this branch.")
    ] = False,
    move_onto: Annotated[
        bool, typer.Option("-M", help="Rename, and replace a branch of the new name.")
    ] = False,
    listing: Listing = False,
    everything: Annotated[
        bool, typer.Option("-a", "--all", help="List branches of remotes, too.")
    ] = False,
    remotes: Annotated[
        bool, typer.Option("-r", "--remotes", help="List branches of remotes only.")
    ] = False,
    verbose: Annotated[
        int,
        typer.Option(
            "-v",
            "--verbose",
            count=True,
            show_default=False,
            help="List with what each one follows.",
        ),
    ] = 0,
    current: Annotated[
        bool, typer.Option("--show-current", help="Print the name of this branch only.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List, create, rename or delete branches."""
    from niwfctl.repository import Repository
    from niwfctl.repository.names import warn_of_capability

    mode = _only(
        {
            "--delete": delete or delete_any,
            "--move": move or move_onto,
            "--list": listing or everything or remotes,
            "--show-current": current,
        }
    )
    if mode in ("--delete", "--move") and not names:
        raise UsageError(f"{mode}: say which branch")
    repository = Repository.open(ctx.obj)
    branches = repository.branches
    names = names or []
    said = ""
    if mode == "--show-current":
        said = repository.git.branch() or ""
        names = [said]
    elif mode == "--delete":
        said = branches.delete(names, force=delete_any)
    elif mode == "--move":
        *old, new = _two(names, "OLD NEW, or NEW for this branch")
        branches.rename(old[0] if old else None, new, force=move_onto)
        warn_of_capability(repository, new)
    elif mode == "--list" or not names:
        also = ["--all"] * everything + ["--remotes"] * remotes + ["-vv"] * bool(verbose)
        said = branches.text(*also, patterns=names)
    else:
        branches.make(*_two(names, "NAME and where the branch starts"))
        warn_of_capability(repository, names[0])
    patterns = names if mode in ("--list", "--show-current") else []
    refs = [] if remotes and not everything else branches.entries(patterns)
    refs += branches.of_remotes(patterns) if everything or remotes else []
    _show_refs(refs, said, as_json)


@app.command()
def tag(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="A new tag and, after it, what to tag, HEAD by default; none to list.",
        ),
    ] = None,
    message: Annotated[
        str | None, typer.Option("-m", "--message", help="Create an annotated tag.")
    ] = None,
    annotate: Annotated[
        bool, typer.Option("-a", "--annotate", help="The same; it needs a message.")
    ] = False,
    delete: Annotated[
        bool, typer.Option("-d", "--delete", help="Delete tags, by their names.")
    ] = False,
    listing: Listing = False,
    as_json: AsJson = False,
) -> None:
    """List, create or delete tags."""
    from niwfctl.repository import Repository
    from niwfctl.repository.names import warn_of_capability

    annotated = annotate or message is not None
    mode = _only({"--delete": delete, "--list": listing, "--annotate": annotated})
    if (delete or annotated) and not names:
        raise UsageError(f"say which tag to {'delete' if delete else 'make'}")
    if annotated and message is None:
        raise UsageError("--annotate needs a message: give one with -m")
    repository = Repository.open(ctx.obj)
    tags = repository.tags
    said = ""
    if mode == "--delete":
        said = tags.delete(names)
    elif mode == "--list" or not names:
        said = tags.text(names or ())
    else:
        name, *revision = _two(names, "NAME and what to tag")
        tags.make(name, *(revision or ["HEAD"]), message)
        warn_of_capability(repository, name)
    _show_refs(tags.entries(names or () if mode == "--list" else ()), said, as_json)


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
        typer.Option(
            metavar="REV",
            help="By default the version of NAME before this one; another branch gives its own.",
        ),
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
    training: Annotated[
        bool,
        typer.Option(
            "--training", help="Discard uncommitted trainings instead; `undo` brings them back."
        ),
    ] = False,
    message: Message = None,
    as_json: AsJson = False,
) -> None:
    """Remove capabilities in a new commit; history keeps them."""
    from niwfctl.repository import Repository

    repository = Repository.open(ctx.obj)
    if not training:
        commit = repository.remove(names, message)
        _made(commit, f"removed {', '.join(names)}", as_json)
        return
    if message is not None:
        raise UsageError("--training commits nothing: leave out the message")
    repository.discard(names)
    if as_json:
        emit_json({"discarded": names})
    else:
        out.print(f"discarded the training of {', '.join(names)}; `undo` brings it back")


@app.command()
def mv(
    ctx: typer.Context,
    old: Annotated[str, typer.Argument(help="The capability or uncommitted training.")],
    new: Annotated[str, typer.Argument(help="Its new name.")],
    message: Message = None,
    as_json: AsJson = False,
) -> None:
    """Rename a capability in a new commit, or an uncommitted training."""
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


def _show_refs(refs: Iterable[Ref], said: str, as_json: bool) -> None:
    if as_json:
        emit_json([ref._asdict() for ref in refs])
    elif said:
        out.print(said, markup=False)


def _only(options: Mapping[str, bool]) -> str:
    """The one option that was given, or none; raises if several were."""
    given = [option for option, was_given in options.items() if was_given]
    if len(given) > 1:
        raise UsageError(f"{given[0]} and {given[1]} exclude each other: give one of them")
    return (*given, "")[0]


def _two(names: list[str], expected: str) -> list[str]:
    """Requires that no more than two names were given."""
    if len(names) > 2:
        raise UsageError(f"{' '.join(names)} are {len(names)} names: expected {expected}")
    return names


def _made(commit: str | None, what: str, as_json: bool) -> None:
    if as_json:
        emit_json({"commit": commit})
    else:
        where = "uncommitted" if commit is None else commit[:7]
        out.print(f"[{where}] {what}", markup=False)


def _pair(text: str) -> tuple[str | None, str]:
    name, equals, new = text.rpartition("=")
    if not new or (equals and not name):
        raise UsageError(f"--rename {text}: expected NEW or NAME=NEW")
    return name or None, new
