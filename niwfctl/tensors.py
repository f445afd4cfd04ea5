"""Converts between torch tensors and the store's bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from niwfstore import TensorBytes
from safetensors.torch import load_file
from torch import Tensor

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.uint8: "U8",
}


def as_bytes(tensors: Mapping[str, Tensor]) -> dict[str, TensorBytes]:
    """The tensors' bytes; tensors that are contiguous on the CPU are not copied.

    Raises:
        KeyError: a dtype that niwfctl does not store.
    """
    named = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        raw = plain.reshape(-1).view(torch.uint8).numpy()
        named[name] = TensorBytes(_DTYPES[plain.dtype], tuple(plain.shape), memoryview(raw))
    return named


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, memory-mapped."""
    return load_file(path)
