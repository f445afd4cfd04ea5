"""Objects from whichever remote has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from niwfstore import Pointer

from niwfctl.errors import NiwfError, ObjectError, RemoteError
from niwfctl.repository.lfs import fetch_objects, held

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository

REQUESTED = 1000  # objects per call of git-lfs, whose command line is limited


class Holders:
    """The remotes of one repository, as holders of its objects."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._git = repository.git

    def fetch_object(self, oid: str) -> NiwfError | None:
        """Gets one object from the first remote that has it.

        Returns:
            None on success; else why it failed, as a clause: a RemoteError if a remote could not
            be asked.
        """
        store = self._repository.store
        _, otherwise = self._first(
            lambda remote: fetch_objects(self._git, remote, [oid]) and oid in store
        )
        return otherwise

    def gather(self, oids: Iterable[str]) -> None:
        """Gets those of the objects that are not here, all at once rather than one by one.

        Failing to get one is no error here: whatever needs it asks again and is told why.
        """
        store = self._repository.store
        missing = [oid for oid in oids if oid not in store]
        while len(missing) > 1:
            asked, missing = missing[:REQUESTED], missing[REQUESTED:]
            self._first(partial(fetch_objects, self._git, oids=asked))

    def holders(self, pointers: Sequence[Pointer]) -> tuple[dict[Pointer, str], str]:
        """The first remote that has each object, and why none has the others, as a clause."""
        holder: dict[Pointer, str] = {}

        def serves(remote: str) -> bool:
            asked = [pointer for pointer in pointers if pointer not in holder]
            holder.update(dict.fromkeys(held(self._git, remote, asked), remote))
            return len(holder) == len(pointers)

        _, otherwise = self._first(serves)
        return holder, str(otherwise or "")

    def _first(self, serves: Callable[[str], bool]) -> tuple[str | None, NiwfError | None]:
        """The first remote that serves, or None and why none does, as a clause."""
        remotes = self._git.plain("remote").split()
        troubles = []
        for remote in remotes:
            try:
                if serves(remote):
                    return remote, None
            except RemoteError as error:
                troubles.append(str(error))
        if not remotes:
            return None, ObjectError("there is no remote to fetch it from")
        if troubles:
            return None, RemoteError("; ".join(dict.fromkeys(troubles)))
        return None, ObjectError(
            f"no remote has it (asked {', '.join(remotes)}): someone who has it must run "
            f"`git lfs push --all {remotes[0]}`"
        )
