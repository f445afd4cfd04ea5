"""One adapter for all tasks, trained on one after another: what forgets."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from niwfctl.backbone.prompts import Tokens
from niwfctl.training.run import TrainingOptions
from rivals.loop import answers_of, mean_nats, train
from rivals.lora import Adapters
from rivals.protocol import Answers, Method, Setting, Task, part, under

ONLY = "shared"


class SequentialLora(Method):
    """Plain LoRA. Methods that reduce its forgetting change what it learns from, or its loss."""

    name = "sequential LoRA"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.adapters = Adapters(self)
        self.adapters.add(ONLY)

    def learn(self, task: Task) -> float:
        seconds = train(
            self.rows(task), self.adapters.parameters(ONLY), self.training_options(), self.loss
        )
        return seconds + self.remember(task)

    def rows(self, task: Task) -> list[Tokens]:
        """The rows to learn a task from."""
        return task.training

    def training_options(self) -> TrainingOptions:
        """How to train."""
        return self.options

    def loss(self, batch: list[Tokens]) -> Tensor:
        """What training minimizes."""
        return mean_nats(self.model, batch)

    def remember(self, task: Task) -> float:
        """Keeps what later trainings need of a task; returns the seconds it took."""
        return 0.0

    def answers(self, rows: Sequence[Tokens], task: str | None) -> Answers:
        return answers_of(self.model, rows)

    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.adapters.parameters(ONLY))

    def state(self) -> dict[str, Tensor]:
        return under("adapter", self.adapters.state(ONLY))

    def restore(self, state: dict[str, Tensor]) -> None:
        for key, parameter in self.adapters.state(ONLY).items():
            parameter.copy_(part(state, "adapter")[key])
