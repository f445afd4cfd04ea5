"""Training on several devices: `accelerate launch` starts a process for each.

A step has the same rows whatever the number of processes: they share the rows and add up their
gradients, so that all have the same parameters after it. Only the first one writes and reports.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from niwfctl.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

Value = TypeVar("Value")


def leads() -> bool:
    """Whether this process is the one that writes and reports."""
    return os.environ.get("RANK", "0") == "0"


class Processes:
    """The processes of one training.

    Attributes:
        index: of this process.
        count: of all of them.
    """

    def __init__(self) -> None:
        """Connects to the others, if `accelerate launch` or `torchrun` started any."""
        self.index, self.count = 0, int(os.environ.get("WORLD_SIZE", "1"))
        if self.count > 1:
            from accelerate import PartialState

            self._state = PartialState(cpu=_on_cpu())
            self.index = self._state.process_index
            # Not when a training ends: accelerate could not connect again for the next.
            atexit.register(self._state.destroy_process_group)

    def share(self, rows: Sequence[Value]) -> Sequence[Value]:
        """This process's share of the rows of a step.

        Raises:
            UsageError: there are fewer rows than processes.
        """
        if len(rows) < self.count:
            raise UsageError(
                f"a step has {len(rows)} rows, too few for {self.count} processes: raise "
                "--batch-size or --grad-accum, or launch fewer processes"
            )
        begin, end = (len(rows) * place // self.count for place in (self.index, self.index + 1))
        return rows[begin:end]

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of the tensors of all processes; all have the same shape and dtype."""
        if self.count == 1:
            return tensor
        from accelerate.utils import reduce

        return reduce(tensor.to(self._state.device), "sum").to(tensor.device)

    def agreed(self, value: Value) -> Value:
        """The first process's value, in every process."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def any(self, asked: bool) -> bool:
        """Whether it is true in any process."""
        if self.count == 1:
            return asked
        import torch

        return bool(self.sum(torch.tensor(int(asked))))


def _on_cpu() -> bool:
    from niwfctl.backbone.load import chosen_device

    return chosen_device() == "cpu"
