"""export, import: capabilities to and from other tools."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from niwfctl.cli.options import (
    DEFAULTS,
    AcceptShadow,
    AsJson,
    Manual,
    MaxTakeover,
    SkipEmpty,
    Supersede,
    inside,
)
from niwfctl.cli.output import emit_json, err, number, out, size
from niwfctl.cli.progress import training_progress
from niwfctl.cli.schema import capability_json
from niwfctl.cli.show import dropped_line, perplexity_line, show_committed
from niwfctl.training.run import TrainingOptions

app = typer.Typer()


@app.command()
def export(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME[@REV]", help="The capability.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Folder or file to write.")],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="`peft`, a LoRA directory, also for vLLM; `gguf-lora`, a file for llama.cpp; "
            "`merged`, full weights.",
        ),
    ] = "peft",
    at: Annotated[
        str | None,
        typer.Option(metavar="PROMPT", help="Freeze the gates at this prompt, not the mean."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="Measure on this what freezing the gates costs."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a capability for other tools; its gates are frozen at one coordinate."""
    from niwfctl.repository import Repository

    repository = Repository.open(ctx.obj)
    sources = [inside(ctx.obj, source) for source in data or []]
    with err.status("exporting"):
        done = repository.export(name, ctx.obj / target, form, at=at, data=sources)
    if as_json:
        emit_json(asdict(done))
        return
    out.print(
        f"{target}: {name} as {form}, {size(done.bytes)}, gates at the {done.gates_at}",
        markup=False,
    )
    if done.into_originals:
        out.print(
            "  merged into the weights of the backbone's files; training saw them in NF4, so "
            "answers differ slightly"
        )
    if done.freezing:
        live, frozen = done.freezing.live, done.freezing.frozen
        out.print(
            f"  perplexity {number(live)} with live gates, {number(frozen)} with these "
            f"({frozen / live - 1:+.2%}{', both in NF4' if done.into_originals else ''})"
        )


@app.command("import")
def import_adapter(
    ctx: typer.Context,
    folder: Annotated[
        str,
        typer.Argument(
            metavar="DIR", help="A LoRA as PEFT saves it, in safetensors, or its Hugging Face id."
        ),
    ],
    name: Annotated[str, typer.Option(help="Name of the capability.")],
    data: Annotated[
        list[str] | None,
        typer.Option(help="What it is for, in any form that `train` reads; repeatable."),
    ] = None,
    prompts: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Instead: text, one prompt a line; nothing is measured."),
    ] = None,
    message: Annotated[str | None, typer.Option("-m", "--message", help="Commit message.")] = None,
    max_length: Annotated[int, typer.Option(min=2, help="Longest row, in tokens.")] = DEFAULTS[
        "max_length"
    ],
    skip_long: Annotated[bool, typer.Option("--skip-long", help="Leave out longer rows.")] = False,
    skip_empty: SkipEmpty = False,
    drop_below_tap: Annotated[
        bool,
        typer.Option(
            "--drop-below-tap",
            help="Leave out its changes below the tap layer, as of a LoRA on all layers.",
        ),
    ] = False,
    max_takeover: MaxTakeover = None,
    supersede: Supersede = None,
    manual: Manual = False,
    accept_shadow: AcceptShadow = False,
    as_json: AsJson = False,
) -> None:
    """Commit an existing LoRA as a capability; its data or prompts give its region."""
    from niwfctl.repository import Repository
    from niwfctl.repository.commit import RoutingOptions

    repository = Repository.open(ctx.obj)
    message = f"Import {name}" if message is None else message
    with training_progress(name) as report:
        done = repository.import_adapter(
            inside(ctx.obj, folder),
            name,
            [inside(ctx.obj, source) for source in data or []],
            prompts=[ctx.obj / source for source in prompts or []],
            message=message,
            options=TrainingOptions(
                max_length=max_length, skip_long=skip_long, skip_empty=skip_empty
            ),
            routing=RoutingOptions(max_takeover, manual, tuple(supersede or ()), accept_shadow),
            drop_below_tap=drop_below_tap,
            report=report,
        )
    if done.base_differs:
        err.print(
            f"warning: {folder} says it was made for {done.adapter.base_model}, but the backbone "
            f"here is {repository.config.backbone.model}: it is only useful if they are the same",
            markup=False,
        )
    if done.template_differs:
        err.print(
            f"warning: the chat template in {folder} is not the backbone's, in which all prompts "
            "are written here: eval says whether the capability still does its work",
            markup=False,
        )
    if as_json:
        emit_json(
            {
                "commit": done.commit,
                "branch": repository.git.branch(),
                "capability": capability_json(done.capability),
                "base_differs": done.base_differs,
                "template_differs": done.template_differs,
            }
        )
        return
    branch, atlas = repository.git.branch(), repository.atlas()
    show_committed(branch, done.commit, message, [done.capability], atlas)
    out.print(f"  held-out perplexity: {perplexity_line(done.capability.regions[-1].run)}")
    out.print(f"  rounding to bf16 changed its weights by {done.adapter.rounding:.2%}")
    if done.adapter.dropped:
        out.print(f"  {dropped_line(done.adapter)}")
