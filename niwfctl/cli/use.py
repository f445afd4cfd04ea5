"""run: capabilities at work."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from niwfctl.cli.options import STANDARD_INPUT, AsJson, read_prompt
from niwfctl.cli.output import clean, emit_json, err, out
from niwfctl.errors import UsageError
from niwfctl.records import SEEDS

if TYPE_CHECKING:
    from niwfctl.records import Message
    from niwfctl.repository.model import Model

app = typer.Typer()


@app.command()
def run(
    ctx: typer.Context,
    prompt: Annotated[
        str | None, typer.Argument(help="What to answer; `-` reads it from standard input.")
    ] = None,
    capability: Annotated[
        str | None, typer.Option(metavar="NAME[@REV]", help="Instead of the active one.")
    ] = None,
    base: Annotated[bool, typer.Option("--base", help="The bare backbone.")] = False,
    auto: Annotated[
        bool, typer.Option("--auto", help="Whichever capability owns the prompt, or the base.")
    ] = False,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="A system turn before the prompt.")
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Longest answer (default: 256, or what the context has left)."),
    ] = None,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="0 takes the likeliest token each time.")
    ] = 0.0,
    seed: Annotated[
        int | None, typer.Option(min=0, max=SEEDS - 1, help="Seed of the sampling.")
    ] = None,
    stream: Annotated[
        bool | None, typer.Option("--stream/--no-stream", help="Show words as they come.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Answer a prompt with the active capability; without a prompt, start a conversation."""
    from niwfctl.records import Message
    from niwfctl.repository import Repository

    given = {"--base": base, "--capability": capability, "--auto": auto}
    if len(ways := [way for way, wanted in given.items() if wanted]) > 1:
        raise UsageError(f"{' and '.join(ways)} exclude each other: give one of them")
    if prompt is None and not sys.stdin.isatty():
        prompt = STANDARD_INPUT
    prompt = read_prompt(prompt) if prompt is not None else None
    repository = Repository.open(ctx.obj)
    chosen = None if base or auto else capability or repository.active
    with err.status("loading the backbone"):
        model = repository.load(chosen, auto=auto)
    settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    before = [] if system is None else [Message("system", system)]
    if prompt is None:
        _converse(model, before, settings)
        return
    live = (out.is_terminal if stream is None else stream) and not as_json
    turns = [*before, Message("user", prompt)]
    answer = model.generate(turns, stream=_write if live else None, **settings)
    if as_json:
        owner = model.routes.names[0] if auto else chosen
        emit_json({"capability": owner, "auto": auto, "prompt": prompt, "answer": answer})
    else:
        _write("\n" if live else f"{answer}\n")


def _converse(model: Model, before: Sequence[Message], settings: dict) -> None:
    from niwfctl.records import Message

    turns = [*before]
    out.print("A conversation: /new starts another, Ctrl-D ends it.")
    while True:
        try:
            line = out.input("[bold]> [/]").strip()
        except EOFError:
            return
        if line == "/new":
            turns = [*before]
        elif line:
            turns.append(Message("user", line))
            try:
                answer = model.generate(turns, stream=_write, **settings)
            except UsageError as error:  # with this turn it is too long
                turns.pop()
                err.print(f"{error}: say less, or start over with /new", markup=False)
                continue
            turns.append(Message("assistant", answer))
            _write("\n")


def _write(text: str) -> None:
    # not by rich, which would turn tabs into spaces
    sys.stdout.write(clean(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()
