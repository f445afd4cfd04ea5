"""All methods by the names that the command line takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from rivals.bare import Bare
from rivals.ewc import ElasticLora
from rivals.full import FullTuning
from rivals.joint import JointLora
from rivals.olora import OrthogonalLora
from rivals.ours import Niwfctl
from rivals.penalty import PenaltyLock, Strengths
from rivals.per_task import AnySsr, LoraPerTask
from rivals.protocol import Method, Setting
from rivals.replay import ReplayLora
from rivals.sequential import SequentialLora

METHODS: dict[str, Callable[[Setting], Method]] = {
    "base": Bare,
    "niwfctl": Niwfctl,
    "penalty": PenaltyLock,
    "lora": SequentialLora,
    "per-task": LoraPerTask,
    "joint": JointLora,
    "ewc": ElasticLora,
    "replay": ReplayLora,
    "o-lora": OrthogonalLora,
    "any-ssr": AnySsr,
    "full": FullTuning,
    # the paper's system without its lock, to see what the lock does
    "penalty-unlocked": partial(PenaltyLock, strengths=Strengths(lock=0.0)),
}
TITLES = {key: getattr(make, "name", "penalty lock, λ = 0") for key, make in METHODS.items()}
