"""PEFT LoRA directories: what they state, and how they become regions. No git."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from niwfctl.config import first_problem
from niwfctl.errors import FormatError, UsageError
from niwfctl.field.basis import Basis, Site
from niwfctl.field.compress import padded, relative_error, squared_norm
from niwfctl.repository.patterns import matching, pattern_problem
from niwfctl.repository.targets import require_named
from niwfctl.training.run import LARGEST_RANK

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
TEMPLATE = "chat_template.jinja"  # which trainers save beside them
ROOT = "base_model.model."  # of all keys of the weights
# Some tools keep the name that an adapter has in memory.
_FACTOR = re.compile(
    r"base_model\.model\.(?P<module>.+)\.lora_(?P<which>[AB])(?:\.default)?\.weight"
)
# The language model of one that also sees: its path now, and before transformers 4.52.
_LANGUAGE, _LANGUAGE_BEFORE = "model.language_model.", "language_model.model."
# What is saved of a layer beside its linears: an embedding's factors, and its own weights.
_BESIDE = re.compile(r"base_model\.model\.(?P<module>.+)\.(?:lora_embedding_[AB]|base_layer\..*)")
_NUMBER = re.compile("[0-9]{1,9}")  # of a layer
_KEEP_THE_BASE = (
    True,
    False,
    None,
    "gaussian",
    "eva",
    "mica",
    "orthogonal",
)  # of init_lora_weights
# Entries that say how an adapter was trained, or repeat what its keys and shapes say.
_WITHOUT_EFFECT = {
    "auto_mapping",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "inference_mode",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "task_type",
}


class AdapterConfig(BaseModel):
    """The entries of adapter_config.json that say what an adapter computes."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    peft_type: str
    base_model_name_or_path: str | None = None
    r: int = Field(ge=1)
    lora_alpha: float = Field(gt=0)
    use_rslora: bool = False
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    target_modules: str | frozenset[str] | None = None
    exclude_modules: str | frozenset[str] | None = None
    layers_to_transform: int | frozenset[int] | None = None
    layers_pattern: str | tuple[str, ...] | None = None
    bias: str = "none"
    init_lora_weights: bool | str | None = True

    def rank(self, module: str) -> int:
        """Rank of a module's factors."""
        return matching(self.rank_pattern, module, self.r)

    def scale(self, module: str) -> float:
        """α/r of a module, or α/√r where the adapter is rank-stabilized (rsLoRA)."""
        return self._scale(matching(self.alpha_pattern, module, self.lora_alpha), self.rank(module))

    @property
    def usual_scale(self) -> float:
        """The scale of modules that no pattern names."""
        return self._scale(self.lora_alpha, self.r)

    def _scale(self, alpha: float, rank: int) -> float:
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


@dataclass(frozen=True)
class Adapter:
    """A LoRA, as a region needs it.

    Attributes:
        basis: bf16, the same rank at every site, zero where the adapter changes nothing; where
            a module's scale differs, B includes the difference.
        scale: α/r.
        rounding: the error of bf16: ‖ΔW′ − ΔW‖ / ‖ΔW‖ (Frobenius, over all linears together).
        digest: `sha256:…` of the file of weights.
        dropped: the layers below the tap layer that were left out.
        lost: what they were of the whole change, ‖ΔW of these‖ / ‖ΔW‖ (Frobenius).
    """

    basis: Basis
    scale: float
    rounding: float
    digest: str
    dropped: tuple[int, ...] = ()
    lost: float = 0.0


def read_config(folder: Path) -> AdapterConfig:
    """The config of a PEFT directory that can be imported.

    Raises:
        UsageError: there is no such directory.
        FormatError: it is not a LoRA that changes only the weights of linears, or its weights are
            pickled.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a directory: give one with {CONFIG} and {WEIGHTS}")
    for file in (CONFIG, WEIGHTS):
        if (folder / file).is_file():
            continue
        if file == WEIGHTS and (folder / PICKLE).is_file():
            raise FormatError(
                f"{folder / PICKLE} is a pickle, which could run any code, so it is never opened: "
                "save the adapter as safetensors with a current version of peft"
            )
        raise FormatError(f"{folder} is not a PEFT adapter: it has no {file}")
    path = folder / CONFIG
    try:
        config = AdapterConfig.model_validate(json.loads(_content(path)))
    except ValidationError as error:
        raise FormatError(f"{path} is wrong: {first_problem(error)}") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not valid JSON: {error}") from error
    reason = _obstacle(config)
    if reason:
        raise FormatError(f"{path} {reason}")
    return config


def read_adapter(
    folder: Path,
    config: AdapterConfig,
    decoder: str,
    sites: Sequence[Site],
    drop_below_tap: bool = False,
) -> Adapter:
    """The weights of a PEFT directory as a basis for the sites of a backbone.

    Args:
        config: from `read_config`.
        decoder: path of the backbone's decoder, from `decoder_path`.
        sites: all sites that a region of this repository adapts.
        drop_below_tap: leave out what it changes below the tap layer, rather than refuse it.

    Raises:
        FormatError: the weights are damaged, have other shapes, or belong to a module that is not
            adapted here.
    """
    content = _content(folder / WEIGHTS)
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise FormatError(f"{folder / WEIGHTS} is not readable safetensors: {error}") from error
    pairs = _pairs(folder, tensors, decoder)
    by_module = {f"{decoder}.{site.name}": site for site in sites}
    below, every = _below_tap(pairs, decoder, by_module) if drop_below_tap else {}, pairs
    pairs = {module: pair for module, pair in pairs.items() if module not in below}
    if not pairs:
        raise FormatError(
            f"{folder} changes only layers below the tap layer: nothing would be left"
        )
    _require_adapted(folder, pairs, decoder, by_module)
    require_named(folder, config, every)
    for module, pair in pairs.items():
        _require_shapes(folder, config, module, by_module[module], pair)
    rank = max(len(down) for down, _ in pairs.values())
    if rank > LARGEST_RANK:  # before `_share`, whose matrices grow with its square
        raise FormatError(f"{folder} has rank {rank}, more than the {LARGEST_RANK} allowed")
    lost = _share(folder, config, every, below)
    scale = config.usual_scale
    true: dict[str, tuple[Tensor, Tensor]] = {}
    for module, site in by_module.items():
        down, up = pairs.get(module) or (
            torch.zeros(rank, site.in_features, dtype=torch.float32),
            torch.zeros(site.out_features, rank, dtype=torch.float32),
        )
        own = config.scale(module)
        true[site.name] = padded(down, up if own == scale else up.float() * (own / scale), rank)
    basis = Basis(
        {name: down.to(torch.bfloat16) for name, (down, _) in true.items()},
        {name: up.to(torch.bfloat16) for name, (_, up) in true.items()},
    )
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    dropped = tuple(sorted(set(below.values())))
    return Adapter(basis, scale, _rounding(true, basis), digest, dropped, lost)


def _obstacle(config: AdapterConfig) -> str | None:
    """Why an adapter is not a LoRA of linears alone, as a predicate of its file."""
    if config.peft_type != "LORA":
        return f"has type {config.peft_type}: only LORA can be imported"
    if config.bias != "none":
        return f"has bias={config.bias!r}: an adapter that also changes biases cannot be imported"
    if config.init_lora_weights not in _KEEP_THE_BASE:
        return (
            f"has init_lora_weights={config.init_lora_weights!r}, which also changes the base's "
            "own weights: convert it to a plain LoRA when you save it (PEFT's "
            "`path_initial_model_for_weight_conversion`)"
        )
    if config.target_modules is None:
        return (
            "names no target_modules, for which PEFT takes modules of its own choice: list in it "
            "those that the weights change"
        )
    lists = config.layers_pattern or ()
    named = dict.fromkeys([lists] if isinstance(lists, str) else lists, 1)
    for pattern in (config.rank_pattern, config.alpha_pattern, named):
        if problem := pattern_problem(pattern or {}):
            return problem
    for entry, value in (config.model_extra or {}).items():
        if value and entry not in _WITHOUT_EFFECT:
            return (
                f"sets {entry}, whose effect on the weights cannot be imported: only plain LoRA of "
                "linears can"
            )
    return None


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror or error}") from error


def _pairs(
    folder: Path, tensors: Mapping[str, Tensor], decoder: str
) -> dict[str, tuple[Tensor, Tensor]]:
    """(A, B) by path of the module in the model, the lowest layer first."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in sorted(tensors.items()):
        match = _FACTOR.fullmatch(key)
        if match is None and (beside := _BESIDE.fullmatch(key)):
            raise FormatError(
                f"{folder} adapts {beside['module']}, and capabilities here change the linears of "
                "layers only: train it without that in target_modules"
            )
        if match is None:
            raise FormatError(
                f"{folder} holds {key}, not a LoRA factor of a linear: it cannot be imported"
            )
        module, which = match["module"], match["which"]
        if f"{decoder}." == _LANGUAGE and module.startswith(_LANGUAGE_BEFORE):
            module = _LANGUAGE + module.removeprefix(_LANGUAGE_BEFORE)
        if which in (pair := found.setdefault(module, {})):
            raise FormatError(f"{folder} has {which} of {module} under two names: it is damaged")
        pair[which] = tensor
    if not found:
        raise FormatError(f"{folder} holds no LoRA factors: there is nothing to import")
    for module, pair in sorted(found.items()):
        if len(pair) < 2:
            raise FormatError(f"{folder} has only one of A and B for {module}: it is damaged")
    return {
        module: (found[module]["A"], found[module]["B"]) for module in sorted(found, key=_place)
    }


def _place(module: str) -> list[tuple[int, str]]:
    """A sort key for paths that compares their numbers as numbers."""
    return [
        (int(part), "") if _NUMBER.fullmatch(part) else (-1, part) for part in module.split(".")
    ]


def _require_adapted(
    folder: Path, modules: Mapping[str, object], decoder: str, by_module: Mapping[str, Site]
) -> None:
    """Refuses modules that are not adapted here; for those below the tap layer, says how."""
    adapted = {site.layer for site in by_module.values()}
    tap, last = min(adapted), max(adapted)
    strange = [module for module in modules if module not in by_module]
    below = sorted(set(_below_tap(strange, decoder, by_module).values()))
    if below:
        way = (
            f"import it into a repository made with `niwfctl init --tap-layer {below[0]}`"
            if below[0] > 0
            else "no repository can change layer 0, since the coordinate is read below all "
            f"changes: train it with layers_to_transform from {tap} (or, where target_modules is "
            "one string, with which PEFT does not take that, with "
            rf"exclude_modules=r'.*\.layers\.({'|'.join(map(str, range(tap)))})\..*')"
        )
        raise FormatError(
            f"{folder} adapts {_listed(below)}, and capabilities here change layers {tap} (the "
            f"tap layer) to {last} only: {way}, or leave these layers out with --drop-below-tap"
        )
    if strange:
        raise FormatError(
            f"{folder} adapts {strange[0]}, and capabilities here change the linears of layers "
            f"{tap} to {last} only: it cannot be imported"
        )


def _below_tap(
    modules: Iterable[str], decoder: str, by_module: Mapping[str, Site]
) -> dict[str, int]:
    """The layer of each module that lies below the tap layer."""
    tap = min(site.layer for site in by_module.values())
    layer = re.compile(rf"{re.escape(decoder)}\.layers\.({_NUMBER.pattern})\.")
    found = {module: layer.match(module) for module in modules}
    return {module: int(n[1]) for module, n in found.items() if n and int(n[1]) < tap}


def _share(
    folder: Path,
    config: AdapterConfig,
    pairs: Mapping[str, tuple[Tensor, Tensor]],
    part: Iterable[str],
) -> float:
    """‖ΔW of some modules‖ / ‖ΔW of all‖, both over all their entries together.

    Raises:
        FormatError: it is no number, since one of these modules is damaged.
    """
    if not (chosen := list(part)):
        return 0.0
    for module in chosen:
        down, up = pairs[module]
        whole = down.ndim == up.ndim == 2 and len(down) == up.shape[1] <= LARGEST_RANK
        if not (whole and all(one.numel() and one.isfinite().all() for one in (down, up))):
            raise FormatError(f"{folder} has wrong shapes or numbers in {module}: it is damaged")
    norms = {
        module: squared_norm(down.double(), up.double() * config.scale(module))
        for module, (down, up) in pairs.items()
    }
    return relative_error(sum(norms[module] for module in chosen), sum(norms.values()))


def _listed(layers: Sequence[int]) -> str:
    """Layers in ascending order, in words."""
    if len(layers) == 1:
        return f"layer {layers[0]}"
    if len(layers) == layers[-1] - layers[0] + 1:
        return f"layers {layers[0]} to {layers[-1]}"
    return f"layers {', '.join(map(str, layers))}"


def _require_shapes(
    folder: Path, config: AdapterConfig, module: str, site: Site, pair: tuple[Tensor, Tensor]
) -> None:
    rank = config.rank(module)
    expected = [(rank, site.in_features), (site.out_features, rank)]
    for which, tensor, shape in zip("AB", pair, expected, strict=True):
        if tuple(tensor.shape) != shape:
            raise FormatError(
                f"{folder} has {which} of {module} with shape {list(tensor.shape)}, expected "
                f"{list(shape)}: it was made for another backbone "
                f"({config.base_model_name_or_path}), or its {CONFIG} belongs to other weights"
            )
        if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise FormatError(
                f"{folder} has {which} of {module} as {tensor.dtype}: expected float32, float16 "
                "or bfloat16"
            )
        if not tensor.isfinite().all():
            raise FormatError(
                f"{folder} has a value in {which} of {module} that is not finite: its training "
                "failed"
            )


def _rounding(true: Mapping[str, tuple[Tensor, Tensor]], basis: Basis) -> float:
    """‖B′A′ − BA‖ / ‖BA‖ over all sites; 0 where nothing had to be rounded."""
    lost = whole = 0.0
    for name, (down, up) in true.items():
        down, up = down.double(), up.double()
        near_down, near_up = basis.down[name].double(), basis.up[name].double()
        # B′A′ − BA = (B′ − B) A′ + B (A′ − A): exactly zero where both are
        lost += squared_norm(
            torch.cat([near_down, near_down - down]), torch.cat([near_up - up, up], dim=1)
        )
        whole += squared_norm(down, up)
    return relative_error(lost, whole)
