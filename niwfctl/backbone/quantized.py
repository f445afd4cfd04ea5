"""4-bit weights: made once from a backbone's files, and kept for later commands."""

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

_CODE = ("bitsandbytes", "transformers")  # the bits depend on their versions
_KEPT = "niwf_kept_copy"  # attribute of a 4-bit model
_COMPUTE = "niwf_compute"  # attribute of one that would compute in another dtype by itself


def nf4() -> BitsAndBytesConfig:
    """NF4 with double quantization, computing in bf16 (QLoRA, arXiv 2305.14314)."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def require_nf4(device: str) -> None:
    """Checks that bitsandbytes can quantize to NF4 on this device, with a small tensor.

    Raises:
        BackboneError: it cannot.
    """
    try:
        with quiet():
            from bitsandbytes.functional import quantize_4bit

            ones = torch.ones(64, dtype=torch.bfloat16, device=device)
            packed, _ = quantize_4bit(ones, compress_statistics=True, quant_type="nf4")
            packed.cpu()  # a GPU reports errors only when it is waited for
    except Exception as error:  # bitsandbytes and every kind of device raise errors of their own
        raise BackboneError(
            f"--quant nf4 does not work on {device}: {reason(error)}; install the versions of "
            "torch and bitsandbytes that fit the driver"
        ) from error


def stored_form(config: PretrainedConfig) -> str:
    """How a checkpoint stores its weights: `none`, `nf4`, or the name of another quantization."""
    stored = getattr(config, "quantization_config", None)
    if stored is None:
        return "none"
    stored = stored if isinstance(stored, dict) else stored.to_dict()
    if stored.get("load_in_4bit"):
        return str(stored.get("bnb_4bit_quant_type", "fp4"))
    return "int8" if stored.get("load_in_8bit") else str(stored.get("quant_method", "unknown"))


def kept_copy(identity: str, device: str) -> Path:
    """Where a backbone's NF4 weights are kept, as made by this kind of device.

    On another machine the bits may differ: double quantization takes a mean, whose last bits depend
    on threads and on the GPU. `note_copy` records which bits a model has.
    """
    code = " ".join(f"{package} {version(package)}" for package in _CODE)
    key = f"{identity} {torch.device(device).type} {code}"
    name = hashlib.sha256(key.encode()).hexdigest()[:32]
    return cache_folder() / "backbones" / f"{name}-nf4"


def note_copy(model: PreTrainedModel, copy: Path) -> None:
    """Records on a model the identity of the kept copy of its weights, if there is one."""
    if is_whole(copy):
        setattr(model, _KEPT, (copy / IDENTITY).read_text())


def noted_copy(model: nn.Module) -> str | None:
    """The identity of the kept copy of a model's weights; None if there is none."""
    return getattr(model, _KEPT, None)


def compute_in_bf16(model: PreTrainedModel) -> None:
    """Makes 4-bit weights compute in bf16, whatever the checkpoint that stores them asks for.

    One that asks for nothing would compute in float32, several times slower on a GPU.
    """
    if not getattr(model, "is_loaded_in_4bit", False):
        return
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit) and module.compute_dtype != torch.bfloat16:
            module.compute_dtype, module.compute_type_is_set = torch.bfloat16, True
            setattr(model, _COMPUTE, "bfloat16")


def noted_compute(model: nn.Module) -> str | None:
    """The dtype that `compute_in_bf16` had to set; None if the model computes in it by itself."""
    return getattr(model, _COMPUTE, None)


def keep_copy(model: PreTrainedModel, target: Path) -> None:
    """Writes 4-bit weights to `target`; a failure is only logged, since they can be made again."""
    try:
        keep(target, model.save_pretrained)
    except (OSError, SafetensorError) as error:  # safetensors raises this for any disk error
        logger.warning(
            "the 4-bit backbone cannot be kept in %s, so each command has to make it again: %s",
            target.parent,
            reason(error),
        )
