"""Loading a frozen backbone: its source, its identity and its quantization."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from niwfctl.backbone.arguments import Argument, pin
from niwfctl.backbone.cache import hashes, is_whole
from niwfctl.backbone.embedded import EMBEDDED, converted, embedded_gguf
from niwfctl.backbone.hub import snapshot
from niwfctl.backbone.identity import files_identity, require_covered
from niwfctl.backbone.quantized import (
    compute_in_bf16,
    keep_copy,
    kept_copy,
    nf4,
    note_copy,
    stored_form,
)
from niwfctl.backbone.quiet import hearing_reports, quiet, reported_cause
from niwfctl.backbone.sites import width
from niwfctl.errors import BackboneError, UsageError, of_memory, reason, tells_of_memory

QUANTIZATIONS = ("none", "nf4")
_ACCEPTED = (
    f"expected {EMBEDDED!r}, a folder with safetensors, a GGUF file, or a Hugging Face id such as "
    "mistralai/Mistral-7B-v0.1"
)


@dataclass(frozen=True)
class Source:
    """Where a backbone is loaded from.

    Attributes:
        folder: argument of `from_pretrained`.
        revision: commit of a hub model, None for files.
        identity: what a repository pins: `sha256:…` over the files.
        hub: `hub:ID@COMMIT` of a hub model, which older repositories pin; None for files.
    """

    folder: str
    revision: str | None
    identity: str
    hub: str | None = None


@dataclass(frozen=True)
class Backbone:
    """A frozen model in evaluation mode, with its tokenizer and identity.

    Attributes:
        quant: how its weights are held: `nf4`, or `none` for as they are in its files.
        fixed_regex: whether its tokenizer splits by another pattern than its files say.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    identity: str
    quant: str = "none"
    fixed_regex: bool = False

    @property
    def width(self) -> int:
        """Size of the states that its layers hand on."""
        return width(self.model)


def resolve(model: str, revision: str | None = None, instead: str = _ACCEPTED) -> Source:
    """Finds a backbone, downloads it if necessary, and computes its identity, without loading it.

    Args:
        model: `smollm2`, a folder with safetensors, a GGUF file, or a hub id.
        revision: branch, tag or commit of a hub model.
        instead: what to do if it is not there, for the message.

    Raises:
        BackboneError: it does not exist, or holds no weights.
    """
    path = embedded_gguf() if model == EMBEDDED else local_path(model)
    if path.suffix == ".gguf" and path.is_file():
        return Source(str(converted(path)), None, files_identity(path, hashes()))
    if path.is_dir():
        return Source(str(path), None, files_identity(path, hashes()))
    if path.is_absolute() or path.suffix == ".gguf" or model.count("/") != 1:
        raise BackboneError(f"backbone {model!r} does not exist: {instead}")
    folder, commit = snapshot(model, revision, instead)
    hub = f"hub:{model}@{commit}"
    return Source(str(folder), commit, files_identity(folder, hashes()), hub)


def local_path(model: str) -> Path:
    """A model's name as a path: `~` is a home directory, unless there is no such user."""
    return Path(os.path.expanduser(model))


def load(
    source: Source,
    quant: str = "none",
    template_args: Mapping[str, Argument] | None = None,
    fix_regex: bool | None = False,
) -> Backbone:
    """Loads a backbone, frozen, onto the GPU if there is one.

    Weights that were quantized to 4 bits are kept in the cache, and read from there next time.

    Args:
        source: from `resolve`.
        quant: `nf4` (double quantization, bf16 compute), or `none`: as in the files, with
            unquantized weights in bf16.
        template_args: fixed arguments of its chat template.
        fix_regex: whether to correct a wrong pattern by which some of Mistral's tokenizers were
            published to split text; None where transformers would warn of it.

    Raises:
        UsageError: another `quant`, or an argument that the template does not take.
        BackboneError: transformers cannot load it, or would load more than its identity covers or
            less than its config.json asks for; or its files are quantized in another way.
    """
    if quant not in QUANTIZATIONS:
        raise UsageError(f"--quant {quant!r} is unknown: choose {' or '.join(QUANTIZATIONS)}")
    with _loading(source):
        form = stored_form(read_config(source.folder))
        if quant == "nf4" and form not in QUANTIZATIONS:
            raise BackboneError(
                f"the weights in {source.folder} are already quantized by {form}: use them as "
                "they are, without --quant nf4, or use a model with 16-bit weights"
            )
        tokenizer, fixed = _tokenizer(source.folder, fix_regex)
        pin(tokenizer, template_args or {})
        model = _in_4_bits(source) if quant == "nf4" and form == "none" else _read(source.folder)
    compute_in_bf16(model)
    _keep_gradients_right(model)
    model = model.requires_grad_(False).eval()
    quant = "nf4" if form == "nf4" else quant
    return Backbone(model, tokenizer, source.identity, quant, fixed)


def load_originals(
    source: Source, template_args: Mapping[str, Argument] | None = None, fix_regex: bool = False
) -> Backbone:
    """Loads weights that are not quantized onto the CPU, in the dtype of their files.

    For a backbone whose weights `load` puts into 4 bits, these are what they were made from.

    Args:
        template_args, fix_regex: as for `load`.

    Raises:
        BackboneError: as `load`.
    """
    with _loading(source):
        tokenizer, fixed = _tokenizer(source.folder, fix_regex)
        pin(tokenizer, template_args or {})
        model = _read(source.folder, dtype="auto", device_map="cpu")
    model = model.requires_grad_(False).eval()
    return Backbone(model, tokenizer, source.identity, fixed_regex=fixed)


def load_tokenizer(
    source: Source, template_args: Mapping[str, Argument] | None = None, fix_regex: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer alone, as `load` gives it.

    Args:
        template_args, fix_regex: as for `load`.

    Raises:
        BackboneError: as `load`.
    """
    with _loading(source):
        tokenizer, _ = _tokenizer(source.folder, fix_regex)
        pin(tokenizer, template_args or {})
    return tokenizer


def generation_settings(source: Source) -> GenerationConfig:
    """A backbone's own settings of generation, as its model has them once it is loaded.

    Raises:
        BackboneError: transformers cannot read them.
    """
    with _loading(source):
        try:
            return GenerationConfig.from_pretrained(source.folder)
        except OSError:  # there is no such file, so what config.json says of it counts
            config, _ = PretrainedConfig.get_config_dict(source.folder)
            return GenerationConfig.from_model_config(config)


def _tokenizer(folder: str, fix_regex: bool | None) -> tuple[PreTrainedTokenizerBase, bool]:
    """The tokenizer, and whether its pattern was corrected."""
    # Mistral's own tokenizer, if installed, reads a file that no identity covers.
    read = partial(
        AutoTokenizer.from_pretrained, folder, mistral_format=False, trust_remote_code=False
    )
    if not fix_regex:
        tokenizer = read()
        found = getattr(tokenizer, "backend_tokenizer", None)
        # transformers notes False there only where it warns that the pattern is wrong
        if fix_regex is False or getattr(found, "fix_mistral_regex", None) is not False:
            return tokenizer, False
    return read(fix_mistral_regex=True), True


def _in_4_bits(source: Source) -> PreTrainedModel:
    copy = kept_copy(source.identity, default_device())
    if is_whole(copy):
        model = _read(str(copy))
    else:
        model = _read(source.folder, quantization_config=nf4())
        keep_copy(model, copy)
    note_copy(model, copy)
    return model


def _read(folder: str, **options: object) -> PreTrainedModel:
    model, found = AutoModelForCausalLM.from_pretrained(
        folder,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        **{"dtype": torch.bfloat16, "device_map": default_device()} | options,
    )
    if lacking := sorted(found["missing_keys"]):  # transformers would initialize them at random
        raise BackboneError(
            f"the backbone {folder} cannot be loaded: its files lack {len(lacking)} weights "
            f"that its config.json asks for, such as {lacking[0]}"
        )
    return model


def outline(source: Source) -> PreTrainedModel:
    """A backbone's modules and their shapes, without weights.

    Raises:
        BackboneError: transformers cannot build it.
    """
    with _loading(source), torch.device("meta"):
        return AutoModelForCausalLM.from_config(read_config(source.folder), trust_remote_code=False)


def read_config(folder: str) -> PretrainedConfig:
    """A model's configuration; a model that needs code of its own is refused: it never runs.

    Raises:
        ValueError, OSError: it needs code of its own, or transformers does not know its
            configuration.
    """
    return AutoConfig.from_pretrained(folder, trust_remote_code=False)


@contextmanager
def _loading(source: Source) -> Iterator[None]:
    require_covered(Path(source.folder))
    reports: list[str] = []
    try:
        with quiet(), hearing_reports() as reports:
            yield
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, SafetensorError) as error:
        if of_memory(error):
            raise
        report = "\n".join(reports)
        cause = reported_cause(report) or reason(error)
        if "MemoryError" in report or tells_of_memory(report):
            raise MemoryError(cause) from error
        raise BackboneError(f"the backbone {source.folder} cannot be loaded: {cause}") from error


def default_device() -> str:
    """The device that `chosen_device` names, which torch can use.

    Raises:
        UsageError: as `chosen_device`.
        BackboneError: $NIWFCTL_DEVICE names one that torch cannot use here.
    """
    device = chosen_device()
    if named := os.environ.get("NIWFCTL_DEVICE"):
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:  # the latter of a build without CUDA
            if of_memory(error):
                raise
            raise BackboneError(
                f"NIWFCTL_DEVICE={named} is no device that this torch can use ({reason(error)}): "
                "set it to cpu, or unset it to get the GPU if there is one"
            ) from error
    return device


def chosen_device() -> str:
    """$NIWFCTL_DEVICE, else the GPU if there is one, else the CPU.

    Processes that train together each get a GPU of their own.

    Raises:
        UsageError: $NIWFCTL_DEVICE gives all of them the same GPU.
    """
    chosen = os.environ.get("NIWFCTL_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    if chosen.startswith("cuda:") and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            f"NIWFCTL_DEVICE={chosen} would put every process of this training on one GPU: set it "
            "to cuda, or unset it, and each gets its own"
        )
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if chosen == "cuda" else chosen


def _keep_gradients_right(model: PreTrainedModel) -> None:
    # On CPUs with AVX512-BF16, bitsandbytes repacks a 4-bit weight at its first evaluation pass,
    # after which every gradient through it is wrong.
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
