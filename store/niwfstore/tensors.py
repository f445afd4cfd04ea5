"""Canonical safetensors: equal tensors give equal bytes, in every process.

The safetensors library's own writer is not used: it raises a SafetensorError, not an OSError, when
the disk is full, and writes to a path or into memory, not to an open temporary file. The header has
a fixed order and at most one metadata key; the library writes several in random order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from safetensors import SafetensorError, safe_open

from niwfstore.errors import MalformedTensors

METADATA_KEY = "niwf"
ITEM_BYTES = {
    "F64": 8,
    "I64": 8,
    "U64": 8,
    "F32": 4,
    "I32": 4,
    "U32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "U16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}


@dataclass(frozen=True)
class TensorBytes:
    """A tensor as its raw little-endian bytes.

    Attributes:
        dtype: safetensors' name of the element type, for example `BF16`.
        shape: sizes, outermost first.
        data: contiguous buffer of the elements.
    """

    dtype: str
    shape: tuple[int, ...]
    data: memoryview | bytes


def write_tensors(
    file: IO[bytes], tensors: Mapping[str, TensorBytes], metadata: str | None = None
) -> None:
    """Writes tensors as canonical safetensors, without copying them in memory.

    Args:
        file: open for writing bytes.
        tensors: by name.
        metadata: one string kept in the header.

    Raises:
        MalformedTensors: the dtype is unknown, or the length of a buffer does not fit its shape.
    """
    for name, tensor in tensors.items():
        _check_length(name, tensor)
    # Wide elements come first, to keep every tensor aligned; names make the order total.
    order = sorted(tensors, key=lambda name: (-ITEM_BYTES[tensors[name].dtype], name))
    header: dict[str, object] = {METADATA_KEY: metadata} if metadata is not None else {}
    header = {"__metadata__": header} if header else {}
    end = 0
    for name in order:
        tensor = tensors[name]
        start, end = end, end + memoryview(tensor.data).nbytes
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in order:
        file.write(memoryview(tensors[name].data).cast("B"))


def _check_length(name: str, tensor: TensorBytes) -> None:
    if tensor.dtype not in ITEM_BYTES:
        raise MalformedTensors(f"tensor {name!r} has the unknown dtype {tensor.dtype!r}")
    expected = math.prod(tensor.shape) * ITEM_BYTES[tensor.dtype]
    found = memoryview(tensor.data).nbytes
    if found != expected:
        raise MalformedTensors(
            f"tensor {name!r} of shape {list(tensor.shape)} and dtype {tensor.dtype} needs "
            f"{expected} bytes, not {found}"
        )


def check_tensors(path: Path) -> None:
    """Validates the header of a safetensors file against its length; nothing is unpickled.

    Raises:
        MalformedTensors: the header is too long, not JSON, or its offsets do not fit the file.
    """
    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise MalformedTensors(str(error)) from error


def read_metadata(path: Path) -> str | None:
    """The metadata string given to `write_tensors`, or None.

    Raises:
        MalformedTensors: the file is not well-formed safetensors.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return (file.metadata() or {}).get(METADATA_KEY)
    except SafetensorError as error:
        raise MalformedTensors(str(error)) from error
