"""Capabilities act only on the field they were trained in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from niwfctl.atlas import Capability, parse_target
from niwfctl.config import FILE, Config
from niwfctl.errors import BackboneError, UsageError

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository


def usable(repository: Repository, target: str) -> Capability:
    """The capability that `NAME` or `NAME@REV` names, if it can act here.

    Raises:
        UnknownName: there is no such capability or revision.
        UsageError: it was trained in another field.
    """
    capability, (_, revision) = repository.capability(target), parse_target(target)
    if revision != "HEAD":
        require_same_field(repository, repository.git.resolve(revision), revision)
    return capability


def require_same_field(repository: Repository, commit: str, revision: str) -> None:
    """Requires that a commit has HEAD's backbone, coordinate map and tap layer.

    Args:
        commit: its id.
        revision: what the user calls it.

    Raises:
        UsageError: one of them differs, or it is not a niwfctl revision.
    """
    content = repository.git.blob(commit, FILE)
    if content is None:
        raise UsageError(f"{revision} is not a niwfctl revision: it has no {FILE}")
    there, here = Config.parse(content), repository.config
    identity = there.backbone.identity
    if identity != here.backbone.identity and not _pinned_otherwise(repository, identity):
        raise UsageError(
            f"{revision} has another backbone ({there.backbone.model}, "
            f"{identity[:19]}) than this branch ({here.backbone.identity[:19]}): "
            "capabilities of one do not work on the other"
        )
    if other := there.backbone.read_otherwise(here.backbone):
        raise UsageError(
            f"{revision} has other {' and '.join(other)} than this branch: start both from one "
            "`niwfctl init`"
        )
    if there.field != here.field or there.backbone.quant != here.backbone.quant:
        raise UsageError(
            f"{revision} has another coordinate map, tap layer or quantization than this branch: "
            "start both from one `niwfctl init`"
        )


def _pinned_otherwise(repository: Repository, identity: str) -> bool:
    """Whether an identity is the pinned backbone's, as other versions computed it."""
    from niwfctl.repository.backbone import identities, pinned_source

    try:
        return identity in identities(pinned_source(repository))
    except BackboneError:
        return False
