"""Replay: some rows of earlier tasks are learned again with every later one."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from niwfctl.backbone.prompts import Tokens
from rivals.protocol import Setting, Task
from rivals.sequential import SequentialLora

SHARE = 0.05


class ReplayLora(SequentialLora):
    """One LoRA; 5% of each earlier task's rows are kept, and mixed with the new task's rows.

    Steps and batch stay as they are, so correspondingly fewer rows of the new task are read.
    """

    name = "replay of 5%"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.memory: list[Tokens] = []

    def rows(self, task: Task) -> list[Tokens]:
        return [*task.training, *self.memory]

    def remember(self, task: Task) -> float:
        count = max(1, round(SHARE * len(task.training)))
        self.memory += random.Random(self.options.seed).sample(task.training, count)
        return 0.0

    def state(self) -> dict[str, Tensor]:
        return super().state() | {
            f"memory.{index}.{side}": torch.tensor(tokens)
            for index, row in enumerate(self.memory)
            for side, tokens in (("prompt", row.prompt), ("answer", row.answer))
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        super().restore(state)
        count = sum(key.startswith("memory.") for key in state) // 2
        self.memory = [
            Tokens(*(state[f"memory.{i}.{side}"].tolist() for side in ("prompt", "answer")))
            for i in range(count)
        ]
