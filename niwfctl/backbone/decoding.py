"""One token of each prompt through the field, in as few and as small operations as can be.

On a CPU such a pass costs what its operations cost to launch, not what they compute: a cold one
takes 5 to 15 µs, and a third less where its output is there already. So everything is allocated
once for a field and a batch's size; a new batch of prompts brings its gates and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


class SingleTokens:
    """Passes of a single token through one field, for batches of one size.

    Attributes:
        gates: scaled gates, [layers, batch, 1, ranks], read anew at every token.
        groups: what computes the changes, one a group of sites.
    """

    def __init__(
        self,
        groups: Iterable[tuple[int, Tensor, Sequence[Tensor]]],
        gates: Tensor,
        dtype: torch.dtype,
    ) -> None:
        """
        Args:
            groups: (place of the layer among the gates, A of all sites, B of each) of each group.
            gates: of the first batch of prompts.
            dtype: the model's, in which the changes are given.
        """
        self.gates = gates.clone()
        self.groups = [
            SingleToken(down, ups, self.gates[layer], dtype) for layer, down, ups in groups
        ]


class SingleToken:
    """B (g · A x) for the sites of one group, x being the states of a single token a prompt."""

    def __init__(
        self, down: Tensor, ups: Sequence[Tensor], gates: Tensor, dtype: torch.dtype
    ) -> None:
        """
        Args:
            down: A of all sites, [sites · ranks, in], in the dtype to compute in.
            ups: B of each site, [out, ranks].
            gates: scaled gates, [batch, 1, ranks], alike for all sites; read anew at every token.
            dtype: the model's, in which the changes are given.
        """
        batch, widths = len(gates), [len(up) for up in ups]
        self._down, self._gates = down.T, gates
        self._states = down.new_empty(batch, 1, down.shape[1])
        self._rows = self._states[:, 0]
        self._low = down.new_empty(batch, len(down))
        self._gated = self._low.unflatten(1, (len(ups), -1))
        self._wide = down.new_empty(batch, 1, sum(widths))
        self._narrow = self._wide.to(dtype)
        self._products = list(
            zip(
                self._low.chunk(len(ups), dim=1),
                [up.T for up in ups],
                self._wide[:, 0].split(widths, dim=1),
                strict=True,
            )
        )
        self._changes = self._narrow.split(widths, dim=-1)
        self._seen: Tensor | None = None

    def change(self, place: int, states: Tensor) -> Tensor:
        """What the field adds to a site's output, [batch, 1, out]; the next token overwrites it.

        Args:
            place: of the site in its group.
            states: what the group reads, [batch, 1, in]; the same tensor for all its sites.
        """
        if states is not self._seen:
            self._read(states)
        return self._changes[place]

    def forget(self) -> None:
        """Keeps no states alive."""
        self._seen = None

    def _read(self, states: Tensor) -> None:
        self._states.copy_(states)
        torch.mm(self._rows, self._down, out=self._low)
        self._gated.mul_(self._gates)
        for low, up, product in self._products:
            torch.mm(low, up, out=product)
        self._narrow.copy_(self._wide)
        self._seen = states
