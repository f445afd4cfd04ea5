"""Content-addressed safetensors objects, kept as Git LFS keeps them."""

from niwfstore.atomic import output_file, write_atomic
from niwfstore.errors import (
    CorruptObject,
    MalformedPointer,
    MalformedTensors,
    MissingObject,
    StoreError,
)
from niwfstore.pointer import Pointer
from niwfstore.store import ObjectStore
from niwfstore.tensors import TensorBytes, check_tensors, read_metadata, write_tensors

__all__ = [
    "CorruptObject",
    "MalformedPointer",
    "MalformedTensors",
    "MissingObject",
    "ObjectStore",
    "Pointer",
    "StoreError",
    "TensorBytes",
    "check_tensors",
    "output_file",
    "read_metadata",
    "write_atomic",
    "write_tensors",
]
