"""init, train, commit, checkout: making and choosing capabilities."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from niwfctl.atlas import AUTO_NAME
from niwfctl.cli.options import (
    DEFAULTS,
    AcceptShadow,
    AsJson,
    Manual,
    MaxTakeover,
    SkipEmpty,
    Supersede,
    inside,
    template_args,
)
from niwfctl.cli.output import emit_json, err, number, out
from niwfctl.cli.progress import step_log, training_progress
from niwfctl.cli.schema import capability_json, run_json
from niwfctl.cli.show import show_committed, step_kept
from niwfctl.config import reason_of
from niwfctl.errors import UsageError
from niwfctl.training.interrupt import stopping
from niwfctl.training.processes import leads
from niwfctl.training.run import SPARING, TrainingOptions

if TYPE_CHECKING:
    from niwfctl.repository import Repository
    from niwfctl.training.loop import Progress

app = typer.Typer()


@app.command()
def init(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="DIR", help="Where; here by default.")] = Path(
        "."
    ),
    model: Annotated[
        str,
        typer.Option(help="The backbone: `smollm2`, a folder, a GGUF file, or a Hugging Face id."),
    ] = "smollm2",
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a Hugging Face id.")
    ] = None,
    quant: Annotated[
        str, typer.Option(help="`nf4` holds the backbone in 4 bits, `none` as in its files.")
    ] = "none",
    tap_layer: Annotated[
        int | None, typer.Option(help="First adapted layer; by default an eighth of the way up.")
    ] = None,
    dim: Annotated[
        int | None,
        typer.Option(
            help="Dimensions of the coordinate; by default 128, or half a narrow backbone's width."
        ),
    ] = None,
    template_arg: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Argument of the backbone's chat template, such as enable_thinking=false; "
            "repeatable.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create a repository: pin the backbone and fit the coordinate map."""
    from niwfctl.backbone.embedded import EMBEDDED
    from niwfctl.repository import Repository

    with err.status("loading the backbone") as status:
        repository = Repository.init(
            ctx.obj / path,
            model=model if model == EMBEDDED else inside(ctx.obj, model),
            revision=revision,
            quant=quant,
            tap_layer=tap_layer,
            dim=dim,
            template_args=template_args(template_arg or ()),
            progress=lambda done, total: status.update(f"calibrating: prompt {done} of {total}"),
        )
    config = repository.config
    if as_json:
        emit_json(
            {
                "path": str(repository.path),
                "commit": repository.git.head(),
                "model": config.backbone.model,
                "identity": config.backbone.identity,
                "quant": config.backbone.quant,
                "fix_mistral_regex": bool(config.backbone.fix_mistral_regex),
                "tap_layer": config.field.tap_layer,
                "dim": config.field.dim,
                "template_args": config.backbone.template_args,
            }
        )
        return
    out.print(f"A field on {config.backbone.model} in {repository.path}", markup=False)
    out.print(
        f"  backbone {config.backbone.identity[:19]}, quantization {config.backbone.quant}, "
        f"tap layer {config.field.tap_layer}, coordinates of {config.field.dim} dimensions"
    )
    for name, value in config.backbone.template_args.items():
        out.print(f"  chat template with {name}={json.dumps(value)}", markup=False)
    if config.backbone.fix_mistral_regex:
        out.print(
            "  its tokenizer was published with a wrong pattern, which is corrected here: other "
            "tools need fix_mistral_regex=True"
        )


@app.command()
def train(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the capability.")],
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="JSON, JSONL, CSV or Parquet file, a folder of them, or a hub dataset id; "
            "repeatable. Records are alpaca, prompt and completion, or chat messages."
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps; overrides --epochs.")] = None,
    epochs: Annotated[float, typer.Option(help="Passes over the data.")] = DEFAULTS["epochs"],
    bases: Annotated[
        int,
        typer.Option(
            help="Bases of the new region; 1 by default beside reused ones. Each adds a change of "
            "its own, so with more of them lower --lr."
        ),
    ] = DEFAULTS["bases"],
    rank: Annotated[int, typer.Option(help="Rank of each basis.")] = DEFAULTS["rank"],
    alpha: Annotated[
        float, typer.Option(help="The weight change is scaled by alpha/rank.")
    ] = DEFAULTS["alpha"],
    lr: Annotated[
        float | None,
        typer.Option(
            help="Peak learning rate.",
            show_default="2e-4 at a width of 4096, and inverse to the backbone's width, up to 3e-3",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Rows per forward pass.")] = DEFAULTS[
        "batch_size"
    ],
    grad_accum: Annotated[int, typer.Option(help="Forward passes per step.")] = DEFAULTS[
        "grad_accum"
    ],
    max_length: Annotated[int, typer.Option(help="Longest row, in tokens.")] = DEFAULTS[
        "max_length"
    ],
    optimizer: Annotated[
        str, typer.Option(help="adamw, or paged_adamw_8bit of bitsandbytes, for less memory.")
    ] = DEFAULTS["optimizer"],
    gradient_checkpointing: Annotated[
        bool,
        typer.Option(
            "--gradient-checkpointing", help="Less memory: compute activations twice, keep none."
        ),
    ] = False,
    skip_long: Annotated[bool, typer.Option("--skip-long", help="Leave out longer rows.")] = False,
    skip_empty: SkipEmpty = False,
    val_data: Annotated[
        list[str] | None,
        typer.Option(help="Measure on these records, of the same kind as --data; repeatable."),
    ] = None,
    val_split: Annotated[
        float,
        typer.Option(
            help="Share of prompts held out to measure on, without --val-data; if not given, at "
            "least 8 of 40 and more prompts, and a fifth of fewer."
        ),
    ] = DEFAULTS["val_split"],
    eval_steps: Annotated[
        int | None,
        typer.Option(help="Measure every so many steps; by default four times in all."),
    ] = None,
    keep_best: Annotated[
        bool, typer.Option("--keep-best", help="Keep the step that measured best, not the last.")
    ] = False,
    seed: Annotated[
        int, typer.Option(help="Seed of the split, the order and the first weights.")
    ] = DEFAULTS["seed"],
    extend: Annotated[
        bool, typer.Option("--extend", help="Add a region to a committed capability of this name.")
    ] = False,
    revise: Annotated[
        bool,
        typer.Option(
            "--revise", help="Train a new version of a committed capability, from scratch."
        ),
    ] = False,
    reuse_from: Annotated[
        list[str] | None,
        typer.Option(
            "--from", metavar="NAME", help="Gate the sealed bases of NAME beside the new ones."
        ),
    ] = None,
    reuse: Annotated[
        str | None,
        typer.Option(metavar=AUTO_NAME, help="Find out whose bases help, and gate those."),
    ] = None,
    general: Annotated[
        bool,
        typer.Option("--general", help="A broad capability: it also answers for the base."),
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Resume an interrupted training, if need be with a smaller --batch-size and more "
            "--grad-accum, or --gradient-checkpointing.",
        ),
    ] = False,
    finish: Annotated[
        bool,
        typer.Option("--finish", help="End an interrupted training at the step it has reached."),
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Discard an uncommitted training of this name.")
    ] = False,
    log: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Append every step to FILE as a line of JSON."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a capability. Ctrl-C saves; `--resume` continues, `--finish` ends it there."""
    from niwfctl.repository import Repository
    from niwfctl.repository.trainings import to_resume

    if reuse not in (None, AUTO_NAME):
        raise UsageError(f"--reuse {reuse!r} is unknown: give `--reuse auto`, or `--from {reuse}`")
    given = {key for key in ctx.params if ctx.get_parameter_source(key).name == "COMMANDLINE"}
    going_on = resume or finish
    if going_on and given - {"name", "resume", "finish", "log", "as_json", *SPARING}:
        to_resume(Repository.open(ctx.obj), name)  # if it is finished, that matters more
        raise UsageError(
            "--resume and --finish keep the options that the training began with: give only "
            "--batch-size and --grad-accum of the same product, and --gradient-checkpointing"
        )
    if not going_on and not data:
        raise UsageError("there is nothing to learn from: give --data FILE, or --resume")
    if extend and revise:
        raise UsageError("--extend and --revise exclude each other: give one of them")
    chosen = {key: ctx.params[key] for key in given & set(TrainingOptions.model_fields)}
    chosen["mode"] = "extend" if extend else "revise" if revise else "new"
    chosen["reuse"] = (*(reuse_from or ()), *([reuse] if reuse else []))
    options = _options(**chosen)
    repository = Repository.open(ctx.obj)
    sources, val_sources = ([inside(ctx.obj, one) for one in of or []] for of in (data, val_data))
    note = step_log(log and ctx.obj / log)
    with stopping() as stop, training_progress(name) as show:

        def report(now: Progress) -> None:
            show(now)
            note(now)

        run = repository.train(
            name,
            sources,
            options,
            val_data=val_sources,
            resume=resume,
            finish=finish,
            restart=restart,
            report=report,
            stop=stop,
        )
    if not leads():
        return
    if as_json:
        emit_json(run_json(run))
        return
    out.print(
        f"{name}: held-out perplexity {number(run.base_perplexity)} (base) → "
        f"{number(run.perplexity)}, {run.steps} steps{step_kept(run)}, {run.rows} rows, "
        f"{run.held_out_rows} held out, {run.seconds:.0f} s"
    )
    if len(run.sources) > 1:
        out.print(f"  learned from {len(run.sources)} files or datasets")
    if run.reused:
        names = ", ".join(dict.fromkeys(one.of for one in run.reused))
        out.print(f"  with {len(run.reused)} sealed bases of {names}", markup=False)
    elif reuse:
        out.print("  no capability has bases that help: trained with new ones alone")
    if run.skipped_rows:
        longest = run.options.max_length
        out.print(f"  {run.skipped_rows} rows longer than {longest} tokens were left out")
    if run.empty_records:
        out.print(f"  {run.empty_records} records with an empty answer were left out")
    out.print(f"  commit it with: niwfctl commit {name} -m MESSAGE", markup=False)


@app.command()
def commit(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Trainings; all finished ones by default."),
    ] = None,
    message: Annotated[str | None, typer.Option("-m", "--message", help="Commit message.")] = None,
    max_takeover: MaxTakeover = None,
    supersede: Supersede = None,
    manual: Manual = False,
    accept_shadow: AcceptShadow = False,
    as_json: AsJson = False,
) -> None:
    """Seal finished trainings for good and commit them."""
    from niwfctl.repository import Repository
    from niwfctl.repository.commit import RoutingOptions, trained

    repository = Repository.open(ctx.obj)
    if message is None:
        trained(repository, names or ())  # before a message is asked for
        message = _edited(repository) if out.is_terminal else None
    if not (message or "").strip():
        raise UsageError("an empty commit message: say what was trained with -m")
    routing = RoutingOptions(max_takeover, manual, tuple(supersede or ()), accept_shadow)
    done = repository.commit(names or (), message, routing)
    if as_json:
        emit_json(
            {
                "commit": done.commit,
                "branch": repository.git.branch(),
                "capabilities": [capability_json(capability) for capability in done.capabilities],
            }
        )
        return
    branch, atlas = repository.git.branch(), repository.atlas()
    show_committed(branch, done.commit, message, done.capabilities, atlas)


@app.command()
def checkout(
    ctx: typer.Context,
    target: Annotated[
        str | None, typer.Argument(help="NAME, NAME@REV, or a branch, tag or commit.")
    ] = None,
    base: Annotated[bool, typer.Option("--base", help="Use the bare backbone.")] = False,
    branch: Annotated[
        str | None,
        typer.Option(
            "-b", metavar="BRANCH", help="Create a branch at a revision, and switch to it."
        ),
    ] = None,
) -> None:
    """Make a capability active, or switch to a branch, tag or commit."""
    from niwfctl.repository import Repository

    if base and branch is not None:
        raise UsageError("--base and -b exclude each other: give one of them")
    if branch is None and base == (target is not None):
        raise UsageError("say what to check out: a capability, a revision, or --base")
    out.print(Repository.open(ctx.obj).checkout(target, branch), markup=False)


def _edited(repository: Repository) -> str | None:
    """What the user writes in the editor that git would open."""
    import click

    configured = repository.git.plain("config", "--default", "", "core.editor")
    try:
        return click.edit("", os.environ.get("GIT_EDITOR") or configured or None)
    except click.ClickException as error:
        raise UsageError(f"{error.message.rstrip('.')}: give the message with -m") from error


def _options(**given: object) -> TrainingOptions:
    from pydantic import ValidationError

    try:
        return TrainingOptions.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).replace("_", "-")
        raise UsageError(f"--{option} {first['input']}: {reason_of(first).lower()}") from error
