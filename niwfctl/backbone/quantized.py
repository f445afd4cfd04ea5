"""Weights in 4 bits: made from a backbone's files once, and kept for the commands after."""

from __future__ import annotations

import hashlib
import logging
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import BitsAndBytesConfig, PretrainedConfig, PreTrainedModel

from niwfctl.backbone.cache import IDENTITY, cache_folder, is_whole, keep
from niwfctl.backbone.quiet import quiet
from niwfctl.errors import BackboneError, reason

logger = logging.getLogger(__name__)

_CODE = ("bitsandbytes", "transformers")  # who decides on the bits
_KEPT = "niwf_kept_copy"  # attribute of a model in 4 bits


def nf4() -> BitsAndBytesConfig:
    """NF4 with double quantization, computing in bf16 (QLoRA, arXiv 2305.14314)."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def require_nf4(device: str) -> None:
    """Puts a small tensor into 4 bits, as `nf4` says.

    Raises:
        BackboneError: bitsandbytes cannot do that on this device.
    """
    try:
        with quiet():
            from bitsandbytes.functional import quantize_4bit

            ones = torch.ones(64, dtype=torch.bfloat16, device=device)
            packed, _ = quantize_4bit(ones, compress_statistics=True, quant_type="nf4")
            packed.cpu()  # a GPU tells of its errors when it is waited for
    except Exception as error:  # bitsandbytes and each kind of device have errors of their own
        raise BackboneError(
            f"--quant nf4 does not work on {device}: {reason(error)}; install the versions of "
            "torch and bitsandbytes that fit the driver"
        ) from error


def stored_form(config: PretrainedConfig) -> str:
    """How a checkpoint stores its weights: `none` as numbers, `nf4`, or another method's name."""
    stored = getattr(config, "quantization_config", None)
    if stored is None:
        return "none"
    stored = stored if isinstance(stored, dict) else stored.to_dict()
    if stored.get("load_in_4bit"):
        return str(stored.get("bnb_4bit_quant_type", "fp4"))
    return "int8" if stored.get("load_in_8bit") else str(stored.get("quant_method", "unknown"))


def kept_copy(identity: str, device: str) -> Path:
    """Where a backbone's weights in NF4 are kept, as a device of this kind made them.

    The same place may hold other bits on another machine: double quantization takes a mean, whose
    last bits depend on threads and on the GPU. `note_copy` notes which they are.
    """
    code = " ".join(f"{package} {version(package)}" for package in _CODE)
    key = f"{identity} {torch.device(device).type} {code}"
    name = hashlib.sha256(key.encode()).hexdigest()[:32]
    return cache_folder() / "backbones" / f"{name}-nf4"


def note_copy(model: PreTrainedModel, copy: Path) -> None:
    """Notes at a model which kept copy has its weights, if there is one."""
    if is_whole(copy):
        setattr(model, _KEPT, (copy / IDENTITY).read_text())


def noted_copy(model: nn.Module) -> str | None:
    """The identity of the kept copy that has a model's weights; None where they have none."""
    return getattr(model, _KEPT, None)


def keep_copy(model: PreTrainedModel, target: Path) -> None:
    """Writes weights in 4 bits to where `kept_copy` says; without it, all goes on, but slower."""
    try:
        keep(target, model.save_pretrained)
    except (OSError, SafetensorError) as error:  # its word for any error of the disk
        logger.warning(
            "the backbone in 4 bits cannot be kept in %s, so that each command makes it anew: %s",
            target.parent,
            reason(error),
        )
