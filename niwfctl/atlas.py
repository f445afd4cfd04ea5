"""Manifests: one file a capability, as plain data. No torch."""

from __future__ import annotations

import json
import re

from niwfstore import Pointer
from pydantic import BaseModel, ConfigDict, Field

from niwfctl.config import validated
from niwfctl.errors import FormatError, UsageError
from niwfctl.training.run import Run

FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class ObjectRef(BaseModel):
    """A stored object by name and size."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    oid: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0, description="bytes")

    @classmethod
    def of(cls, pointer: Pointer) -> ObjectRef:
        """The reference that a pointer states."""
        return cls(oid=pointer.oid, size=pointer.size)


class RegionEntry(BaseModel):
    """One region: its objects, and the run that trained it."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    region: ObjectRef
    bases: tuple[ObjectRef, ...]
    scale: float = Field(description="α/r")
    layers: tuple[int, ...] = Field(description="adapted layers, in the generator's order")
    radius: float = Field(description="of the cell, a Mahalanobis distance")
    anchors: int = Field(description="coordinates at which the field was snapshotted")
    run: Run
    sealed_on: dict[str, str | int] = Field(description="platform that took the snapshot")

    @property
    def id(self) -> str:
        """The region's short name."""
        return self.region.oid[:12]

    @property
    def objects(self) -> tuple[ObjectRef, ...]:
        """All objects the region is computed from."""
        return (self.region, *self.bases)


class Capability(BaseModel):
    """A name with an ordered list of regions."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    format: int = FORMAT
    name: str
    regions: tuple[RegionEntry, ...] = Field(min_length=1)

    @property
    def objects(self) -> tuple[ObjectRef, ...]:
        """All objects of all regions, each once."""
        return tuple(dict.fromkeys(ref for region in self.regions for ref in region.objects))

    @property
    def size(self) -> int:
        """Bytes of all its objects."""
        return sum(ref.size for ref in self.objects)

    def dump(self) -> str:
        """The manifest's text; equal capabilities give equal text."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def parse(cls, text: str | bytes, file: str) -> Capability:
        """Reads a manifest.

        Args:
            file: its path, for messages.

        Raises:
            FormatError: not JSON, of a newer format, or with a wrong or missing entry.
        """
        try:
            plain = json.loads(text)
        except ValueError as error:
            raise FormatError(f"{file} is not valid JSON: {error}") from error
        return validated(cls, file, plain, FORMAT)


Atlas = dict[str, Capability]
"""All capabilities of one commit, by name."""


def check_name(name: str) -> str:
    """A name that every file system and git can hold.

    Raises:
        UsageError: it is empty, too long, or has other characters.
    """
    if not _NAME.fullmatch(name) or name.endswith((".lock", ".")):
        shown = name if len(name) <= 40 else name[:40] + "…"
        raise UsageError(
            f"{shown!r} cannot name a capability: use 1 to 100 letters, digits, '.', '_' or '-', "
            "beginning with a letter or digit and not ending in '.' or '.lock'"
        )
    return name
