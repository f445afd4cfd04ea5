"""The regions that a model keeps in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from niwfctl.atlas import ObjectRef, RegionEntry
from niwfctl.backbone.adapter import ActiveField, Factors, FieldAdapter
from niwfctl.backbone.blend import Blend
from niwfctl.errors import of_memory
from niwfctl.recent import Recent
from niwfctl.repository.mixture import BARE, Mixture
from niwfctl.repository.regions import load_region

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository

RESIDENT = 64  # regions that stay in memory
ALIKE = 4  # sets of regions that acted together, and atlases, kept for the next batch
Made = TypeVar("Made")


class Resident:
    """The most recently used regions, ready to act."""

    def __init__(self, repository: Repository, adapter: FieldAdapter, most: int = RESIDENT) -> None:
        """
        Args:
            repository: whose regions they are.
            adapter: in which they act.
            most: how many regions to keep.
        """
        self._repository, self._adapter = repository, adapter
        self._fields: Recent[tuple[ObjectRef, ...], ActiveField] = Recent(most)
        self._joined: Recent[tuple[ObjectRef, ...], Factors] = Recent(ALIKE)

    def acting(self, mixture: Mixture) -> ActiveField | Blend | None:
        """What to make active for a mixture."""
        if mixture is BARE:
            return None
        if mixture.whole:
            return self.field(mixture.entries[0])
        return Blend(
            mixture.shares,
            lambda index: self.field(mixture.entries[index]),
            lambda used: self._factors([mixture.entries[index] for index in used]),
        )

    def field(self, entry: RegionEntry) -> ActiveField:
        """The field of a committed region.

        Raises:
            ObjectError: an object is missing or corrupt.
        """
        adapter = self._adapter

        def load() -> ActiveField:
            region = load_region(self._repository, entry, adapter.model.device, adapter.sites)
            return ActiveField.of_region(adapter.groups, region)

        return self._fields.get(entry.objects, lambda: self._with_room(load))

    def drop_idle(self) -> None:
        """Frees the memory of those that are not in use."""
        self._joined.drop_idle()
        self._fields.drop_idle()

    def _factors(self, entries: Sequence[RegionEntry]) -> Factors:
        """The joint factors of several regions, for one pass."""

        def join() -> Factors:
            parts = [self.field(entry).factors for entry in entries]
            return Factors.join(self._adapter.groups, parts)

        objects = tuple(ref for entry in entries for ref in entry.objects)
        return self._joined.get(objects, lambda: self._with_room(join))

    def _with_room(self, make: Callable[[], Made]) -> Made:
        """Makes something; if memory is full, tries again after freeing what is idle."""
        try:
            return make()
        except (MemoryError, RuntimeError) as error:
            if not of_memory(error):
                raise
        self.drop_idle()  # not in the handler, where the error still holds the failed attempt
        return make()
