"""Capabilities for other tools, where gates cannot depend on the prompt."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from niwfctl import __version__
from niwfctl.atlas import Capability, RegionEntry, parse_target
from niwfctl.backbone.adapter import ActiveField
from niwfctl.backbone.embedded import EMBEDDED, UPSTREAM
from niwfctl.backbone.generation import ending_tokens
from niwfctl.backbone.load import (
    Backbone,
    Source,
    generation_settings,
    load_originals,
    load_tokenizer,
    read_config,
)
from niwfctl.backbone.quantized import stored_form
from niwfctl.backbone.template import plain_template
from niwfctl.errors import UsageError
from niwfctl.field.frozen import FrozenSum
from niwfctl.field.region import Region
from niwfctl.paths import existing_ancestor, require_new, require_new_file
from niwfctl.repository.backbone import fitting, pinned_source
from niwfctl.repository.forms import (
    factors_of,
    rank_of,
    require_peft,
    write_merged,
    write_peft,
)
from niwfctl.repository.gguf_lora import Layout, write_gguf_lora
from niwfctl.repository.measure import Data, warn_of_learned_rows
from niwfctl.repository.mixture import of_capability
from niwfctl.repository.model import Model
from niwfctl.repository.regions import acting_everywhere, load_region
from niwfctl.repository.same_field import usable
from niwfctl.several import Sources
from niwfctl.storage import storing

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository

FORMATS = ("peft", "merged", "gguf-lora")
SIDECAR = "niwf.json"  # provenance, kept out of files that other tools read


@dataclass(frozen=True)
class Freezing:
    """What freezing the gates costs.

    Attributes:
        live: perplexity with gates computed for each prompt.
        frozen: with the gates that were exported.
        tokens: of the answers, over which both are averaged.
    """

    live: float
    frozen: float
    rows: int
    tokens: int
    data_hash: str


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        rank: of the LoRA, zero-padded; None for merged weights.
        bytes: of all files.
        gates_at: `mean` of the region's cell, or `prompt`.
        into_originals: whether the weights it was merged into are those of the backbone's files,
            while training saw them in 4 bits.
        freezing: None if it was not measured.
    """

    name: str
    format: str
    rank: int | None
    bytes: int
    gates_at: str
    into_originals: bool
    freezing: Freezing | None


def export(
    repository: Repository,
    name: str,
    form: str,
    target: Path,
    prompt: str | None = None,
    data: Sources = (),
) -> Exported:
    """Implements `Repository.export`; nothing appears at `target` before everything is written."""
    if form not in FORMATS:
        raise UsageError(f"--format {form!r} is unknown: choose {', '.join(FORMATS)}")
    capability = usable(repository, name)
    (require_new_file if form == "gguf-lora" else require_new)(target)
    source = pinned_source(repository)
    layout = _layout(source) if form == "gguf-lora" else None
    originals = _originals(repository, source) if form == "merged" else None
    measured = Data.read(data) if data else None
    if measured:
        warn_of_learned_rows({name: capability}, measured)
    merges = form == "merged" and not originals
    model = Model(repository) if prompt is not None or measured or merges else None
    terms = _terms(repository, capability, None if prompt is None else model.coordinate(prompt))
    change = _sum(terms)
    factors = None if form == "merged" else factors_of(change)
    if form == "peft":
        require_peft(factors, read_config(source.folder).model_type)
    freezing = _freezing(model, name, change, measured) if measured else None
    where = "mean" if prompt is None else "prompt"
    tokenizer = _tokenizer(repository, source)
    ends = ending_tokens(tokenizer, generation_settings(source))
    provenance = json.dumps(_provenance(repository, name, where, terms, ends), indent=1)
    with storing(), _appearing(target.parent if layout else target) as folder:
        if form == "gguf-lora":
            write_gguf_lora(folder / target.name, factors, layout, capability.name, provenance)
        elif form == "peft":
            pinned, template = repository.config.backbone, plain_template(tokenizer)
            known = _known_as(pinned.model, source)
            write_peft(folder, factors, pinned.decoder or "model", known, template)
        else:
            write_merged(folder, _to_change(repository, model, originals), change, ends)
        if form != "gguf-lora":
            (folder / SIDECAR).write_text(provenance + "\n", "utf-8")
        size = sum(file.stat().st_size for file in folder.iterdir())
    rank = rank_of(factors) if factors else None
    return Exported(capability.name, form, rank, size, where, originals is not None, freezing)


@dataclass(frozen=True)
class _Term:
    """A region, how much of it acts, and the coordinate [dim] at which its gates are taken."""

    weight: float
    entry: RegionEntry
    region: Region
    z: Tensor


def _terms(repository: Repository, capability: Capability, z: Tensor | None) -> list[_Term]:
    """The terms that act at z [dim]; None for each region at its own mean.

    Raises:
        ObjectError: an object is missing or corrupt.
        UsageError: it has several regions, and no z selects one.
    """
    if z is not None:
        mixture = of_capability(repository, capability)
        shares = mixture.shares(z[None])[0].tolist()
        chosen = list(zip(shares, mixture.entries, strict=True))
    else:
        at = "give one with `--at PROMPT`, whose regions are then exported"
        chosen = acting_everywhere(capability, at)
    loaded = [(weight, entry, load_region(repository, entry)) for weight, entry in chosen if weight]
    return [_Term(*one, one[2].cell.mean if z is None else z) for one in loaded]


def _sum(terms: Sequence[_Term]) -> FrozenSum:
    return FrozenSum([(term.weight, term.region, term.z) for term in terms])


def _known_as(backbone: str, source: Source) -> str:
    """The backbone's name in other tools; of one that was pinned elsewhere, its place here."""
    if backbone == EMBEDDED:
        return UPSTREAM
    gone = Path(backbone).is_absolute() and not Path(backbone).exists()
    return str(Path(source.folder).resolve()) if gone else backbone


def _tokenizer(repository: Repository, source: Source) -> PreTrainedTokenizerBase:
    pinned = repository.config.backbone
    return load_tokenizer(source, pinned.template_args, bool(pinned.fix_mistral_regex))


def _layout(source: Source) -> Layout:
    return Layout.of(read_config(source.folder))


def _originals(repository: Repository, source: Source) -> Source | None:
    """The backbone's files, if they hold in full what the repository holds in 4 bits.

    Raises:
        UsageError: they are quantized themselves, so that nothing can be merged.
    """
    form = stored_form(read_config(source.folder))
    if form != "none":
        raise UsageError(
            f"the weights in {source.folder} are quantized themselves ({form}) and cannot be "
            "changed: export `--format peft` instead"
        )
    return source if repository.config.backbone.quant != "none" else None


def _to_change(repository: Repository, model: Model | None, originals: Source | None) -> Backbone:
    """A backbone whose weights can be changed; closes `model`, which it may belong to."""
    backbone = None if originals else model.backbone
    if model:
        model.close()
    if backbone:
        return backbone
    with fitting("none", "merge on a machine with more, export `--format peft`"):
        pinned = repository.config.backbone
        return load_originals(originals, pinned.template_args, bool(pinned.fix_mistral_regex))


def _freezing(model: Model, name: str, change: FrozenSum, data: Data) -> Freezing:
    model.use(name)
    live = model.score(data.examples)
    adapter = model.adapter
    adapter.active = ActiveField.of_frozen(adapter.groups, change, model.device)
    fixed = model.score(data.examples)
    rows = len(data.examples)
    return Freezing(live.perplexity, fixed.perplexity, rows, live.tokens, data.hash)


def _provenance(
    repository: Repository, name: str, where: str, terms: Sequence[_Term], ends: Sequence[int]
) -> dict[str, object]:
    pinned = repository.config.backbone
    capability, revision = parse_target(name)
    return {
        "name": capability,
        "commit": repository.git.resolve(revision),
        "gates_at": where,
        "regions": [
            {
                "id": term.entry.id,
                "object": term.entry.region.oid,
                "weight": term.weight,
                "coordinate": term.z.tolist(),
            }
            for term in terms
        ],
        "stop_token_ids": ends,
        "backbone": pinned.model_dump(exclude={"witness"}),
        "niwfctl": __version__,
    }


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A scratch folder whose files move to `folder` at the end, unless anything fails."""
    with TemporaryDirectory(dir=existing_ancestor(folder), prefix=".niwf-") as scratch:
        yield Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for file in Path(scratch).iterdir():
            os.replace(file, folder / file.name)
