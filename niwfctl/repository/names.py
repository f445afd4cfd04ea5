"""Which names a new capability may have."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from niwfctl.atlas import Atlas, check_name
from niwfctl.errors import UsageError

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository

# Windows takes such a file for a device, whatever follows the dot, and cannot check it out.
_DEVICE = re.compile(r"(con|prn|aux|nul|com[1-9]|lpt[1-9])(\..*)?", re.I)


def require_file_name(name: str, atlas: Atlas) -> None:
    """Asks that a new capability's manifest can be a file beside the others on every system.

    Raises:
        UsageError: it is no name, is a device on Windows, or differs from another in case only.
    """
    check_name(name)
    if _DEVICE.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name a capability: no file can be called so on Windows, and a clone "
            "there would fail; choose another name"
        )
    for other in atlas:
        if other != name and other.casefold() == name.casefold():
            raise UsageError(
                f"{name!r} differs from the capability {other!r} in case only, and macOS and "
                "Windows cannot hold both: choose another name"
            )


def require_free(repository: Repository, name: str, atlas: Atlas | None = None) -> None:
    """Asks that a capability can be committed under a name, and hinders no other commit by it.

    Args:
        atlas: where it is to be; HEAD's by default.

    Raises:
        UsageError: it is no name of a file on every system, a capability has it, or an uncommitted
            training will.
    """
    atlas = repository.atlas() if atlas is None else atlas
    require_file_name(name, atlas)
    if name in atlas:
        raise UsageError(
            f"{name!r} is a capability already, and what is committed never changes: choose "
            "another name"
        )
    training = repository.trainings.get(name)
    if training and not repository.committed(training):
        raise UsageError(
            f"{name!r} has an uncommitted training, which could not be committed any more: choose "
            f"another name, or commit it first with `niwfctl commit {name}`"
        )
