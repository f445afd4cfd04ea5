"""The bare backbone, which learns nothing: the baseline for all others."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from niwfctl.backbone.prompts import Tokens
from rivals.loop import answers_of
from rivals.protocol import Answers, Method, Task


class Bare(Method):
    """No training at all."""

    name = "base"
    incremental = False

    def learn(self, task: Task) -> float:
        return 0.0

    def answers(self, rows: Sequence[Tokens], task: str | None) -> Answers:
        return answers_of(self.model, rows)

    def parameters(self) -> int:
        return 0

    def state(self) -> dict[str, Tensor]:
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        pass
