"""The protocol: what a task is, and what every method of learning tasks one after another does."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from niwfctl.backbone.calibration import default_dim, default_tap_layer
from niwfctl.backbone.load import Backbone
from niwfctl.backbone.prompts import Tokens
from niwfctl.backbone.sites import find_sites
from niwfctl.field.basis import Site
from niwfctl.field.generator import Generator
from niwfctl.training.run import TrainingOptions

GIVEN, OPEN = "task given", "no task given"  # how a method may be asked
WEIGHT_BYTES = 2  # of every number a rival keeps: bf16, whatever it trains in


@dataclass(frozen=True)
class Task:
    """Rows of one task.

    Attributes:
        training: to learn from.
        validation: to calibrate or tune on; not learned from, not measured on.
        test: to measure on.
    """

    name: str
    training: list[Tokens]
    validation: list[Tokens]
    test: list[Tokens]


@dataclass(frozen=True)
class Answers:
    """How a method answers rows.

    Attributes:
        nats: summed negative log-likelihood of each row's answer, float32 [rows].
        tokens: answer tokens of each row, int64 [rows].
        exact: whether greedy decoding gives exactly the answer, bool [rows].
    """

    nats: Tensor
    tokens: Tensor
    exact: Tensor

    @property
    def perplexity(self) -> float:
        """On the answers' tokens."""
        return math.exp(min(float(self.nats.sum() / self.tokens.sum()), 700.0))

    @property
    def accuracy(self) -> float:
        """Share of rows answered exactly."""
        return float(self.exact.double().mean())

    @classmethod
    def empty(cls, count: int) -> Answers:
        """For `count` rows, to be filled in."""
        return cls(
            torch.zeros(count),
            torch.zeros(count, dtype=torch.long),
            torch.zeros(count, dtype=torch.bool),
        )

    def put(self, places: Sequence[int], part: Answers) -> None:
        """Fills in the answers of some rows."""
        self.nats[list(places)] = part.nats
        self.tokens[list(places)] = part.tokens
        self.exact[list(places)] = part.exact


@dataclass(frozen=True)
class Setting:
    """What all methods of a comparison share.

    Attributes:
        load: loads a new backbone.
        options: steps, batch, rates and seed; the field's sizes, which set every method's budget.
        stream: names of the tasks, in their order.
        max_takeover: niwfctl's, of each earlier region's anchors.
    """

    load: Callable[[], Backbone]
    options: TrainingOptions
    stream: tuple[str, ...]
    max_takeover: float = 0.02

    def __post_init__(self) -> None:
        if None in (self.options.steps, self.options.lr) or self.options.grad_accum != 1:
            raise ValueError("a comparison needs a number of steps, a rate, and one batch a step")


class Method(ABC):
    """One way of learning tasks one after another.

    Attributes:
        name: in tables and on the command line.
        ways: how it may be asked: with the task given, without, or both.
        incremental: whether it learns each task when it comes, or all of them with the last one.
    """

    name: ClassVar[str]
    ways: ClassVar[tuple[str, ...]] = (OPEN,)
    incremental: ClassVar[bool] = True

    def __init__(self, setting: Setting) -> None:
        self.setting, self.options = setting, setting.options
        self.backbone = setting.load()
        self.model = self.backbone.model
        self.tap_layer = default_tap_layer(self.backbone)
        sites = find_sites(self.model, self.tap_layer)
        self.budget = our_parameters(sites, default_dim(self.backbone), self.options)

    @abstractmethod
    def learn(self, task: Task) -> float:
        """Learns the next task of the stream; returns the seconds that its training took."""

    @abstractmethod
    def answers(self, rows: Sequence[Tokens], task: str | None) -> Answers:
        """Answers rows.

        Args:
            task: what they belong to, or None for the method to find out or do without. A task
                that is not learned yet is answered as without one.
        """

    @abstractmethod
    def parameters(self) -> int:
        """How many numbers one task's training optimizes."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """What has to be kept to answer and to continue learning."""

    @abstractmethod
    def restore(self, state: dict[str, Tensor]) -> None:
        """Restores what `state()` gave, in a new method."""

    def bytes(self) -> int:
        """Size of what has to be kept, beyond the backbone."""
        return sum(tensor.numel() for tensor in self.state().values()) * WEIGHT_BYTES

    def owners(self, rows: Sequence[Tokens]) -> list[str | None] | None:
        """Each row's task by the method's router, None for the base; None without a router."""
        return None

    def report(self, tasks: Sequence[Task]) -> dict[str, object]:
        """Further figures on the tasks learned so far; none by default."""
        return {}


def our_parameters(sites: Sequence[Site], dim: int, options: TrainingOptions) -> int:
    """How many numbers a niwfctl training optimizes: the budget of every method."""
    layers = len({site.layer for site in sites})
    generator = Generator(dim, layers, options.bases)
    of_generator = sum(parameter.numel() for parameter in generator.parameters())
    return of_generator + per_rank(sites) * options.rank * options.bases


def per_rank(sites: Sequence[Site]) -> int:
    """Numbers of one low-rank pair of rank 1 at every site."""
    return sum(site.in_features + site.out_features for site in sites)


def part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under `prefix.`, without it."""
    start = f"{prefix}."
    return {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `part`."""
    return {f"{prefix}.{key}": value for key, value in state.items()}
