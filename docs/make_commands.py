"""Writes docs/commands.md from the command line itself.

python docs/make_commands.py
"""

from pathlib import Path

import typer
from typer.cli import get_docs_for_click

from niwfctl.cli.main import app

FILE = Path(__file__).with_name("commands.md")


def reference() -> str:
    """Every command with its arguments and options, as Markdown."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="niwfctl")
    return get_docs_for_click(obj=command, ctx=context, name="niwfctl").rstrip() + "\n"


if __name__ == "__main__":
    FILE.write_text(reference(), "utf-8")
