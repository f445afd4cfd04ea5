"""A training run: its options and its record. No torch."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from niwfstore import MalformedTensors, read_metadata
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from niwfctl.errors import FormatError, UsageError
from niwfctl.records import SEEDS, Measurement, Witness

FORMAT = 1
LARGEST_RANK = 1024
LARGEST_RATE = 3e-3  # chosen by default
GENERATOR_RATE = 7.1e-4  # beside the default rate of bases
GLANCE_ROWS = 32  # that are measured during training, at most
SPARING = ("batch_size", "grad_accum", "gradient_checkpointing")  # may change on resuming


def _is_default(value: object) -> bool:
    """Whether an option was not given; if not recorded, earlier versions read the record."""
    return not value


class TrainingOptions(BaseModel):
    """How a capability is trained; recorded in its manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, allow_inf_nan=False)

    steps: int | None = Field(default=None, ge=1, description="optimizer steps; overrides epochs")
    epochs: float = Field(default=1.0, gt=0, description="passes over the training rows")
    bases: int = Field(default=2, ge=1, le=64, description="bases of the new region")
    rank: int = Field(default=8, ge=1, le=LARGEST_RANK, description="rank r of each basis")
    alpha: float = Field(
        default=16.0, gt=0, description="α; the change of weights is scaled by α/r"
    )
    lr: float | None = Field(
        default=None,
        gt=0,
        description="peak learning rate of AdamW; by the backbone's width if not given",
    )
    warmup: float = Field(default=0.05, ge=0, lt=1, description="share of steps with a rising rate")
    batch_size: int = Field(default=8, ge=1, description="rows a forward pass")
    grad_accum: int = Field(default=1, ge=1, description="forward passes an optimizer step")
    max_length: int = Field(default=512, ge=2, description="longest row, in tokens")
    optimizer: Literal["adamw", "paged_adamw_8bit"] = Field(
        default="adamw", description="of torch, or of bitsandbytes with 8-bit moments"
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="compute activations again for the gradient instead of keeping them",
    )
    skip_long: bool = Field(
        default=False, description="leave longer rows out instead of refusing them"
    )
    skip_empty: bool = Field(
        default=False,
        description="leave records with an empty answer out instead of refusing them",
        exclude_if=_is_default,
    )
    val_split: float = Field(
        default=0.05, gt=0, lt=1, description="share of prompts held out; more of few if not given"
    )
    eval_steps: int | None = Field(
        default=None,
        ge=1,
        description="steps between measurements; a quarter of all if not given",
        exclude_if=_is_default,
    )
    keep_best: bool = Field(
        default=False,
        description="keep the step measured best, rather than the last",
        exclude_if=_is_default,
    )
    seed: int = Field(
        default=0, ge=0, lt=SEEDS, description="of the split, the order and the first weights"
    )
    mode: Literal["new", "extend", "revise"] = Field(
        default="new",
        description="a new capability, a further region of one, or a new version of one",
    )
    reuse: tuple[str, ...] = Field(
        default=(),
        description="capabilities whose sealed bases are gated beside the new ones, or `auto`",
    )
    general: bool = Field(default=False, description="also answer what the base's own cell holds")

    if not TYPE_CHECKING:  # which take the arguments from the fields

        def __init__(self, /, **given: object) -> None:
            """
            Raises:
                UsageError: there is no such option, or it cannot have such a value.
            """
            try:
                super().__init__(**given)
            except ValidationError as error:
                raise UsageError(_refusal(error)) from error

        __init__.__pydantic_base_init__ = True  # stored records are read without it

    @field_validator("reuse", mode="before")
    @classmethod
    def _several(cls, given: object) -> object:
        return (given,) if isinstance(given, str) else given

    def sparing(self, given: TrainingOptions) -> TrainingOptions:
        """These options, with the memory-saving ones (SPARING) taken from `given`.

        Raises:
            UsageError: a step would have another number of rows.
        """
        named = given.model_dump(include=given.model_fields_set & set(SPARING))
        options = self.model_copy(update=named)
        if options.rows_a_step != self.rows_a_step:
            raise UsageError(
                f"--batch-size {options.batch_size} with --grad-accum {options.grad_accum} makes "
                f"steps of {options.rows_a_step} rows, but this training has {self.rows_a_step} a "
                f"step: give two numbers whose product is {self.rows_a_step}"
            )
        return options

    def for_width(self, width: int) -> TrainingOptions:
        """These options with a learning rate: if none was given, the one for a backbone's width."""
        return self if self.lr else self.model_copy(update={"lr": default_rate(width)})

    @property
    def rows_a_step(self) -> int:
        """Rows in an optimizer step, over all processes."""
        return self.batch_size * self.grad_accum


def _refusal(error: ValidationError) -> str:
    """The first thing that is wrong with options, as a sentence."""
    first = error.errors()[0]
    name = first["loc"][0]
    if first["type"] == "extra_forbidden":
        options = ", ".join(TrainingOptions.model_fields)
        return f"there is no training option {name!r}: choose from {options}"
    value = reprlib.repr(first["input"])
    return f"the training option {name} cannot be {value}: {first['msg'].lower()}"


def default_rate(width: int) -> float:
    """The learning rate for a backbone: inverse to its width, as Adam's steps should be.

    QLoRA (2305.14314) trains models of width 4096 at 2e-4, and of 8192 at half of that. The inverse
    is how rates carry over between widths (Tensor Programs V, 2203.03466, table 8).

    Args:
        width: its hidden size.
    """
    return float(f"{min(2e-4 * 4096 / width, LARGEST_RATE):.3g}")


def generator_share(width: int) -> float:
    """The generator's learning rate as a share of the bases'.

    At the default rate it comes to the same on every backbone, since generators do not grow with
    them. On SmolLM2 it is a half; at twice of that, gates close before bases have learned.

    Args:
        width: of the backbone.
    """
    return GENERATOR_RATE / default_rate(width)


class Reused(BaseModel):
    """A sealed basis of another region, gated read-only beside the new ones."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, allow_inf_nan=False)

    of: str = Field(description="capability it was found in")
    oid: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0, lt=2**63, description="bytes")
    scale: float = Field(gt=0, description="α/r it was sealed under")


class ImportedAdapter(BaseModel):
    """The LoRA that an imported region was made from."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, allow_inf_nan=False)

    digest: str = Field(description="sha256 of its file of weights")
    base_model: str | None = Field(description="the base model that it names")
    rounding: float = Field(ge=0, description="relative error of ΔW, from rounding to bf16")
    dropped: tuple[int, ...] = Field(
        default=(),
        description="layers below the tap layer that were left out",
        exclude_if=_is_default,
    )
    lost: float = Field(
        default=0, ge=0, description="their share of ΔW's norm", exclude_if=_is_default
    )


class ValidationData(BaseModel):
    """The data that a training was measured on, where it is not a share of what it learned from."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    sources: tuple[str, ...]
    data_hash: str


class Glance(BaseModel):
    """The state of a training at one step, on at most GLANCE_ROWS of its held-out rows."""

    model_config = ConfigDict(frozen=True, defer_build=True, allow_inf_nan=False)

    step: int = Field(description="steps done; 0 is the base")
    loss: Measurement = Field(description="mean since the last glance, in nats a token")
    validation: float = Field(description="perplexity")


class Run(BaseModel):
    """The record of one training run; kept in its checkpoint, then in the manifest."""

    model_config = ConfigDict(defer_build=True, allow_inf_nan=False)

    format: int = FORMAT
    id: str
    name: str
    origin: Literal["trained", "imported", "composed"] = "trained"
    sources: list[str]
    data_hash: str
    val_data: ValidationData | None = None
    rows: int
    held_out_rows: int
    skipped_rows: int = 0
    empty_records: int = Field(default=0, exclude_if=_is_default)
    options: TrainingOptions
    reused: tuple[Reused, ...] = ()
    adapter: ImportedAdapter | None = None
    backbone: str
    coordinates: str
    versions: dict[str, str]
    step: int = 0
    steps: int
    loss: Measurement = None
    base_perplexity: Measurement = None
    perplexity: Measurement = None
    glances: tuple[Glance, ...] = ()
    seconds: float = 0.0
    tokens: int = 0
    best_step: int | None = Field(default=None, exclude_if=_is_default)
    witness: Witness | None = None

    @property
    def finished(self) -> bool:
        """Whether all steps are done and the result is measured."""
        return self.witness is not None

    @property
    def without_folders(self) -> Run:
        """The record to publish: where data lie is private, and their hashes identify them."""
        update: dict[str, object] = {"sources": [Path(one).name for one in self.sources]}
        if self.val_data:
            names = tuple(Path(one).name for one in self.val_data.sources)
            update["val_data"] = self.val_data.model_copy(update={"sources": names})
        return self.model_copy(update=update)


def read_run(path: Path) -> Run:
    """The record in a checkpoint, without its tensors.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: not a checkpoint, or of a newer version.
    """
    ways = (
        f"use the version that wrote it, start over with `niwfctl train {path.parent.name} "
        f"--restart --data …`, or remove {path.parent}"
    )
    try:
        run = Run.model_validate_json(read_metadata(path) or "")
    except (MalformedTensors, ValidationError) as error:
        raise FormatError(f"{path} is not a checkpoint this version can read: {ways}") from error
    if run.format > FORMAT:
        raise FormatError(f"{path} is of format {run.format}; this version reads {FORMAT}: {ways}")
    return run
