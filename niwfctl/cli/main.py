"""The command line: parses, calls Repository, renders. No torch at import."""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from niwfctl import __version__
from niwfctl.cli.options import asks_json
from niwfctl.cli.output import StandardOutput, Warnings, emit_json, err, out
from niwfctl.cli.schema import error_json
from niwfctl.errors import (
    GitError,
    MemoryFull,
    NiwfError,
    StorageError,
    UnknownName,
    UsageError,
    of_memory,
)
from niwfctl.storage import storing
from niwfctl.training.processes import leads
from niwfctl.typed import typed

MODULES = {  # and their commands, in the order in which help lists them
    "make": ("init", "train", "commit", "checkout"),
    "compose": ("compose",),
    "history": ("status", "log", "show"),
    "diff": ("diff",),
    "use": ("run",),
    "evaluate": ("eval",),
    "route": ("route",),
    "map": ("map",),
    "serve": ("serve",),
    "branches": ("branch", "tag", "merge", "rollback", "rm", "mv", "undo"),
    "share": ("remote", "push", "fetch", "pull", "clone", "bundle"),
    "exchange": ("export", "import"),
    "check": ("verify", "check", "fsck", "gc", "doctor"),
}
MODULE_OF = {name: module for module, names in MODULES.items() for name in names}
_Unparsed = typer.BadParameter.__base__  # typer names no class for all that it cannot parse
_GIVEN = "niwfctl.arguments"  # where a context keeps what was typed


FULL = (
    "there is too little memory: train with a smaller --batch-size and more --grad-accum, or with "
    "--gradient-checkpointing (--resume takes these, too), give shorter prompts, or stop other "
    "programs that use it; a training that was saved is kept"
)


def expected(error: Exception) -> NiwfError | None:
    """What to report for an error of the machine or of git; None for a bug of ours."""
    if of_memory(error):
        return MemoryFull(FULL)
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        name = Path(str(error.filename)).name
        return UsageError(f"{name[:40]!r}… is longer than a file name can be: give a path")
    git = sys.modules.get("git")  # imported, if it raised this
    if git is not None and isinstance(error, git.GitCommandError):
        from niwfctl.git.process import blame_disk, require_recent_git, words

        try:
            require_recent_git()
        except GitError as older:
            return older
        try:
            with storing():
                blame_disk(str(error.stderr))
        except StorageError as full:
            return full
        return GitError(f"git failed: {words(error)}; run `git fsck`")
    return None


class _Lazy(Mapping[str, TyperCommand]):
    """The commands by name, each built on demand: building all takes longer than running one."""

    def __getitem__(self, name: str) -> TyperCommand:
        return _commands_of(MODULE_OF[name])[name]

    def __iter__(self) -> Iterator[str]:
        return iter(MODULE_OF)

    def __len__(self) -> int:
        return len(MODULE_OF)


@cache
def _commands_of(module: str) -> Mapping[str, TyperCommand]:
    return typer.main.get_group(import_module(f"niwfctl.cli.{module}").app).commands


class _Commands(TyperGroup):
    """The commands; every expected error becomes one sentence and an exit code."""

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)
        self.commands = _Lazy()

    def make_context(
        self, name: str | None, arguments: list[str], **settings: object
    ) -> typer.Context:
        given = list(arguments)  # which parsing consumes
        try:
            context = super().make_context(name, arguments, **settings)
        except StorageError as error:  # help and the version are reports, too
            err.print("niwfctl:", error, markup=False)
            raise typer.Exit(error.exit_code) from error
        context.meta[_GIVEN] = given
        return context

    def invoke(self, ctx: typer.Context) -> object:
        try:
            with storing(), typed(ctx.meta[_GIVEN]):
                try:
                    return super().invoke(ctx)
                finally:
                    sys.stdout.flush()  # here, where its error is still reported
        except NiwfError as error:
            self._tell(ctx, self._meant(ctx, error) or error)
        except KeyboardInterrupt:
            err.print("niwfctl: interrupted")
            raise typer.Exit(130) from None
        except Exception as error:
            if (found := self._meant(ctx, error) or expected(error)) is None:
                raise
            self._tell(ctx, found)

    def resolve_command(
        self, ctx: typer.Context, args: list[str]
    ) -> tuple[str | None, TyperCommand | None, list[str]]:
        """Finds the command; says what serves in place of one that only git has."""
        if args[0] not in self.commands:
            from niwfctl.cli.habits import instead_of

            if words := instead_of(args[0]):
                raise UsageError(words)
        return super().resolve_command(ctx, args)

    def _meant(self, ctx: typer.Context, error: Exception) -> NiwfError | None:
        """What to report where an argument is too much because it was meant for an option."""
        if not isinstance(error, (_Unparsed, UnknownName, UsageError)):
            return None
        from niwfctl.cli.habits import each_with_option

        words = each_with_option(ctx.meta[_GIVEN])
        return words and UsageError(words)

    def _tell(self, ctx: typer.Context, error: NiwfError) -> NoReturn:
        debug = ctx.params.get("debug")
        if not debug:
            err.print("niwfctl:", *str(error).splitlines(), markup=False)
        if asks_json(ctx) and leads():
            with suppress(StorageError):  # what failed first is told
                emit_json(error_json(error))
                sys.stdout.flush()
        if debug:
            raise error
        raise typer.Exit(error.exit_code) from error


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        out.print(f"niwfctl {__version__}", markup=False)
        raise typer.Exit


@app.callback()
def settings(
    ctx: typer.Context,
    directories: Annotated[
        list[Path] | None,
        typer.Option(
            "-C", metavar="DIR", help="Run as if started in DIR; a second one is inside it."
        ),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """git for the capabilities of a language model.

    Train capabilities one after another on a frozen backbone, commit them, check them out, and
    keep every one equal bit for bit.
    """
    ctx.obj = Path(*(directories or ()))


def main() -> None:
    """Entry point of `niwfctl`."""
    StandardOutput.take()
    logging.lastResort = Warnings(logging.WARNING)
    app(prog_name="niwfctl")
