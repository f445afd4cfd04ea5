"""Which model a backbone is: a hash over its weight files."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from niwfstore import write_atomic

from niwfctl.errors import BackboneError

DEFINING = (
    "*.safetensors",
    "*.gguf",
    "config.json",
    "tokenizer*.json",
    "tokenizer.model",
    "chat_template.jinja",
)


def files_identity(path: Path, cache: Path) -> str:
    """`sha256:…` over a folder's weights, configuration and tokenizer, or over a GGUF file.

    Args:
        path: the folder or file.
        cache: folder in which file hashes are remembered by size and modification time.

    Raises:
        BackboneError: there are no weight files.
    """
    files = [path] if path.is_file() else sorted(f for p in DEFINING for f in path.glob(p))
    if not any(file.suffix in (".safetensors", ".gguf") for file in files):
        raise BackboneError(
            f"{path} holds no model weights: expected *.safetensors beside a config.json, or a "
            "GGUF file"
        )
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.name} {_file_hash(file, cache)}\n".encode())
    return f"sha256:{total.hexdigest()}"


def _file_hash(file: Path, cache: Path) -> str:
    stat = file.stat()
    stamp = [str(file.resolve()), stat.st_size, stat.st_mtime_ns]
    memory = cache / f"{hashlib.sha256(stamp[0].encode()).hexdigest()[:32]}.json"
    with suppress(OSError, ValueError, TypeError, KeyError):
        known = json.loads(memory.read_bytes())
        if known["stamp"] == stamp:
            return known["sha256"]
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    with suppress(OSError):  # only a memory: without it the file is hashed again
        write_atomic(memory, json.dumps({"stamp": stamp, "sha256": digest}).encode())
    return digest
