"""Making a repository."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from niwfstore import Pointer
from torch import Tensor

from niwfctl.backbone.adapter import FieldAdapter
from niwfctl.backbone.arguments import Argument
from niwfctl.backbone.calibration import calibrate, default_dim, default_tap_layer
from niwfctl.backbone.embedded import EMBEDDED
from niwfctl.backbone.load import load, local_path, resolve
from niwfctl.backbone.probe import witnessed
from niwfctl.backbone.sites import decoder_path, find_sites
from niwfctl.backbone.support import require_supported
from niwfctl.config import FILE, BackboneConfig, Config, FieldConfig
from niwfctl.errors import NotARepository, UsageError
from niwfctl.git.git import Git
from niwfctl.git.process import require_recent_git
from niwfctl.layout import ATTRIBUTES, ATTRIBUTES_FILE, object_file
from niwfctl.paths import require_folder
from niwfctl.repository.backbone import fitting
from niwfctl.repository.lfs import add_hook
from niwfctl.storage import storing
from niwfctl.tensors import as_bytes


def initialize(
    path: Path,
    model: str,
    revision: str | None,
    quant: str,
    tap_layer: int | None,
    dim: int | None,
    template_args: Mapping[str, Argument],
    progress: Callable[[int, int], None],
) -> Git:
    """Implements `Repository.init`; writes nothing before the model has been measured."""
    require_folder(path)
    require_recent_git()
    Git.require_identity(path)
    _refuse_loss(path)
    measured = _measured(model, revision, quant, tap_layer, dim, template_args, progress)
    git = Git.init(path)
    from niwfctl.repository.repository import Repository

    repository = Repository(git)
    with storing(), repository.writing():
        _refuse_loss(path)
        pointer = repository.store.put_tensors(as_bytes(measured.tensors))
        head, changes = git.head(), _files(path, measured, pointer)
        commit = git.commit(changes, f"Begin a field on {model}", [head] if head else [])
        git.sync(commit, changes)
        git.advance(commit, head, "niwfctl init")
        add_hook(git)
    git.tell_hook("post-commit")
    return git


@dataclass(frozen=True)
class _Measured:
    """What a repository pins, as measured.

    Attributes:
        field: settings of `FieldConfig`, except for the object's id.
        tensors: of that object.
    """

    backbone: BackboneConfig
    field: dict[str, object]
    tensors: dict[str, Tensor]


def _measured(
    model: str,
    revision: str | None,
    quant: str,
    tap_layer: int | None,
    dim: int | None,
    template_args: Mapping[str, Argument],
    progress: Callable[[int, int], None],
) -> _Measured:
    """Loads the backbone, fits its coordinate map and takes its witness."""
    source = resolve(model, revision)
    if revision is not None and source.revision is None:
        raise UsageError(
            f"--revision {revision!r} chooses a version of a Hugging Face id, which {model!r} is "
            "not: leave it out"
        )
    with fitting(quant):
        backbone = load(source, quant, template_args, fix_regex=None)
        tap_layer = default_tap_layer(backbone) if tap_layer is None else tap_layer
        dim = default_dim(backbone) if dim is None else dim
        sites, decoder = find_sites(backbone.model, tap_layer), decoder_path(backbone.model)
        calibration = calibrate(backbone, tap_layer, dim, progress)
        adapter = FieldAdapter(backbone.model, sites, calibration.coordinates)
        require_supported(adapter)
        witness, sample = witnessed(adapter)
    adapter.detach()  # so that the backbone is freed when nothing refers to it
    by_name = model == EMBEDDED or source.revision
    pinned = BackboneConfig(
        model=model if by_name else str(local_path(model).resolve()),
        revision=source.revision,
        identity=source.identity,
        quant=backbone.quant,
        decoder=None if decoder == "model" else decoder,
        template_args=dict(template_args),
        fix_mistral_regex=backbone.fixed_regex or None,
        witness=witness,
    )
    field = {"tap_layer": tap_layer, "dim": dim, "skip_tokens": calibration.skip}
    return _Measured(pinned, field, calibration.tensors() | {"probe": sample})


def _files(path: Path, measured: _Measured, pointer: Pointer) -> dict[str, bytes]:
    """The files of the first commit, by path."""
    field = FieldConfig(**measured.field, skip_system=True, coordinates=pointer.oid)
    attributes = _committed(path, ATTRIBUTES_FILE) or b""
    there = attributes.splitlines()
    lacking = [rule for rule in ATTRIBUTES.encode().splitlines() if rule not in there]
    if lacking and attributes and not attributes.endswith(b"\n"):
        attributes += b"\n"
    attributes += b"".join(rule + b"\n" for rule in lacking)
    backbone = measured.backbone
    return {
        FILE: Config(format=backbone.format, backbone=backbone, field=field).dump().encode(),
        ATTRIBUTES_FILE: attributes,
        object_file(pointer.oid): pointer.text().encode(),
    }


def _refuse_loss(path: Path) -> None:
    """Requires a folder without a field, and without files that git could not restore."""
    committed = {name: _committed(path, name) for name in (FILE, ATTRIBUTES_FILE)}
    if committed[FILE] is not None:
        raise UsageError(f"{path} is a niwfctl repository already: see `niwfctl status`")
    for name, content in committed.items():
        file = path / name
        if file.exists() and file.read_bytes() != content:
            raise UsageError(f"{file} would be overwritten: commit or move it first")


def _committed(path: Path, name: str) -> bytes | None:
    """A file at HEAD of the git repository rooted in a folder, if there is one."""
    try:
        git = Git.open(path)
    except NotARepository:
        return None
    head = git.head()
    return git.blob(head, name) if head and git.worktree.resolve() == path.resolve() else None
