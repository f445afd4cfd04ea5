"""Manifests: one file a capability, as plain data. No torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Annotated, NamedTuple

from niwfstore import Pointer
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    model_validator,
)

from niwfctl.config import mend, validated
from niwfctl.errors import FormatError, UnknownName, UsageError
from niwfctl.records import Platform
from niwfctl.training.run import Run

FORMAT = 2  # 1 knew no compositions and no reused bases
BASE_NAME, AUTO_NAME = "base", "auto"  # what answers without any, and by the owner of a prompt
RESERVED = (
    *("HEAD", BASE_NAME, AUTO_NAME),
    *("backbone", "coordinates", "commit", "tag", "atlas"),  # what `verify` checks beside them
)
_AT = re.compile(r"(?P<name>[^@]+)(?:@(?P<revision>.+))?")
_RANGE = re.compile(r"(?P<first>.*?)(?P<dots>\.{2,3})(?P<last>.*)")
_NAME = re.compile(r"(?!.*\.(lock)?\Z)[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_NAMES = (
    "use 1 to 100 letters, digits, '.', '_' or '-', beginning with a letter or digit and not "
    "ending in '.' or '.lock'"
)


class ObjectRef(BaseModel):
    """A stored object by name and size."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    oid: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0, description="bytes")

    @classmethod
    def of(cls, pointer: Pointer) -> ObjectRef:
        """The reference that a pointer states."""
        return cls(oid=pointer.oid, size=pointer.size)


class Terms(BaseModel):
    """How whoever committed a region wants it routed to."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    order: int = Field(ge=0, description="greater than that of every region there was before")
    max_takeover: float = Field(0.02, ge=0, le=1, description="of each earlier region's anchors")
    max_base_takeover: float = Field(0.05, ge=0, le=1, description="of the base's anchors")
    manual: bool = Field(False, description="never routed to")
    general: bool = Field(False, description="it also gets what the base's own cell would have won")
    supersedes: tuple[str, ...] = Field((), description="ids of regions it may take over")


class Takeover(BaseModel):
    """How many anchors of an earlier region, or of the base, a later region wins."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    region: str = Field(description="id of the earlier one, or `base`")
    won: int = Field(ge=0)
    anchors: int = Field(ge=1)
    bound: float = Field(description="exact binomial 95% upper bound on the share of its prompts")
    disputed: tuple[NonNegativeInt, ...] = Field(
        (), description="anchors whose neighbourhoods stay with it; the bound takes them for won"
    )


class Routing(BaseModel):
    """What the routing lock (G3) made of a region's terms; a merge may have to set it anew."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    bias: float = Field(ge=0, description="nats taken off its score")
    margin: float = Field(0, ge=0, description="nats by which it must outbid the base")
    takeover: tuple[Takeover, ...] = Field(description="by earlier region")
    base: Takeover | None = Field(None, description="of the base; None: general, or an old map")
    ceded: float = Field(
        0, description="share of its prompts in neighbourhoods of disputed anchors"
    )
    shadow: dict[str, float] = Field(
        description="share of its anchors that others own, by region id, or `base`"
    )


def _finished(run: Run) -> Run:
    if not run.finished:
        raise ValueError("a committed training is finished and has a witness")
    return run


Finished = Annotated[Run, AfterValidator(_finished)]


class RegionEntry(BaseModel):
    """One region: its objects, and the run that trained it."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, allow_inf_nan=False)

    region: ObjectRef
    bases: tuple[ObjectRef, ...] = Field(min_length=1)
    scale: float = Field(gt=0, description="α/r")
    layers: tuple[int, ...] = Field(
        min_length=1, description="adapted layers, in the generator's order"
    )
    radius: float = Field(gt=0, description="of the cell, a Mahalanobis distance")
    anchors: int = Field(ge=1, description="coordinates at which the field was snapshotted")
    run: Finished
    sealed_on: Platform = Field(description="platform that took the snapshot")
    terms: Terms | None = Field(None, description="None: committed before there was routing")
    routing: Routing | None = Field(None, description="None: never routed to")

    @property
    def id(self) -> str:
        """The region's short name."""
        return self.region.oid[:12]

    @property
    def objects(self) -> tuple[ObjectRef, ...]:
        """All objects the region is computed from."""
        return (self.region, *self.bases)


class Part(BaseModel):
    """One term of a composition: a capability as it was when it was composed."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, allow_inf_nan=False)

    of: str = Field(description="`NAME@COMMIT`, where it was taken from")
    weight: float
    regions: tuple[RegionEntry, ...] = Field(min_length=1)


class Capability(BaseModel):
    """A name with an ordered list of regions, or a weighted sum of other capabilities.

    Attributes:
        regions: its own, in the order they were committed; none in a composition.
        parts: the terms of a composition; their regions are the very ones they were composed of.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    format: int = FORMAT
    name: str
    regions: tuple[RegionEntry, ...] = ()
    parts: tuple[Part, ...] = ()

    @model_validator(mode="after")
    def _of_one_kind(self) -> Capability:
        if bool(self.regions) == bool(self.parts):
            raise ValueError("a capability has either regions or parts")
        return self

    @property
    def all_regions(self) -> tuple[RegionEntry, ...]:
        """Every region it is computed from, its own or those of its parts, each once."""
        inherited = (region for part in self.parts for region in part.regions)
        return tuple({region.objects: region for region in (*self.regions, *inherited)}.values())

    @property
    def objects(self) -> tuple[ObjectRef, ...]:
        """All objects of all regions, each once."""
        return tuple(dict.fromkeys(ref for region in self.all_regions for ref in region.objects))

    @property
    def perplexity(self) -> float | None:
        """Of the held-out rows it was last trained with; a composition was never trained."""
        return self.regions[-1].run.perplexity if self.regions else None

    @property
    def unrouted(self) -> Capability:
        """All that does not depend on the other capabilities of its atlas."""
        regions = tuple(region.model_copy(update={"routing": None}) for region in self.regions)
        return self.model_copy(update={"regions": regions})

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
            FormatError: not JSON, of a newer format, with a wrong or missing entry, or under
                another name than its file's, or its file's can name none.
        """
        name = manifest_name(file)
        if not _NAME.fullmatch(name):  # one that became reserved since stays readable
            raise FormatError(f"{file!r} cannot name a capability: {_NAMES}")
        try:
            plain = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{file} is not valid JSON: {error}; {mend(file)}") from error
        capability = validated(cls, file, plain, FORMAT)
        if capability.name != name:
            raise FormatError(f"{file} is wrong: it names {capability.name!r}; {mend(file)}")
        if capability.format == FORMAT:
            return capability
        return capability.model_copy(update={"format": FORMAT})


Atlas = dict[str, Capability]
"""All capabilities of one commit, by name."""


def manifest_name(file: str) -> str:
    """The name that a manifest's path gives its capability."""
    return file.rpartition("/")[2].removesuffix(".json")


def there(atlas: Atlas, name: str, revision: str | None = None) -> Capability:
    """The capability of a name.

    Args:
        revision: what the user calls the atlas's commit, for the message.

    Raises:
        UnknownName: there is none; the message lists what there is.
    """
    if name not in atlas:
        where = f" at {revision}" if revision else ""
        raise UnknownName(f"no capability is called {name!r}{where}: there are {listed(atlas)}")
    return atlas[name]


def listed(names: Iterable[str]) -> str:
    """Names of capabilities as messages list them."""
    return ", ".join(sorted(names)) or "none yet"


class Changes(NamedTuple):
    """Names of the capabilities in which two atlases differ, sorted."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]


def changes(before: Atlas, after: Atlas) -> Changes:
    """What the second has otherwise than the first."""
    both = before.keys() & after.keys()
    return Changes(
        tuple(sorted(after.keys() - before.keys())),
        tuple(sorted(name for name in both if before[name] != after[name])),
        tuple(sorted(before.keys() - after.keys())),
    )


def owner_names(atlas: Atlas) -> dict[str, str]:
    """Whose a region is, by its id, of all that prompts are routed to."""
    return {entry.id: name for name, one in atlas.items() for entry in one.regions if entry.routing}


def check_name(name: str) -> str:
    """A name that every file system and git can hold.

    Raises:
        UsageError: it is empty, too long, has other characters, or means something else already.
    """
    if name in RESERVED:
        raise UsageError(f"{name!r} cannot name a capability: it means something else to niwfctl")
    if not _NAME.fullmatch(name):
        shown = name if len(name) <= 40 else name[:40] + "…"
        raise UsageError(f"{shown!r} cannot name a capability: {_NAMES}")
    return name


def parse_target(target: str) -> tuple[str, str]:
    """(name, revision) of `NAME` or `NAME@REV`; the revision is HEAD where none is given."""
    name, revision = split_target(target)
    return name, revision or "HEAD"


def split_target(target: str) -> tuple[str, str | None]:
    """(name, revision) of `NAME` or `NAME@REV`; the revision is None where none is given."""
    match = _AT.fullmatch(target)
    return (match["name"], match["revision"]) if match else (target, None)


def parse_range(revisions: str) -> tuple[str, str, str] | None:
    """(A, dots, B) of `A..B` or `A...B`, HEAD for an end left out; None for a single revision."""
    match = _RANGE.fullmatch(revisions)
    return (match["first"] or "HEAD", match["dots"], match["last"] or "HEAD") if match else None
