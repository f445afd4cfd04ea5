"""One token of each prompt through the field, in as few and as small operations as can be.

On a CPU such a pass costs what its operations cost to launch, not what they compute: a cold one
takes 5 to 15 µs, and a third less where its output is there already. So everything is allocated
once for a batch of prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class SingleToken:
    """B (g · A x) for the sites of one group, x being the states of a single token a prompt."""

    def __init__(
        self, down: Tensor, ups: Sequence[Tensor], gates: Tensor, dtype: torch.dtype
    ) -> None:
        """
        Args:
            down: A of all sites, [sites · ranks, in], in the dtype to compute in.
            ups: B of each site, [out, ranks].
            gates: scaled gates, [batch, sites · ranks].
            dtype: the model's, in which the changes are given.
        """
        batch, width = len(gates), down.shape[1]
        self._down, self._ups, self._gates = down.T, [up.T for up in ups], gates
        self._states = down.new_empty(batch, 1, width)
        self._rows = self._states[:, 0]
        self._low = torch.empty_like(gates)
        self._parts = self._low.chunk(len(ups), dim=1)
        self._wide = [down.new_empty(batch, 1, len(up)) for up in ups]
        self._products = [wide[:, 0] for wide in self._wide]
        self._changes = [wide.to(dtype) for wide in self._wide]

    def read(self, states: Tensor) -> None:
        """Takes the states of the tokens, [batch, 1, in]."""
        self._states.copy_(states)
        torch.mm(self._rows, self._down, out=self._low).mul_(self._gates)

    def change(self, place: int) -> Tensor:
        """What the field adds to a site's output, [batch, 1, out]; the next token overwrites it."""
        torch.mm(self._parts[place], self._ups[place], out=self._products[place])
        return self._changes[place].copy_(self._wide[place])
