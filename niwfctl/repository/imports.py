"""Importing: an existing LoRA becomes a committed capability."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from niwfctl.atlas import Capability
from niwfctl.backbone.adapter import ActiveField
from niwfctl.backbone.arguments import head
from niwfctl.backbone.batch import batched
from niwfctl.backbone.embedded import EMBEDDED, UPSTREAM
from niwfctl.backbone.hub import snapshot
from niwfctl.backbone.probe import witnessed
from niwfctl.backbone.prompts import Tokens
from niwfctl.backbone.scoring import Scorer
from niwfctl.backbone.sites import decoder_path
from niwfctl.backbone.template import plain_template
from niwfctl.errors import FormatError, UsageError
from niwfctl.field.generator import Generator
from niwfctl.field.region import Region
from niwfctl.repository.adapters import (
    CONFIG,
    TEMPLATE,
    WEIGHTS,
    Adapter,
    AdapterConfig,
    read_adapter,
    read_config,
)
from niwfctl.repository.backbone import pinned_source
from niwfctl.repository.commit import RoutingOptions, commit_regions, seal
from niwfctl.repository.measure import Data
from niwfctl.repository.model import Model
from niwfctl.repository.names import require_free, warn_of_ref
from niwfctl.repository.runs import Rows, encoded, holding_out, new_run
from niwfctl.repository.underway import require_ready
from niwfctl.several import Source
from niwfctl.storage import storing
from niwfctl.training.data import data_hash, read_prompts
from niwfctl.training.loop import Progress
from niwfctl.training.run import ImportedAdapter, TrainingOptions

_TOKENIZER = "tokenizer_config.json"

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository


@dataclass(frozen=True)
class Imported:
    """An import.

    Attributes:
        commit: its id.
        adapter: what the record keeps of the LoRA.
        base_differs: whether the LoRA names a backbone other than the pinned one.
        template_differs: whether a chat template was saved with it that is not the backbone's.
    """

    commit: str
    capability: Capability
    adapter: ImportedAdapter
    base_differs: bool
    template_differs: bool


def import_adapter(
    repository: Repository,
    folder: Path,
    name: str,
    data: list[Source],
    prompts: list[str],
    options: TrainingOptions | None,
    message: str | None,
    routing: RoutingOptions | None,
    drop_below_tap: bool,
    report: Callable[[Progress], None],
) -> Imported:
    """Implements `Repository.import_adapter`; stores nothing before everything is measured."""
    require_free(repository, name)
    warn_of_ref(repository, name)
    message = f"Import {name}" if message is None else message
    if not message.strip():
        raise UsageError("an empty commit message: say what is imported with -m")
    require_ready(repository)
    folder = _downloaded(folder)
    config = read_config(folder)
    if data and prompts:
        raise UsageError("--data and --prompts exclude each other: give one of them")
    if not data and not prompts:
        raise UsageError("say what the adapter is for: give --data FILE, or --prompts FILE")
    if drop_below_tap and not data:
        raise UsageError(
            "what an adapter still does without its lowest layers has to be measured: give --data "
            "with --drop-below-tap, not --prompts"
        )
    options = options or TrainingOptions()
    measured_on = Data.read(data, options.skip_empty) if data else None
    examples = measured_on.examples if measured_on else read_prompts(prompts)
    sources = measured_on.sources if measured_on else prompts
    report(Progress("loading the backbone", 0, 0))
    model = Model(repository)
    decoder, sites = decoder_path(model.backbone.model), model.adapter.sites
    adapter = read_adapter(folder, config, decoder, sites, drop_below_tap)
    options = _of_adapter(adapter, options)
    options = holding_out(options, examples)
    rows = encoded(model, examples, options)
    report(Progress("reading coordinates", 0, 0))
    region = _region(model, adapter, rows, options)
    measured, probe = _measured(model, region, rows, options, report)
    details = {"origin": "imported", "steps": 0, "adapter": _kept(adapter, config), **measured}
    details["empty_records"] = measured_on.empty if measured_on else 0
    run = new_run(model, name, sources, data_hash(examples), rows, options, **details)
    with storing(), repository.writing():
        entry = seal(repository, run, region, probe)
        done = commit_regions(repository, [entry], message, routing or RoutingOptions())
    repository.git.tell_hook("post-commit")
    differs = _differs(config.base_model_name_or_path, repository)
    return Imported(
        done.commit, done.capabilities[0], run.adapter, differs, _template_differs(folder, model)
    )


def _downloaded(folder: Path) -> Path:
    """A folder as it is, or where a hub id's files are."""
    if folder.exists() or folder.is_absolute() or len(folder.parts) != 2:
        return folder
    instead = f"expected a directory with {CONFIG} and {WEIGHTS}, or a Hugging Face id"
    files = (CONFIG, WEIGHTS, TEMPLATE, _TOKENIZER)
    return snapshot(folder.as_posix(), None, instead, "adapter", files)[0]


def _of_adapter(adapter: Adapter, options: TrainingOptions) -> TrainingOptions:
    """The options that say how rows are read, with the adapter's own shape."""
    rank = adapter.basis.rank
    return options.model_copy(update={"bases": 1, "rank": rank, "alpha": adapter.scale * rank})


def _kept(adapter: Adapter, config: AdapterConfig) -> ImportedAdapter:
    """What the record keeps of the LoRA."""
    base = _public(config.base_model_name_or_path)
    return ImportedAdapter(
        digest=adapter.digest,
        base_model=base,
        rounding=adapter.rounding,
        dropped=adapter.dropped,
        lost=adapter.lost,
    )


def _region(model: Model, adapter: Adapter, rows: Rows, options: TrainingOptions) -> Region:
    """The region of prompts like the rows, whose gates are 1 everywhere."""
    layers = model.adapter.layers
    return Region.seal(
        Generator.constant(model.adapter.coordinates.dim, len(layers), 1),
        (adapter.basis,),
        scale=adapter.scale,
        layers=layers,
        coordinates=_coordinates(model, rows.training, options),
        held_out=_coordinates(model, rows.held_out, options),
        seed=options.seed,
    )


def _coordinates(model: Model, rows: Sequence[Tokens], options: TrainingOptions) -> Tensor:
    """z of each row's prompt, float32 [rows, dim]."""
    return torch.cat(
        [
            model.read([row.prompt for row in batch], [row.skipped(model.skip) for row in batch])
            for batch in batched(rows, options.batch_size)
        ]
    )


def _measured(
    model: Model,
    region: Region,
    rows: Rows,
    options: TrainingOptions,
    report: Callable[[Progress], None],
) -> tuple[dict[str, object], Tensor]:
    """The record's measurements, and the sample of its witness."""
    field = model.adapter
    scorer = Scorer(field, model.skip)
    answered = all(row.answer for row in rows.held_out)

    def perplexity(stage: str) -> float | None:
        if not answered:
            return None
        report(Progress(stage, 0, 0))
        return scorer.score(rows.held_out, options.batch_size).perplexity

    field.active = None
    base = perplexity("measuring the base")
    field.active = ActiveField.of_region(field.groups, region.on(model.device))
    own = perplexity("measuring")
    witness, sample = witnessed(field)
    if not (math.isfinite(own or 0.0) and sample.isfinite().all()):
        raise FormatError(
            "the backbone gives no finite numbers with this adapter: it was made for another one"
        )
    return {"base_perplexity": base, "perplexity": own, "witness": witness}, sample


def _public(named: str | None) -> str | None:
    """A backbone's name; a local path is private, so only its last part."""
    return Path(named).name if named and Path(named).is_absolute() else named


def _differs(named: str | None, repository: Repository) -> bool:
    """Whether an adapter names another backbone; a folder or owner before the name is ignored."""
    if named is None:
        return False
    pinned = repository.config.backbone.model
    known = [pinned, pinned_source(repository).folder, *([UPSTREAM] if pinned == EMBEDDED else [])]
    return Path(named).name.lower() not in {Path(one).name.lower() for one in known}


def _template_differs(folder: Path, model: Model) -> bool:
    """Whether a chat template was saved with an adapter that is not the backbone's.

    Trainers give the arguments that are fixed here by other means.
    """
    own = plain_template(model.backbone.tokenizer)
    bare = own.removeprefix(head(model.repository.config.backbone.template_args))
    return _saved_template(folder) not in (None, own, bare)


def _saved_template(folder: Path) -> object:
    """The chat template that trainers save beside an adapter, if there is a readable one."""
    with suppress(OSError, ValueError):
        return (folder / TEMPLATE).read_text("utf-8")
    with suppress(OSError, ValueError, AttributeError):
        config = json.loads((folder / _TOKENIZER).read_text("utf-8"))
        return config.get("chat_template")
    return None
