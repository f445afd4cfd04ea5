"""Backbones and adapters of the Hugging Face hub, as folders of its cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from niwfctl.backbone.identity import DEFINING
from niwfctl.errors import BackboneError, reason

_INDEX = "*.safetensors.index.json"
_MODEL = (*DEFINING, _INDEX)
_TWICE = ("consolidated*", "original/*")  # the same weights for other libraries
_LOG_IN = "log in with `hf auth login` or set HF_TOKEN"


def snapshot(
    model: str,
    revision: str | None,
    instead: str,
    kind: str = "backbone",
    files: Sequence[str] = _MODEL,
) -> tuple[Path, str]:
    """(folder, commit) of a hub model, downloaded unless it is in the cache.

    Args:
        model: hub id.
        revision: branch, tag or commit; offline, an earlier download is used.
        instead: what to do if it cannot be had, for the message.
        kind: what it is, for the message.
        files: patterns of the files to download.

    Raises:
        BackboneError: it is neither in the cache nor can it be downloaded.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        folder = snapshot_download(
            model,
            revision=revision,
            allow_patterns=list(files),
            ignore_patterns=list(_TWICE),
        )
    except GatedRepoError as error:  # a kind of RepositoryNotFoundError
        raise BackboneError(
            f"the {kind} {model!r} is open only to those who accepted its licence: accept it at "
            f"https://huggingface.co/{model}, then {_LOG_IN}"
        ) from error
    except RepositoryNotFoundError as error:
        raise BackboneError(
            f"the {kind} {model!r} is not a folder and there is no public model of this name on "
            f"the Hugging Face hub: if it is a private one, {_LOG_IN}; else {instead}"
        ) from error
    except Exception as error:  # the errors of the hub's transport differ between versions
        raise BackboneError(
            f"the {kind} {model!r} is not a folder and cannot be downloaded from the Hugging "
            f"Face hub ({reason(error)}): {instead}"
        ) from error
    return Path(folder), Path(folder).name
