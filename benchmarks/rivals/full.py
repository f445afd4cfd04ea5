"""Sequential full fine-tuning: every weight, one task after another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from niwfctl.backbone.prompts import Tokens
from rivals.loop import answers_of, mean_nats, train
from rivals.protocol import Answers, Method, Setting, Task

RATE = 0.01  # of the adapters' learning rate; at 0.1 it learns next to nothing of its first task


class FullTuning(Method):
    """All weights; a float32 copy is optimized and the bf16 model computes.

    Updates are smaller than what bf16 resolves, hence the copy.
    """

    name = "sequential full fine-tuning"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.model.requires_grad_(True)
        self.weights = list(self.model.parameters())
        self.copies = [weight.detach().float() for weight in self.weights]

    def learn(self, task: Task) -> float:
        options = self.options.model_copy(update={"lr": self.options.lr * RATE})
        loss = lambda batch: mean_nats(self.model, batch)  # noqa: E731
        for copy in self.copies:
            copy.requires_grad_(True)
        return train(task.training, self.copies, options, loss, self._gather, self._publish)

    def _gather(self) -> None:
        for weight, copy in zip(self.weights, self.copies, strict=True):
            copy.grad, weight.grad = weight.grad.float(), None

    @torch.no_grad()
    def _publish(self) -> None:
        for weight, copy in zip(self.weights, self.copies, strict=True):
            weight.copy_(copy)

    def answers(self, rows: Sequence[Tokens], task: str | None) -> Answers:
        return answers_of(self.model, rows)

    def parameters(self) -> int:
        return sum(weight.numel() for weight in self.weights)

    def state(self) -> dict[str, Tensor]:
        return {str(index): copy.detach() for index, copy in enumerate(self.copies)}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.copies = [state[str(index)] for index in range(len(state))]
        self._publish()
