"""The command line: parses, calls Repository, renders. No torch at import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click
import typer
from typer.core import TyperGroup

from niwfctl import __version__
from niwfctl.cli.output import err
from niwfctl.errors import NiwfError
from niwfctl.repository.objects import storing


class _Commands(TyperGroup):
    """Commands in the order of their work; every expected error is one sentence and a code."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            with storing():
                return super().invoke(ctx)
        except NiwfError as error:
            if ctx.params.get("debug"):
                raise
            err.print("niwfctl:", *str(error).splitlines(), markup=False)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt:
            err.print("niwfctl: interrupted")
            raise typer.Exit(130) from None

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"niwfctl {__version__}")
        raise typer.Exit


@app.callback()
def settings(
    ctx: typer.Context,
    directory: Annotated[
        Path, typer.Option("-C", metavar="DIR", help="Run as if started in DIR.")
    ] = Path("."),
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
    ctx.obj = directory


def main() -> None:
    """Entry point of `niwfctl`."""
    app(prog_name="niwfctl")


# The commands register themselves with `app`, in the order in which help lists them.
from niwfctl.cli import make, compose, history, diff, use, evaluate  # noqa: E402, F401, I001
from niwfctl.cli import route, map, serve, branches, share, exchange, check  # noqa: E402, F401
