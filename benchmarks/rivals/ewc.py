"""Elastic weight consolidation (Kirkpatrick et al., 2017) on one LoRA."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from niwfctl.backbone.prompts import Tokens
from rivals.loop import mean_nats, seen
from rivals.protocol import Setting, Task, part, under
from rivals.sequential import ONLY, SequentialLora

FISHER_ROWS = 64
STRENGTH = 1e4


class ElasticLora(SequentialLora):
    """Online EWC (Schwarz et al., 2018, with γ = 1): the loss gains ½ λ Σ F (θ − θ*)².

    F is the diagonal empirical Fisher: squared gradients of the mean loss of one row, averaged over
    64 rows that training has read, and added up over the tasks; θ* is where the last task ended.
    """

    name = "EWC on LoRA"

    def __init__(self, setting: Setting, strength: float = STRENGTH) -> None:
        """
        Args:
            strength: λ.
        """
        super().__init__(setting)
        self.strength = strength
        self.fisher: list[Tensor] = []
        self.anchor: list[Tensor] = []

    def loss(self, batch: list[Tokens]) -> Tensor:
        return super().loss(batch) + self.penalty()

    def penalty(self) -> Tensor:
        """½ λ Σ F (θ − θ*)²; 0 before the first task's end."""
        weights = self.adapters.parameters(ONLY)
        terms = zip(self.fisher, weights, self.anchor, strict=False)
        total = sum((f * (now - then).square()).sum() for f, now, then in terms)
        return torch.as_tensor(0.5 * self.strength * total)

    def remember(self, task: Task) -> float:
        started = time.perf_counter()
        weights = self.adapters.parameters(ONLY)
        found = [torch.zeros_like(weight) for weight in weights]
        rows = seen(task.training, self.options)[:FISHER_ROWS]
        for row in rows:
            gradients = torch.autograd.grad(mean_nats(self.model, [row]), weights)
            for total, gradient in zip(found, gradients, strict=True):
                total += gradient.square() / len(rows)
        earlier = self.fisher or [torch.zeros_like(weight) for weight in weights]
        self.fisher = [old + new for old, new in zip(earlier, found, strict=True)]
        self.anchor = [weight.detach().clone() for weight in weights]
        return time.perf_counter() - started

    def state(self) -> dict[str, Tensor]:
        # θ* is where the adapter stands between tasks: it need not be stored separately
        fisher = {str(index): values for index, values in enumerate(self.fisher)}
        return super().state() | under("fisher", fisher)

    def restore(self, state: dict[str, Tensor]) -> None:
        super().restore(state)
        fisher = part(state, "fisher")
        self.fisher = [fisher[str(index)] for index in range(len(fisher))]
        self.anchor = [weight.detach().clone() for weight in self.adapters.parameters(ONLY)]
