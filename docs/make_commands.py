"""Writes docs/commands.md from the command line itself.

python docs/make_commands.py
"""

from pathlib import Path

import typer
from typer.cli import get_docs_for_click
from typer.core import TyperCommand, TyperGroup

from niwfctl.cli.main import app

FILE = Path(__file__).with_name("commands.md")


def reference() -> str:
    """Every command with its arguments and options, as Markdown."""
    command = typer.main.get_command(app)
    _describe(command)
    context = typer.Context(command, info_name="niwfctl", **command.context_settings)
    return get_docs_for_click(obj=command, ctx=context, name="niwfctl").rstrip() + "\n"


def _describe(command: TyperCommand | TyperGroup) -> None:
    """Gives every subcommand the first paragraph of its help, which click would shorten."""
    for one in getattr(command, "commands", {}).values():
        one.short_help = one.help.split("\n\n")[0]
        _describe(one)


if __name__ == "__main__":
    FILE.write_text(reference(), "utf-8")
