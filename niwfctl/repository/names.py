"""Which names a new capability may have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from niwfctl.atlas import Atlas, check_name
from niwfctl.errors import UsageError

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository


def require_free(repository: Repository, name: str, atlas: Atlas | None = None) -> None:
    """Asks that a capability can be committed under a name, and hinders no other commit by it.

    Args:
        atlas: where it is to be; HEAD's by default.

    Raises:
        UsageError: it is no name, a capability has it, or an uncommitted training will.
    """
    check_name(name)
    if name in (repository.atlas() if atlas is None else atlas):
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
