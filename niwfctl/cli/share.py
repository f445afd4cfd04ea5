"""remote, push, fetch, pull, clone, bundle: capabilities between people."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from niwfctl.cli.options import AsJson, inside
from niwfctl.cli.output import emit_json, out
from niwfctl.cli.schema import merged_json
from niwfctl.cli.show import show_merged
from niwfctl.errors import UsageError

if TYPE_CHECKING:
    from niwfctl.repository.remote import Remotes

Remote = Annotated[str, typer.Argument(help="Name of the remote.")]
UsualRemote = Annotated[
    str | None,
    typer.Argument(
        metavar="REMOTE",
        help="By default the one of this branch's upstream, else the only one, else origin.",
    ),
]
Lazy = Annotated[bool, typer.Option("--lazy", help="Get objects only when a command needs them.")]

app = typer.Typer()
bundle = typer.Typer(no_args_is_help=True, help="Capabilities as one file, without a remote.")
remote = typer.Typer(invoke_without_command=True)
app.add_typer(remote, name="remote")
app.add_typer(bundle, name="bundle")


@remote.callback()
def list_remotes(
    ctx: typer.Context,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="With URLs, which are always listed.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List, add, rename or remove remotes."""
    from niwfctl.repository import Repository

    if ctx.invoked_subcommand is None:
        _show_remotes(Repository.open(ctx.obj).remotes, as_json)


@remote.command("add")
def remote_add(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the new remote.")],
    url: Annotated[str, typer.Argument(help="Its URL or folder.")],
    as_json: AsJson = False,
) -> None:
    """Add a remote."""
    _change(ctx, as_json, lambda remotes: remotes.add(name, url))


@remote.command("remove")
def remote_remove(ctx: typer.Context, name: Remote, as_json: AsJson = False) -> None:
    """Forget a remote."""
    _change(ctx, as_json, lambda remotes: remotes.remove(name))


@remote.command("rename")
def remote_rename(
    ctx: typer.Context,
    old: Remote,
    new: Annotated[str, typer.Argument(help="Its new name.")],
    as_json: AsJson = False,
) -> None:
    """Rename a remote."""
    _change(ctx, as_json, lambda remotes: remotes.rename(old, new))


@remote.command("set-url")
def remote_set_url(
    ctx: typer.Context,
    name: Remote,
    url: Annotated[str, typer.Argument(help="Its new URL or folder.")],
    as_json: AsJson = False,
) -> None:
    """Change the URL of a remote."""
    _change(ctx, as_json, lambda remotes: remotes.set_url(name, url))


def _change(ctx: typer.Context, as_json: bool, change: Callable[[Remotes], None]) -> None:
    from niwfctl.repository import Repository

    remotes = Repository.open(ctx.obj).remotes
    change(remotes)
    if as_json:
        _show_remotes(remotes, as_json)


def _show_remotes(remotes: Remotes, as_json: bool) -> None:
    if as_json:
        emit_json([{"name": name, "url": url} for name, url in remotes.urls().items()])
    else:
        for name, url in remotes.urls().items():
            out.print(f"{name}  {url}", markup=False)


@app.command()
def push(
    ctx: typer.Context,
    remote: UsualRemote = None,
    refs: Annotated[
        list[str] | None, typer.Argument(help="Branches and tags; the current branch by default.")
    ] = None,
    tags: Annotated[bool, typer.Option("--tags", help="All tags, besides those named.")] = False,
    upstream: Annotated[
        bool,
        typer.Option(
            "-u",
            "--set-upstream",
            help="Follow the pushed branches from now on, even if others are followed.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Push branches or tags: objects first, then refs."""
    from niwfctl.repository import Repository
    from niwfctl.repository.tracking import usual_remote

    repository = Repository.open(ctx.obj)
    remote = remote or usual_remote(repository.git, push=True)
    sent = repository.remotes.push(remote, refs or (), tags, upstream)
    if as_json:
        emit_json({"remote": remote, "objects": sent})
    else:
        out.print(f"pushed to {remote}; {sent} objects were checked and went first")


@app.command()
def fetch(
    ctx: typer.Context,
    remote: UsualRemote = None,
    branches: Annotated[
        list[str] | None, typer.Argument(help="Of the remote; all of them by default.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Objects of the whole history.")
    ] = False,
    lazy: Lazy = False,
    prune: Annotated[
        bool, typer.Option("-p", "--prune", help="Forget branches that the remote no longer has.")
    ] = False,
) -> None:
    """Fetch branches and the objects of their newest commits."""
    from niwfctl.repository import Repository
    from niwfctl.repository.tracking import usual_remote

    repository = Repository.open(ctx.obj)
    remote = remote or usual_remote(repository.git)
    repository.remotes.fetch(remote, everything, lazy, prune, branches or ())


@app.command()
def pull(
    ctx: typer.Context,
    remote: UsualRemote = None,
    branch: Annotated[
        str | None,
        typer.Argument(
            help="Of the remote; by default the one that this branch follows, or its namesake."
        ),
    ] = None,
    lazy: Lazy = False,
    ff_only: Annotated[
        bool, typer.Option("--ff-only", help="Refuse where both have commits of their own.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch, and merge the remote's branch that this one follows, or that of the same name."""
    from niwfctl.repository import Repository
    from niwfctl.repository.tracking import usual_remote

    repository = Repository.open(ctx.obj)
    remote = remote or usual_remote(repository.git)
    merged = repository.remotes.pull(remote, lazy, branch, ff_only)
    if as_json:
        emit_json(merged_json(merged))
    else:
        show_merged(merged)


@app.command()
def clone(
    ctx: typer.Context,
    url: Annotated[str, typer.Argument(help="URL or folder of the repository, or a bundle of it.")],
    folder: Annotated[Path | None, typer.Argument(metavar="DIR", help="Where to put it.")] = None,
    branch: Annotated[
        str | None,
        typer.Option("-b", "--branch", help="Check out this branch or tag, not the remote's HEAD."),
    ] = None,
    lazy: Lazy = False,
    as_json: AsJson = False,
) -> None:
    """Clone a repository."""
    from niwfctl.repository import Repository

    target = ctx.obj / (folder or folder_name(url))
    repository = Repository.clone(inside(ctx.obj, url), target, lazy=lazy, branch=branch)
    names = sorted(repository.atlas())
    if as_json:
        emit_json({"path": str(repository.path), "capabilities": names})
    else:
        out.print(f"{', '.join(names) or 'no capabilities yet'}", markup=False)


def folder_name(url: str) -> str:
    """The name of a clone, as git derives it."""
    path = url.rstrip("/").removesuffix("/.git").rstrip("/").removesuffix(".git")
    path = path.removesuffix(".bundle")
    name = re.split("[/:]", path)[-1]
    if not name:
        raise UsageError(f"{url!r} has no name for a folder: give one after it")
    return name


@bundle.command("create")
def bundle_create(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="File to write.")],
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME[@REV]|REV", help="All of HEAD by default."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write capabilities alone, or a revision with its history, and their objects to one file."""
    from niwfctl.repository import Repository

    names = Repository.open(ctx.obj).write_bundle(ctx.obj / file, targets or ())
    if as_json:
        emit_json({"capabilities": names, "bytes": (ctx.obj / file).stat().st_size})
    else:
        out.print(f"{file}: {', '.join(names) or 'no capabilities yet'}", markup=False)


@bundle.command("apply")
def bundle_apply(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="File to read.")],
    as_json: AsJson = False,
) -> None:
    """Check a bundle's objects and merge its history."""
    from niwfctl.repository import Repository

    if not (ctx.obj / file).is_file():
        raise UsageError(f"{file} is not a file: give one that `niwfctl bundle create` wrote")
    merged = Repository.open(ctx.obj).apply_bundle(ctx.obj / file)
    if as_json:
        emit_json(merged_json(merged))
    else:
        show_merged(merged)
