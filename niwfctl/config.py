"""niwf.toml: the backbone and coordinate map that a repository's capabilities are built on."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import tomli_w
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
)

from niwfctl.errors import FormatError
from niwfctl.records import Witness

# 1 had no skip_system; 2 had no decoder, and an identity over fewer files; 3 had neither
# template_args nor fix_mistral_regex, and is still written where there are none, so that earlier
# versions read the file.
FORMAT, PLAIN = 4, 3
FILE = "niwf.toml"
_Oid = Field(pattern=r"^[0-9a-f]{64}$")


class BackboneConfig(BaseModel):
    """The pinned backbone."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, allow_inf_nan=False)

    model: str = Field(description="`smollm2`, a folder, a GGUF file, or a hub id")
    revision: str | None = Field(default=None, description="commit of a hub model")
    identity: str = Field(
        description="hash of the weight files; in older repositories, hub id and commit"
    )
    quant: Literal["none", "nf4"] = "none"
    decoder: str | None = Field(default=None, description="path of its decoder, if not `model`")
    template_args: dict[str, StrictBool | StrictInt | StrictFloat | StrictStr] = Field(
        default_factory=dict,
        description="arguments of its chat template",
        exclude_if=lambda arguments: not arguments,
    )
    fix_mistral_regex: bool | None = Field(
        default=None,
        description="whether its tokenizer splits by a corrected pattern; absent if not",
    )
    witness: Witness = Field(description="logits of the probes at `init`")

    @property
    def reading(self) -> dict[str, object]:
        """How its tokenizer reads prompts, if not as its files have it; by key."""
        settings = {
            "template_args": self.template_args,
            "fix_mistral_regex": self.fix_mistral_regex,
        }
        return {key: value for key, value in settings.items() if value}

    def read_otherwise(self, other: BackboneConfig) -> list[str]:
        """The keys in which `reading` differs from another's."""
        mine, theirs = self.reading, other.reading
        return [key for key in mine | theirs if mine.get(key) != theirs.get(key)]

    @property
    def format(self) -> int:
        """The lowest format of a file that can say all of this."""
        return FORMAT if self.reading else PLAIN


class FieldConfig(BaseModel):
    """The geometry that all regions share; it never changes."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    tap_layer: int = Field(ge=1)
    dim: int = Field(ge=1)
    skip_tokens: int = Field(ge=0, description="leading prompt tokens left out of the mean")
    skip_system: bool = Field(
        default=False, description="whether a system turn is left out as well"
    )
    coordinates: str = _Oid


class Gate(BaseModel):
    """What a capability must reach to be shipped; `niwfctl check` measures it."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    data: str = Field(description="data file, relative to the repository")
    max_perplexity: float | None = Field(default=None, gt=0)
    max_regression: float | None = Field(
        default=None, ge=0, description="largest rise of perplexity over `--against`, as a share"
    )
    min_exact_match: float | None = Field(default=None, ge=0, le=1)
    min_owned: float | None = Field(
        default=None, ge=0, le=1, description="smallest share of the prompts that routing gives it"
    )


class RoutingConfig(BaseModel):
    """How commits share coordinate space, unless their options say otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    max_takeover: float = Field(
        default=0.02, ge=0, le=1, description="of each earlier region's anchors"
    )
    max_base_takeover: float = Field(default=0.05, ge=0, le=1, description="of the base's anchors")
    max_shadow: float = Field(default=0.25, ge=0, le=1, description="of a new region's own anchors")


class Config(BaseModel):
    """The whole of niwf.toml."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    format: int = PLAIN
    backbone: BackboneConfig
    field: FieldConfig
    routing: RoutingConfig = Field(default_factory=RoutingConfig)
    gates: dict[str, Gate] = Field(default_factory=dict, description="by capability")

    def dump(self) -> str:
        """The file's text."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))

    @classmethod
    def parse(cls, content: bytes) -> Config:
        """Reads the file.

        Raises:
            FormatError: not TOML in UTF-8, nested too deeply, with a number of too many digits,
                of a newer format, or with a wrong or missing entry.
        """
        try:
            plain = tomllib.loads(content.decode())
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{FILE} is not valid TOML: {error}; {restoring(FILE)}") from error
        return validated(cls, FILE, plain, FORMAT)


Model = TypeVar("Model", bound=BaseModel)


def validated(kind: type[Model], name: str, plain: object, newest: int) -> Model:
    """Plain data as a model; a newer format is refused before anything else is checked.

    Args:
        name: of the file, for error messages.
        newest: the latest format that this version reads.

    Raises:
        FormatError: the format is newer or missing, or an entry is wrong or missing.
    """
    found = plain.get("format") if isinstance(plain, dict) else None
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise FormatError(
            f"{name} has no valid `format`: expected a whole number from 1; {restoring(name)}"
        )
    if found > newest:
        raise FormatError(
            f"{name} is of format {found}, but this niwfctl reads up to {newest}: upgrade niwfctl"
        )
    try:
        return kind.model_validate(plain)
    except ValidationError as error:
        raise FormatError(f"{name} is wrong: {first_problem(error)}; {restoring(name)}") from error


def first_problem(error: ValidationError) -> str:
    """The first problem of a record, after the name of its entry if it is about one."""
    first = error.errors()[0]
    entry = " ".join(".".join(map(str, first["loc"])).split())  # keys may hold line ends
    return f"{entry}: {reason_of(first)}" if entry else reason_of(first)


def reason_of(problem: Mapping[str, Any]) -> str:
    """Why pydantic refuses something, without the exception type in front."""
    return problem["msg"].removeprefix("Value error, ")


def restoring(file: str) -> str:
    """How to restore a committed file that was edited by mistake, as a clause."""
    return f"restore it with `git checkout REV -- {file}` and commit the result"
