"""O-LoRA (Wang et al., 2023): each task learns in a subspace orthogonal to those before it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from niwfctl.backbone.prompts import Tokens
from rivals.loop import answers_of, mean_nats, train
from rivals.lora import Adapters
from rivals.protocol import Answers, Method, Setting, Task, part, under

STRENGTH = 0.5


class OrthogonalLora(Method):
    """A LoRA a task, all of them acting together; the loss gains λ Σ_i ‖A_i Aᵀ‖² over earlier i.

    That is the paper's equation with its λ₁ = 0.5 (its published code takes absolute values in
    place of squares, which at this size would drown the loss). No weight decay (its λ₂ = 0).
    """

    name = "O-LoRA"

    def __init__(self, setting: Setting, strength: float = STRENGTH) -> None:
        """
        Args:
            strength: λ.
        """
        super().__init__(setting)
        self.strength = strength
        self.adapters = Adapters(self)

    def learn(self, task: Task) -> float:
        self.adapters.add(task.name)
        self.adapters.use(self.adapters.names)
        parameters = self.adapters.parameters(task.name)
        return train(task.training, parameters, self.options, self.loss)

    def loss(self, batch: list[Tokens]) -> Tensor:
        """What training minimizes."""
        return mean_nats(self.model, batch) + self.strength * self.overlap()

    def overlap(self) -> Tensor:
        """Σ_i ‖A_i Aᵀ‖² of the newest adapter with all earlier ones."""
        *earlier, newest = self.adapters.names
        new = self.adapters.downs(newest)
        products = [
            old.detach() @ now.T
            for name in earlier
            for old, now in zip(self.adapters.downs(name), new, strict=True)
        ]
        return sum((product.square().sum() for product in products), torch.zeros(()))

    def answers(self, rows: Sequence[Tokens], task: str | None) -> Answers:
        return answers_of(self.model, rows)

    def parameters(self) -> int:
        return sum(p.numel() for p in self.adapters.parameters(self.adapters.names[-1]))

    def state(self) -> dict[str, Tensor]:
        return adapters_state(self.adapters)

    def restore(self, state: dict[str, Tensor]) -> None:
        load_adapters(self.adapters, state, self.setting.stream)
        self.adapters.use(self.adapters.names)


def adapters_state(adapters: Adapters) -> dict[str, Tensor]:
    """All adapters, each under its name."""
    return {
        key: value
        for name in adapters.names
        for key, value in under(f"adapter.{name}", adapters.state(name)).items()
    }


def load_adapters(adapters: Adapters, state: dict[str, Tensor], stream: Sequence[str]) -> None:
    """Adds the adapters of the tasks in a state, in the stream's order."""
    for name in stream:
        if found := part(state, f"adapter.{name}"):
            adapters.load(name, found)
