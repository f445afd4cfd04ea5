"""The formats in which other tools read a capability with frozen gates."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from niwfstore import write_atomic
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from niwfctl.backbone.load import Backbone
from niwfctl.backbone.quiet import quiet
from niwfctl.backbone.sites import decoder_layers
from niwfctl.backbone.template import DEFAULT_TEMPLATE
from niwfctl.errors import BackboneError, StorageError
from niwfctl.field.basis import Site
from niwfctl.field.compress import padded
from niwfctl.field.frozen import FrozenSum
from niwfctl.repository.adapters import CONFIG, ROOT, TEMPLATE, WEIGHTS

# Ranks that PEFT, vLLM and llama.cpp all accept; with alpha = rank, each scales by 1.
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)

# What PEFT refuses, in `_check_lora_target_modules_mamba`: this, and convolutions, in such models.
_REFUSED_LINEAR = "out_proj"
_REFUSING_TYPES = {"falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"}

Factors = dict[str, tuple[Tensor, Tensor]]
"""(A [rank, in], B [out, rank]) by site, float32, of one rank at all sites; ΔW = B A."""


def factors_of(change: FrozenSum) -> Factors:
    """The factors of a change of weights, padded with zeros to one rank that every tool accepts.

    Sites that it leaves as they are have none, unless it changes nothing at all.
    """
    found = {name: change.at(name) for name in change.names}
    found = {name: pair for name, pair in found.items() if _changes(*pair)} or found
    true_rank = max(len(down) for down, _ in found.values())
    rank = next((known for known in RANKS if known >= true_rank), true_rank)
    return {name: padded(down, up, rank) for name, (down, up) in found.items()}


def _changes(down: Tensor, up: Tensor) -> bool:
    return bool(down.any() and up.any())


def rank_of(factors: Factors) -> int:
    """The rank that all sites share."""
    return len(next(iter(factors.values()))[0])


def require_peft(factors: Factors, model_type: str) -> None:
    """Requires that PEFT takes these factors.

    Args:
        model_type: of the backbone, by transformers' name.

    Raises:
        BackboneError: it refuses one of the linears in models of this type.
    """
    refused = [name for name in factors if name.rsplit(".", 1)[-1] == _REFUSED_LINEAR]
    if refused and model_type in _REFUSING_TYPES:
        raise BackboneError(
            f"PEFT takes no LoRA of {refused[0]}, since it refuses {_REFUSED_LINEAR} in models of "
            f"type {model_type}: export `--format merged` instead"
        )


def write_peft(folder: Path, factors: Factors, decoder: str, backbone: str, template: str) -> None:
    """A LoRA directory.

    Every linear is named by its full path, since layers below the tap are not adapted; the scale
    is 1.

    Args:
        decoder: path of the backbone's decoder.
        backbone: name of what it was trained on.
        template: of the chats it was trained on.
    """
    rank = rank_of(factors)
    tensors = {
        f"{ROOT}{decoder}.{name}.lora_{which}.weight": tensor
        for name, pair in factors.items()
        for which, tensor in zip("AB", pair, strict=True)
    }
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": backbone,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": [f"{decoder}.{name}" for name in factors],
    }
    write_atomic(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    write_atomic(folder / TEMPLATE, template.encode())
    write_atomic(folder / CONFIG, json.dumps(config, indent=2).encode())


def write_merged(folder: Path, backbone: Backbone, change: FrozenSum, ends: Sequence[int]) -> None:
    """The backbone with the change added to its weights, in its own dtype; consumes `backbone`.

    Args:
        backbone: not quantized, and without a field in it.
        ends: the tokens at which an answer ends.

    Raises:
        BackboneError: weights that it changes are those of other linears, too.
        StorageError: the disk is full or read-only.
    """
    layers = decoder_layers(backbone.model)
    every = backbone.model.named_parameters(remove_duplicate=False)
    users = Counter(weight.data_ptr() for _, weight in every)
    for name in change.names:
        down, up = change.at(name)
        if not _changes(down, up):
            continue
        layer, module = Site.parse(name)
        linear = layers[layer].get_submodule(module)
        if users[linear.weight.data_ptr()] > 1:
            raise BackboneError(
                f"the weights of {name} are used in several places of this backbone, of which a "
                "merge would change all: export `--format peft` instead"
            )
        delta = (up @ down).to(linear.weight.device)
        linear.weight.data = (linear.weight.float() + delta).to(linear.weight.dtype)
    tokenizer = backbone.tokenizer
    tokenizer.chat_template = tokenizer.chat_template or DEFAULT_TEMPLATE
    backbone.model.generation_config.eos_token_id = list(ends) or None
    try:
        with quiet():
            backbone.model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        for file in folder.glob("*.safetensors"):  # which only their owner could read otherwise
            shutil.copymode(folder / "config.json", file)
    except SafetensorError as error:  # safetensors raises this for any disk error
        raise StorageError(f"the merged weights cannot be written: {error}") from error
