"""A LoRA for llama.cpp: one GGUF file, with the names and the row order of its models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import IO

import gguf
import numpy as np
from torch import Tensor
from transformers import PretrainedConfig

from niwfctl.errors import BackboneError
from niwfctl.repository.forms import Factors, rank_of

_KEY = "niwf.provenance"  # llama.cpp ignores keys it does not know
# By transformers' name: llama.cpp's, and whether its models keep the rows of queries and keys in
# another order, which interleaves the two halves of a head that rotate together.
_ARCHITECTURES = {
    "llama": (gguf.MODEL_ARCH.LLAMA, True),
    "mistral": (gguf.MODEL_ARCH.LLAMA, True),
    "qwen2": (gguf.MODEL_ARCH.QWEN2, False),
    "qwen3": (gguf.MODEL_ARCH.QWEN3, False),
    "gemma": (gguf.MODEL_ARCH.GEMMA, False),
}


@dataclass(frozen=True)
class Layout:
    """How llama.cpp lays out the models of one architecture.

    Attributes:
        architecture: its name there.
        blocks: number of layers.
        heads: number of heads by linear, for linears whose rows have another order there.
    """

    architecture: gguf.MODEL_ARCH
    blocks: int
    heads: dict[str, int]

    @classmethod
    def of(cls, config: PretrainedConfig) -> Layout:
        """The layout for a backbone.

        Raises:
            BackboneError: the layout of its architecture is not known here.
        """
        if config.model_type not in _ARCHITECTURES:
            raise BackboneError(
                f"a LoRA of {config.model_type} cannot be written as gguf-lora, only one of "
                f"{', '.join(_ARCHITECTURES)}: export `--format peft` and use llama.cpp's own "
                "convert_lora_to_gguf.py"
            )
        architecture, reordered = _ARCHITECTURES[config.model_type]
        queries = config.num_attention_heads
        keys = getattr(config, "num_key_value_heads", None) or queries
        heads = {"q_proj": queries, "k_proj": keys} if reordered else {}
        return cls(architecture, config.num_hidden_layers, heads)


def write_gguf_lora(
    file: Path, factors: Factors, layout: Layout, name: str, provenance: str
) -> None:
    """Writes the factors as float32.

    Args:
        name: of the capability.
        provenance: JSON, kept under `niwf.provenance`.
    """
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[layout.architecture])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_name(name)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    # llama.cpp scales by alpha / rank, which is then 1
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(rank_of(factors)))
    writer.add_string(_KEY, provenance)
    names = gguf.get_tensor_name_map(layout.architecture, layout.blocks)
    for site, (down, up) in factors.items():
        theirs = names.get_name(f"model.{site}.weight", try_suffixes=(".weight",))
        if theirs is None:
            raise BackboneError(
                f"llama.cpp has no name for the linear {site}: export `--format peft` instead"
            )
        heads = layout.heads.get(site.rsplit(".", 1)[-1])
        writer.add_tensor(f"{theirs}.lora_a", _array(down))
        writer.add_tensor(f"{theirs}.lora_b", _array(reordered(up, heads) if heads else up))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class _Array(np.ndarray):
    """An array whose writing fails if the disk is full; numpy's own would be silently truncated."""

    def tofile(self, file: IO[bytes]) -> None:
        file.write(self.data)


def _array(tensor: Tensor) -> _Array:
    return tensor.contiguous().numpy().view(_Array)


def reordered(up: Tensor, heads: int) -> Tensor:
    """B [out, rank] with each head's rows as llama.cpp rotates them: row i beside row i + d/2."""
    halves = up.unflatten(0, (heads, 2, -1))
    return halves.transpose(1, 2).reshape(up.shape).contiguous()
