"""Making a repository."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from niwfctl.backbone.adapter import FieldAdapter
from niwfctl.backbone.calibration import calibrate, default_dim, default_tap_layer
from niwfctl.backbone.embedded import EMBEDDED
from niwfctl.backbone.load import load, resolve
from niwfctl.backbone.probe import witnessed
from niwfctl.backbone.sites import find_sites
from niwfctl.config import FILE, BackboneConfig, Config, FieldConfig
from niwfctl.errors import NotARepository, UsageError
from niwfctl.repository.git import Git
from niwfctl.repository.objects import object_file, require_folder, storing
from niwfctl.tensors import as_bytes

ATTRIBUTES = "objects/*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


def initialize(
    path: Path,
    model: str,
    revision: str | None,
    quant: str,
    tap_layer: int | None,
    dim: int | None,
    progress: Callable[[int, int], None],
) -> Git:
    """Does what `Repository.init` says; nothing is written before the model has been read."""
    require_folder(path)
    Git.require_identity(path)
    _refuse_second(path)
    source = resolve(model, revision)
    backbone = load(source, quant)
    tap_layer = default_tap_layer(backbone) if tap_layer is None else tap_layer
    dim = default_dim(backbone) if dim is None else dim
    sites = find_sites(backbone.model, tap_layer)
    calibration = calibrate(backbone, tap_layer, dim, progress)
    witness, sample = witnessed(FieldAdapter(backbone.model, sites, calibration.coordinates))
    tensors = calibration.tensors() | {"probe": sample}

    git = Git.init(path)
    from niwfctl.repository.repository import Repository

    repository = Repository(git)
    with storing(), repository.writing():
        _refuse_second(path)
        pointer = repository.store.put_tensors(as_bytes(tensors))
        config = Config(
            backbone=BackboneConfig(
                model=model if model == EMBEDDED or source.revision else str(Path(model).resolve()),
                revision=source.revision,
                identity=source.identity,
                quant=quant,
                witness=witness,
            ),
            field=FieldConfig(
                tap_layer=tap_layer, dim=dim, skip_tokens=calibration.skip, coordinates=pointer.oid
            ),
        )
        head = git.head()
        attributes = (git.blob(head, ".gitattributes") if head else None) or b""
        if ATTRIBUTES.encode() not in attributes:
            attributes += ATTRIBUTES.encode()
        changes = {
            FILE: config.dump().encode(),
            ".gitattributes": attributes,
            object_file(pointer.oid): pointer.text().encode(),
        }
        commit = git.commit(changes, f"Begin a field on {model}", [head] if head else [])
        git.sync(commit, changes)
        git.advance(commit, head, "niwfctl init")
    git.tell_hook("post-commit")
    return git


def _refuse_second(path: Path) -> None:
    try:
        git = Git.open(path)
    except NotARepository:
        return
    head = git.head()
    if git.worktree.resolve() == path.resolve() and head and git.blob(head, FILE):
        raise UsageError(f"{path} is a niwfctl repository already: see `niwfctl status`")
