"""Capabilities for other tools: a standard PEFT LoRA, or the backbone with it merged in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from niwfstore import write_atomic
from safetensors.torch import save_file
from torch import Tensor

from niwfctl.atlas import Capability
from niwfctl.backbone.load import quiet
from niwfctl.backbone.sites import decoder_layers
from niwfctl.errors import UsageError
from niwfctl.field.frozen import FrozenSum
from niwfctl.repository.mixture import of_capability
from niwfctl.repository.model import Model
from niwfctl.repository.objects import require_new, storing
from niwfctl.repository.regions import load_region

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository

# Ranks that PEFT, vLLM and llama.cpp all take; with alpha = rank no tool scales by anything.
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
FORMATS = ("peft", "merged")


def export(
    repository: Repository, name: str, form: str, folder: Path, prompt: str | None
) -> dict[str, object]:
    """Writes a capability as other tools load it.

    Elsewhere gates cannot depend on the prompt, so they are frozen: at the mean of the region's
    cell, or at the coordinate of `prompt`.

    Args:
        form: `peft` (a LoRA directory) or `merged` (full weights in bf16).
        folder: to write; it must not be there, or be empty.
        prompt: where to take the gates, instead of the mean.

    Returns:
        What was written: format, rank, bytes, and the coordinate's origin.

    Raises:
        UsageError: an unknown format, or the folder is not empty.
        UnknownName, ObjectError, StorageError.
    """
    if form not in FORMATS:
        raise UsageError(f"--format {form!r} is unknown: choose {' or '.join(FORMATS)}")
    require_new(folder)
    capability = repository.capability(name)
    model = Model(repository) if prompt is not None or form == "merged" else None
    change = frozen(repository, capability, None if prompt is None else model.coordinate(prompt))
    with storing():
        folder.mkdir(parents=True, exist_ok=True)
        if form == "peft":
            rank = _write_peft(repository, change, folder)
        else:
            rank = None
            _write_merged(model, change, folder)
    written = sum(file.stat().st_size for file in folder.iterdir())
    where = "mean" if prompt is None else "prompt"
    return {"name": name, "format": form, "rank": rank, "bytes": written, "gates_at": where}


def frozen(repository: Repository, capability: Capability, z: Tensor | None) -> FrozenSum:
    """A capability's change of weights at z [dim]; None: each region at its own mean.

    Of a capability with several regions the first is taken at its mean.

    Raises:
        ObjectError: an object is missing or corrupt.
    """
    if z is not None:
        mixture = of_capability(repository, capability)
        shares = mixture.shares(z[None])[0].tolist()
        chosen = [(share, entry) for share, entry in zip(shares, mixture.entries, strict=True)]
    else:
        parts = [(part.weight, part.regions[0]) for part in capability.parts]
        chosen = parts or [(1.0, capability.regions[0])]
    loaded = [(weight, load_region(repository, entry)) for weight, entry in chosen if weight]
    return FrozenSum([(w, region, region.cell.mean if z is None else z) for w, region in loaded])


def _write_peft(repository: Repository, change: FrozenSum, folder: Path) -> int:
    factors = {name: change.at(name) for name in change.names}
    true_rank = max(len(down) for down, _ in factors.values())
    rank = next((known for known in RANKS if known >= true_rank), true_rank)
    tensors = {}
    for name, (down, up) in factors.items():
        key = f"base_model.model.model.{name}"
        missing = rank - len(down)
        tensors[f"{key}.lora_A.weight"] = torch.nn.functional.pad(down, (0, 0, 0, missing))
        tensors[f"{key}.lora_B.weight"] = torch.nn.functional.pad(up, (0, missing)).contiguous()
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": repository.config.backbone.model,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": [f"model.{name}" for name in factors],
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    write_atomic(folder / "adapter_config.json", json.dumps(config, indent=2).encode())
    return rank


def _write_merged(model: Model, change: FrozenSum, folder: Path) -> None:
    backbone = model.backbone
    if getattr(backbone.model, "hf_quantizer", None) is not None:
        raise UsageError("a 4-bit backbone cannot be merged into: export `--format peft` instead")
    model.adapter.detach()
    layers = decoder_layers(backbone.model)
    for name in change.names:
        down, up = change.at(name)
        _, layer, module = name.split(".", 2)
        linear = layers[int(layer)].get_submodule(module)
        delta = (up @ down).to(linear.weight.device)
        linear.weight.data = (linear.weight.float() + delta).to(linear.weight.dtype)
    with quiet():
        backbone.model.save_pretrained(folder)
        backbone.tokenizer.save_pretrained(folder)
