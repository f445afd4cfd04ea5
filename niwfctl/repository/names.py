"""Which names a new capability may have, and what else has them."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from niwfctl.atlas import Atlas, check_name
from niwfctl.errors import UsageError
from niwfctl.layout import manifest_file
from niwfctl.repository.trainings import uncommitted

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository

logger = logging.getLogger(__name__)

# Windows treats such a file as a device, whatever follows the dot, and cannot check it out.
_DEVICE = re.compile(r"(con|prn|aux|nul|com[1-9]|lpt[1-9])(\..*)?", re.I)


def require_file_name(name: str, atlas: Atlas) -> None:
    """Requires that a new capability's manifest can be a file beside the others on every system.

    Raises:
        UsageError: it is invalid, a device on Windows, or differs from another only in case.
    """
    check_name(name)
    if _DEVICE.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name a capability: no file can have that name on Windows, so a clone "
            "there would fail; choose another name"
        )
    for other in atlas:
        if other != name and other.casefold() == name.casefold():
            raise UsageError(
                f"{name!r} differs from the capability {other!r} only in case, and macOS and "
                "Windows cannot hold both: choose another name"
            )


def require_distinct(atlas: Atlas) -> None:
    """Requires that the manifests of an atlas can lie beside each other on every system.

    Raises:
        UsageError: two of its names differ only in case.
    """
    folded: dict[str, str] = {}
    for name in atlas:
        other = folded.setdefault(name.casefold(), name)
        if other != name:
            raise UsageError(
                f"{other!r} and {name!r} differ only in case, and macOS and Windows cannot hold "
                f"both: rename one of them first, on its branch, with `niwfctl mv {name} NEW`"
            )


def require_free(repository: Repository, name: str, atlas: Atlas | None = None) -> None:
    """Requires that a capability can be committed under a name without blocking another commit.

    Args:
        atlas: where it is to be; HEAD's by default.

    Raises:
        UsageError: it is not a file name on every system, or a capability or uncommitted
            training has it.
    """
    atlas = repository.atlas() if atlas is None else atlas
    require_file_name(name, atlas)
    if name in atlas:
        raise UsageError(
            f"{name!r} is already a capability, and what is committed never changes: choose "
            "another name"
        )
    if uncommitted(repository, name):
        raise UsageError(
            f"{name!r} has an uncommitted training, which could then not be committed: choose "
            f"another name, or commit it first with `niwfctl commit {name}`"
        )


def two_meanings(repository: Repository, name: str) -> str:
    """How to tell a capability from a branch or tag of its name; empty if there is none."""
    refs = repository.git.names(name)
    if not refs:
        return ""
    kind = "branch" if refs[0].startswith("refs/heads/") else "tag"
    return (
        f"{name!r} is both a capability and a {kind}: say `{name}@HEAD` for the capability "
        f"or `{refs[0]}` for the {kind}"
    )


def warn_of_ref(repository: Repository, name: str) -> None:
    """Warns that a new capability has the name of a branch or tag."""
    if words := two_meanings(repository, name):
        logger.warning("%s", words)


def warn_of_capability(repository: Repository, name: str) -> None:
    """Warns that a new branch or tag has the name of a capability, committed or not."""
    committed = repository.git.blob("HEAD", manifest_file(name)) is not None
    if committed or repository.trainings.checkpoint(name).is_file():
        warn_of_ref(repository, name)
