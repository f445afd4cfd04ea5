"""Manifests: one file per capability, as plain data. No torch."""

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

from niwfctl.config import restoring, validated
from niwfctl.errors import FormatError, UnknownName, UsageError
from niwfctl.records import Platform
from niwfctl.training.run import Reused, Run

LARGEST = 16 << 20  # bytes of a manifest; an ordinary one has a few thousand
FORMAT = 2  # format 1 had no compositions and no reused bases
BASE_NAME, AUTO_NAME = "base", "auto"  # the model without any, and the owner of each prompt
RESERVED = (
    *("HEAD", BASE_NAME, AUTO_NAME),
    *("backbone", "coordinates", "commit", "tag", "atlas"),  # what `verify` checks besides them
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
    size: int = Field(ge=0, lt=2**63, description="bytes")

    @classmethod
    def of(cls, pointer: Pointer | Reused) -> ObjectRef:
        """The reference to the object that a pointer, or a reused basis, names."""
        return cls(oid=pointer.oid, size=pointer.size)


class Terms(BaseModel):
    """The terms of routing that a region was committed with."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, allow_inf_nan=False)

    order: int = Field(ge=0, lt=2**63, description="greater than that of every earlier region")
    max_takeover: float = Field(
        default=0.02, ge=0, le=1, description="of each earlier region's anchors"
    )
    max_base_takeover: float = Field(default=0.05, ge=0, le=1, description="of the base's anchors")
    manual: bool = Field(default=False, description="never routed to")
    general: bool = Field(
        default=False, description="it also gets what the base's own cell would have won"
    )
    supersedes: tuple[str, ...] = Field(default=(), description="ids of regions it may take over")


class Takeover(BaseModel):
    """How many anchors of an earlier region, or of the base, a later region wins."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, allow_inf_nan=False)

    region: str = Field(description="id of the earlier one, or `base`")
    won: int = Field(ge=0)
    anchors: int = Field(ge=1)
    bound: float = Field(description="exact binomial 95% upper bound on the share of its prompts")
    disputed: tuple[NonNegativeInt, ...] = Field(
        default=(),
        description="anchors whose neighbourhoods stay with it; the bound counts them as won",
    )

    @model_validator(mode="after")
    def _no_more_than_there_are(self) -> Takeover:
        if self.won > self.anchors:
            raise ValueError(f"{self.won} of {self.anchors} anchors cannot be won")
        return self


class Routing(BaseModel):
    """What the routing lock (G3) made of a region's terms; a merge may have to redo it."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, allow_inf_nan=False)

    bias: float = Field(ge=0, description="nats taken off its score")
    margin: float = Field(default=0, ge=0, description="nats by which it must outbid the base")
    takeover: tuple[Takeover, ...] = Field(
        description="by earlier region, of those of which it wins or disputes any anchors"
    )
    base: Takeover | None = Field(
        default=None, description="of the base; None for a general region or an old map"
    )
    ceded: float = Field(
        default=0, description="share of its prompts in neighbourhoods of disputed anchors"
    )
    shadow: dict[str, float] = Field(
        description="share of its anchors that others own, by region id, or `base`"
    )


def _finished(run: Run) -> Run:
    if not run.finished:
        raise ValueError("a committed training must be finished and have a witness")
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
    terms: Terms | None = Field(default=None, description="None: committed before routing existed")
    routing: Routing | None = Field(default=None, description="None: never routed to")

    @property
    def id(self) -> str:
        """The region's short name."""
        return self.region.oid[:12]

    @property
    def place(self) -> tuple[int, str]:
        """Its place in the order of commits; the same on both sides of a merge."""
        return self.terms.order if self.terms else -1, self.region.oid

    @property
    def objects(self) -> tuple[ObjectRef, ...]:
        """All objects that the region is computed from."""
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
        regions: its own, in the order they were committed; empty for a composition.
        parts: the terms of a composition, with their regions as they were when composed.
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
        """Every region it is computed from, its own and those of its parts, without repeats."""
        inherited = (region for part in self.parts for region in part.regions)
        return tuple({region.objects: region for region in (*self.regions, *inherited)}.values())

    @property
    def objects(self) -> tuple[ObjectRef, ...]:
        """All objects of all regions, without repeats."""
        return tuple(dict.fromkeys(ref for region in self.all_regions for ref in region.objects))

    @property
    def perplexity(self) -> float | None:
        """On the held-out rows of its last training; None for a composition."""
        return self.regions[-1].run.perplexity if self.regions else None

    @property
    def unrouted(self) -> Capability:
        """This capability without what depends on the others of its atlas."""
        regions = tuple(region.model_copy(update={"routing": None}) for region in self.regions)
        return self.model_copy(update={"regions": regions})

    @property
    def size(self) -> int:
        """The size of all its objects, in bytes."""
        return sum(ref.size for ref in self.objects)

    def dump(self) -> str:
        """The manifest's text; equal capabilities give equal text."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def parse(cls, text: str | bytes, file: str) -> Capability:
        """Reads a manifest.

        Args:
            file: its path, which must match its name.

        Raises:
            FormatError: it is too large, is not JSON, is of a newer format, has a wrong or missing
                entry, names another capability than its file, or its file cannot name one.
        """
        name = manifest_name(file)
        if not _NAME.fullmatch(name):  # names reserved since then stay readable
            raise FormatError(f"{file!r} cannot name a capability: {_NAMES}")
        if len(text) > LARGEST:  # read as JSON, it takes many times as much memory
            raise FormatError(
                f"{file} has {len(text):,} bytes, and a manifest may have {LARGEST:,} at most: "
                f"{restoring(file)}"
            )
        try:
            plain = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{file} is not valid JSON: {error}; {restoring(file)}") from error
        capability = validated(cls, file, plain, FORMAT)
        if capability.name != name:
            raise FormatError(f"{file} is wrong: it names {capability.name!r}; {restoring(file)}")
        if capability.format == FORMAT:
            return capability
        return capability.model_copy(update={"format": FORMAT})


Atlas = dict[str, Capability]
"""All capabilities of one commit, by name."""


def manifest_name(file: str) -> str:
    """The name of the capability whose manifest has this path."""
    return file.rpartition("/")[2].removesuffix(".json")


def get_capability(atlas: Atlas, name: str, revision: str | None = None) -> Capability:
    """The capability of this name.

    Args:
        revision: what the user calls the atlas's commit, for the message.

    Raises:
        UnknownName: it does not exist; the message lists those that do.
    """
    if name not in atlas:
        where = f" at {revision}" if revision else ""
        raise UnknownName(f"no capability is called {name!r}{where}: there are {listed(atlas)}")
    return atlas[name]


def listed(names: Iterable[str]) -> str:
    """Names of capabilities as messages list them."""
    return ", ".join(sorted(names)) or "none yet"


class Changes(NamedTuple):
    """Names of the capabilities that differ between two atlases, sorted."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]


def changes(before: Atlas, after: Atlas) -> Changes:
    """How the second atlas differs from the first."""
    both = before.keys() & after.keys()
    return Changes(
        tuple(sorted(after.keys() - before.keys())),
        tuple(sorted(name for name in both if before[name] != after[name])),
        tuple(sorted(before.keys() - after.keys())),
    )


def owner_names(atlas: Atlas) -> dict[str, str]:
    """The capability that each routed region belongs to, by region id.

    Of capabilities that share a region, it is the earliest: that one owns the prompts.
    """
    routed = [
        (entry.terms.order if entry.terms else -1, name, entry.id)
        for name, capability in atlas.items()
        for entry in capability.regions
        if entry.routing
    ]
    return {id: name for _, name, id in sorted(routed, reverse=True)}


def check_name(name: str) -> str:
    """Checks that git and every file system can hold a name, and returns it.

    Raises:
        UsageError: it is empty, too long, reserved, or has other characters.
    """
    if name in RESERVED:
        raise UsageError(
            f"{name!r} cannot name a capability: the name is reserved, so choose another"
        )
    if not _NAME.fullmatch(name):
        shown = name if len(name) <= 40 else name[:40] + "…"
        raise UsageError(f"{shown!r} cannot name a capability: {_NAMES}")
    return name


def parse_target(target: str) -> tuple[str, str]:
    """(name, revision) of `NAME` or `NAME@REV`; the revision is HEAD by default."""
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
