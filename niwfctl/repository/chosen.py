"""What was made active in a model, by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from niwfctl.atlas import AUTO_NAME, BASE_NAME, parse_target
from niwfctl.backbone.adapter import ActiveField, FieldAdapter
from niwfctl.backbone.blend import Blend
from niwfctl.errors import UsageError
from niwfctl.recent import Recent
from niwfctl.repository.mixture import BARE, Mixture, Routes, of_capability, of_owners, weighted
from niwfctl.repository.resident import ALIKE, RESIDENT, Resident
from niwfctl.repository.routing import base_cell, routed_regions
from niwfctl.repository.same_field import usable

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository

AUTO = "--auto"  # which no capability can be called
Each = Callable[[Sequence[int]], AbstractContextManager[None]]
"""A block for a batch, given its rows' places among all rows of a call."""

_COMMIT = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")


def called(capability: str | None) -> str:
    """What a person calls a capability, AUTO or None."""
    return {None: BASE_NAME, AUTO: AUTO_NAME}.get(capability, capability)


def is_routed(capability: str | None) -> bool:
    """Whether a name, AUTO or `AUTO@REV`, lets the owner of each prompt answer."""
    return capability is not None and parse_target(capability)[0] == AUTO


class Mixtures:
    """What names mean, remembered for as long as it cannot have changed.

    That of HEAD is remembered until HEAD's commit is another one, that of a full commit id for
    good; branches, tags and other revisions are resolved anew each time.
    """

    def __init__(self, repository: Repository) -> None:
        """
        Args:
            repository: whose capabilities they are.
        """
        self._repository = repository
        self._fixed: Recent[str, Mixture] = Recent(RESIDENT)
        self._routes: Recent[str, tuple[Mixture, Routes]] = Recent(ALIKE)
        self._stamp: object = None  # of the HEAD that the next two are of
        self._here: Recent[str, Mixture] = Recent(RESIDENT)
        self._commit: str | None = None

    def of(self, capability: str | None) -> Mixture:
        """The mixture of `NAME` or `NAME@REV`; None for the bare backbone.

        Raises:
            UnknownName: there is no such capability or revision.
            UsageError: it was trained in another field.
            ObjectError: an object is missing or corrupt.
        """
        if capability is None:
            return BARE

        def made() -> Mixture:
            return of_capability(self._repository, usable(self._repository, capability))

        name, revision = parse_target(capability)
        if revision == "HEAD":
            self._follow()
            return self._here.get(name, made)
        return self._fixed.get(capability, made) if _COMMIT.fullmatch(revision) else made()

    def routed(self, revision: str = "HEAD") -> tuple[Mixture, Routes]:
        """The routed union of a revision's atlas, and who owns what in it.

        Raises:
            UnknownName: there is no such revision.
            ObjectError: an object is missing or corrupt.
        """
        repository, commit = self._repository, self._resolved(revision)

        def made() -> tuple[Mixture, Routes]:
            return of_owners(
                routed_regions(repository, repository.atlas(commit)), base_cell(repository)
            )

        return self._routes.get(commit, made)

    def _resolved(self, revision: str) -> str:
        if revision != "HEAD":
            return self._repository.git.resolve(revision)
        self._follow()
        if self._commit is None:
            self._commit = self._repository.git.resolve(revision)
        return self._commit

    def _follow(self) -> None:
        """Forgets what HEAD's names meant if its commit is another one now."""
        stamp = self._repository.git.head_stamp()
        if stamp != self._stamp:
            self._stamp, self._here, self._commit = stamp, Recent(RESIDENT), None


@dataclass(frozen=True)
class RowCapabilities:
    """A capability for each row.

    Attributes:
        names: of the rows' capabilities, as `Model.use_each` takes them.
        mixtures: of each name.
    """

    names: Sequence[str | None]
    mixtures: Mapping[str | None, Mixture]

    def at(self, places: Sequence[int]) -> Mixture:
        """The mixture for a batch of the rows at these places."""
        names = [self.names[place] for place in places]
        return weighted(
            [
                (torch.tensor([[one == name] for one in names]).float(), self.mixtures[name])
                for name in dict.fromkeys(names)
            ]
        )

    def require(self, count: int) -> None:
        """Requires that this many rows are given.

        Raises:
            UsageError: they are more or fewer.
        """
        if count != len(self.names):
            raise UsageError(
                f"`use_each` was given {len(self.names)} capabilities, one for each row, but the "
                f"number of rows is {count}: give as many, or make one active with `use`"
            )


@dataclass(frozen=True)
class Chosen:
    """What a model was told to make active.

    Attributes:
        field: what acts in its adapter.
        label: what a person calls it.
        rows: the capability of each row, if each has its own.
        routes: who owns what, by the names that let owners answer.
    """

    field: ActiveField | Blend | None
    label: str
    rows: RowCapabilities | None = None
    routes: Mapping[str, Routes] = field(default_factory=dict)

    def each(self, adapter: FieldAdapter, resident: Resident, count: int) -> Each:
        """Gives a block for each batch of a call with `count` rows, where their own act.

        Raises:
            UsageError: `use_each` made another number of capabilities active.
        """
        if self.field is not adapter.active:  # which callers may set themselves
            return lambda places: nullcontext()
        if self.rows:
            self.rows.require(count)
        names = self.rows.names if self.rows else [*self.routes] * count
        answered = [None if name in self.routes else name for name in names]
        for routes in self.routes.values():
            routes.names = answered

        def placed(routes: Routes, places: Sequence[int]) -> list[int | None]:
            return [place if self.routes.get(names[place]) is routes else None for place in places]

        @contextmanager
        def block(places: Sequence[int]) -> Iterator[None]:
            if self.rows:
                adapter.active = resident.acting(self.rows.at(places))
            try:
                with ExitStack() as routing:
                    for routes in self.routes.values():
                        routing.enter_context(routes.batch(placed(routes, places)))
                    yield
            finally:
                if self.rows:
                    adapter.active = self.field

        return block
