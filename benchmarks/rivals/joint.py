"""Joint training on all tasks at once: the upper bound, which is not learning one by one."""

from __future__ import annotations

import torch

from niwfctl.backbone.prompts import Tokens
from niwfctl.training.run import TrainingOptions
from rivals.protocol import Setting, Task
from rivals.sequential import SequentialLora


class JointLora(SequentialLora):
    """One LoRA, trained when the last task comes, on as many rows of each task as the others read.

    So it takes as many steps as all tasks of the others together; until then it is the base.
    """

    name = "joint training"
    incremental = False

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.waiting: list[Tokens] = []
        self.names: list[str] = []

    def learn(self, task: Task) -> float:
        count = self.options.steps * self.options.batch_size
        random = torch.Generator().manual_seed(self.options.seed)
        picked = torch.randperm(len(task.training), generator=random).tolist()
        self.waiting += [task.training[picked[i % len(picked)]] for i in range(count)]
        self.names.append(task.name)
        return super().learn(task) if len(self.names) == len(self.setting.stream) else 0.0

    def rows(self, task: Task) -> list[Tokens]:
        return self.waiting

    def training_options(self) -> TrainingOptions:
        steps = self.options.steps * len(self.names)
        return self.options.model_copy(update={"steps": steps})
