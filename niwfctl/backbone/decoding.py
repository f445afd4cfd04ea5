"""Decoding, one token of each prompt at a time, through the field with few and small operations.

On a CPU such a pass costs what its operations cost to launch, not what they compute: a cold one
takes 5 to 15 µs, a third less if its output is already allocated. So everything is allocated once
for a field and a batch size; a new batch of prompts only replaces the gates. The results of a group
are not needed after its last site, so layers and fields share the memory for them: memory of their
own would take megabytes a row for each. On a GPU, too, a pass costs what it takes to launch, but
fewer operations matter more there than memory that is already allocated.
"""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping, Sequence

import torch
from torch import Tensor


class Workspace:
    """Memory in which groups of one shape compute, one after another.

    Attributes:
        states, low, wide, narrow: the input of a group; g · A x and the changes of all its sites,
            in the dtype to compute in; and the changes in the model's dtype.
        changes: views of `narrow`, one per site.
        whose: the group and the states that the changes were computed for.
    """

    def __init__(self, batch: int, down: Tensor, widths: Sequence[int], dtype: torch.dtype) -> None:
        """
        Args:
            batch: rows.
            down: A of all sites of such a group.
            widths: output features of each site.
            dtype: the model's.
        """
        self.states = down.new_empty(batch, 1, down.shape[1])
        self.low = down.new_empty(batch, len(down))
        self.wide = down.new_empty(batch, 1, sum(widths))
        self.narrow = self.wide.to(dtype)
        self.changes = self.narrow.split(widths, dim=-1)
        self.whose: tuple[GroupBuffers, Tensor] | tuple[None, None] = (None, None)


Workspaces = MutableMapping[tuple, Workspace]  # by shapes and dtypes


class DecodeBuffers:
    """What passes of a single token through one field compute with, for one batch size.

    Attributes:
        gates: scaled gates, [layers, batch, 1, ranks], read at every token.
        groups: add the changes, one for each group of sites.
    """

    def __init__(
        self,
        groups: Iterable[tuple[int, Tensor, Sequence[Tensor]]],
        gates: Tensor,
        dtype: torch.dtype,
        workspaces: Workspaces,
    ) -> None:
        """
        Args:
            groups: for each group (index of its layer in the gates, A of all sites, B of each).
            gates: of the first batch of prompts.
            dtype: the model's; the changes are added in it.
            workspaces: existing ones; missing ones are added.
        """
        self.gates = gates.clone()
        if gates.device.type != "cpu" and gates.dtype == dtype:
            self.groups: list[Group] = [
                FusedGroup(down, ups, self.gates[layer]) for layer, down, ups in groups
            ]
            return
        self.groups = [
            GroupBuffers(
                down,
                ups,
                self.gates[layer],
                _workspace(workspaces, down, ups, len(gates[0]), dtype),
            )
            for layer, down, ups in groups
        ]


def _workspace(
    workspaces: Workspaces, down: Tensor, ups: Sequence[Tensor], batch: int, dtype: torch.dtype
) -> Workspace:
    widths = [len(up) for up in ups]
    key = (batch, *down.shape, *widths, down.dtype, dtype)
    if (workspace := workspaces.get(key)) is None:
        workspace = workspaces[key] = Workspace(batch, down, widths, dtype)
    return workspace


class GroupBuffers:
    """B (g · A x) for the sites of one group, x being the states of one token per prompt."""

    def __init__(
        self, down: Tensor, ups: Sequence[Tensor], gates: Tensor, workspace: Workspace
    ) -> None:
        """
        Args:
            down: A of all sites, [sites · ranks, in], in the dtype to compute in.
            ups: B of each site, [out, ranks].
            gates: scaled gates, [batch, 1, ranks], the same for all sites; read at every token.
            workspace: one of this shape.
        """
        self._down, self._gates, self._workspace = down.T, gates, workspace
        self._rows = workspace.states[:, 0]
        self._gated = workspace.low.unflatten(1, (len(ups), -1))
        self._products = list(
            zip(
                workspace.low.chunk(len(ups), dim=1),
                [up.T for up in ups],
                workspace.wide[:, 0].split([len(up) for up in ups], dim=1),
                strict=True,
            )
        )

    def add(self, output: Tensor, place: int, states: Tensor) -> Tensor:
        """Adds to a site's output, [batch, 1, out], what the field changes; returns it.

        Args:
            place: index of the site in its group.
            states: input of the group, [batch, 1, in]; the same tensor for all its sites.
        """
        group, seen = self._workspace.whose
        if group is not self or seen is not states:
            self._read(states)
        return output.add_(self._workspace.changes[place])

    def forget(self) -> None:
        """Keeps no states alive."""
        self._workspace.whose = (None, None)

    def _read(self, states: Tensor) -> None:
        workspace = self._workspace
        workspace.states.copy_(states)
        torch.mm(self._rows, self._down, out=workspace.low)
        self._gated.mul_(self._gates)
        for low, up, product in self._products:
            torch.mm(low, up, out=product)
        workspace.narrow.copy_(workspace.wide)
        workspace.whose = (self, states)


class FusedGroup:
    """The same in the model's dtype, with half the launches: products add to the output."""

    def __init__(self, down: Tensor, ups: Sequence[Tensor], gates: Tensor) -> None:
        """
        Args:
            down, ups, gates: as of `GroupBuffers`, in the model's dtype.
        """
        self._down, self._ups, self._gates = down.T, [up.T for up in ups], gates
        self.forget()

    def add(self, output: Tensor, place: int, states: Tensor) -> Tensor:
        """As of `GroupBuffers`."""
        if self._states is not states:
            low = torch.mm(states[:, 0], self._down).unflatten(1, (len(self._ups), -1))
            self._states, self._low = states, low.mul_(self._gates).unbind(1)
        output[:, 0].addmm_(self._low[place], self._ups[place])
        if place == len(self._ups) - 1:
            self.forget()
        return output

    def forget(self) -> None:
        """Keeps no states alive."""
        self._states: Tensor | None = None
        self._low: tuple[Tensor, ...] = ()


Group = GroupBuffers | FusedGroup
