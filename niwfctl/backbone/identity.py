"""Which model a backbone is: a hash of the files that determine its answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from niwfstore import write_atomic

from niwfctl.errors import BackboneError

_FIRST = (
    "*.safetensors",
    "*.gguf",
    "config.json",
    "tokenizer*.json",
    "tokenizer.model",
    "chat_template.jinja",
)
_ENDS = "generation_config.json"  # which tokens end an answer
_SPLIT = ("vocab.json", "merges.txt")  # read if there is no tokenizer.json
_BESIDE = ("special_tokens_map.json", "added_tokens.json", "additional_chat_templates/*.jinja")
DEFINING = (*_FIRST, _ENDS, *_SPLIT, *_BESIDE)
_PICKLES = "pytorch_model*.bin"
_ADAPTER = "adapter_config.json"  # transformers loads it with the model if PEFT is installed
_CHOICE = "transformers_weights"  # entry of config.json


def files_identity(path: Path, cache: Path | None) -> str:
    """`sha256:…` over a folder's weights, configurations and tokenizer, or over a GGUF file.

    Args:
        path: the folder or file.
        cache: folder in which file hashes are cached by size and modification time; None for no
            caching.

    Raises:
        BackboneError: there are no weight files.
    """
    return _identity(path, (*_second(path), *_BESIDE), cache)


def earlier_identities(path: Path, cache: Path | None) -> Iterator[str]:
    """The identities that older repositories pin: they cover fewer files than `files_identity`."""
    for patterns in (_second(path), _FIRST):
        yield _identity(path, patterns, cache)


def _second(path: Path) -> Sequence[str]:
    split = () if (path / "tokenizer.json").exists() else _SPLIT
    return (*_FIRST, _ENDS, *split)


def _identity(path: Path, patterns: Sequence[str], cache: Path | None) -> str:
    files = [path] if path.is_file() else sorted(f for p in patterns for f in path.glob(p))
    whole = any(file.suffix in (".safetensors", ".gguf") for file in files)
    if not whole and (pickle := next(path.glob(_PICKLES), None)):
        raise BackboneError(
            f"{pickle} is a pickle, which could run any code, so it is never opened: if you trust "
            'it, save the model as safetensors beside it with `python -c "from transformers import '
            f"AutoModelForCausalLM as M; M.from_pretrained({str(path)!r}, dtype='auto')"
            f'.save_pretrained({str(path)!r})"`'
        )
    if not whole:
        raise BackboneError(
            f"{path} holds no model weights: expected *.safetensors beside a config.json, or a "
            "GGUF file"
        )
    total = hashlib.sha256()
    for file in files:
        name = file.name if file == path else file.relative_to(path).as_posix()
        total.update(f"{name} {_file_hash(file, cache)}\n".encode())
    return f"sha256:{total.hexdigest()}"


def require_covered(folder: Path) -> None:
    """Checks that transformers loads only weights that the folder's identity covers.

    Raises:
        BackboneError: the folder also holds an adapter, or its files name weights elsewhere.
    """
    if (folder / _ADAPTER).exists():
        raise BackboneError(
            f"{folder} holds an adapter ({_ADAPTER}) that would be loaded with the model: merge it "
            "into the model's weights, or move it elsewhere and import it with `niwfctl import`"
        )
    covered = {file.name for file in folder.glob("*.safetensors")}
    strange = sorted(_named_weights(folder) - covered - {file.name for file in _indexes(folder)})
    if strange:
        raise BackboneError(
            f"{folder} names the weights {strange[0]!r}, which are not a *.safetensors file in it: "
            "save the model there again with `save_pretrained`"
        )


def _named_weights(folder: Path) -> set[str]:
    """The files that the folder tells transformers to load, besides those it finds itself."""
    named: set[str] = set()
    unread = (OSError, ValueError, KeyError, TypeError, AttributeError)
    with suppress(*unread):  # transformers will report what is wrong
        chosen = json.loads((folder / "config.json").read_bytes())[_CHOICE]
        named |= {str(chosen)} if chosen else set()
    for index in _indexes(folder):
        with suppress(*unread):
            named |= set(map(str, json.loads(index.read_bytes())["weight_map"].values()))
    return named


def _indexes(folder: Path) -> list[Path]:
    return list(folder.glob("*.safetensors.index.json"))


def _file_hash(file: Path, cache: Path | None) -> str:
    if cache is None:
        return _hash(file)
    stat = file.stat()
    stamp = [str(file.resolve()), stat.st_size, stat.st_mtime_ns]
    memory = cache / f"{hashlib.sha256(stamp[0].encode()).hexdigest()[:32]}.json"
    with suppress(OSError, ValueError, TypeError, KeyError):
        known = json.loads(memory.read_bytes())
        if known["stamp"] == stamp:
            return known["sha256"]
    digest = _hash(file)
    with suppress(OSError):  # only a cache: without it the file is hashed again
        write_atomic(memory, json.dumps({"stamp": stamp, "sha256": digest}).encode())
    return digest


def _hash(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
