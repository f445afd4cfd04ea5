"""One token of each prompt through the field, in as few and as small operations as can be.

On a CPU such a pass costs what its operations cost to launch, not what they compute: a cold one
takes 5 to 15 µs, and a third less where its output is there already. So everything is allocated
once for a field and a batch's size; a new batch of prompts brings its gates and nothing else. What
is computed is needed until the group's last site and no longer, so layers and fields share the room
for it: for each of them it would be megabytes a row.
"""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping, Sequence

import torch
from torch import Tensor


class Room:
    """Where groups of one shape compute, one after another.

    Attributes:
        states, low, wide, narrow: what a group reads; g · A x and the changes of all its sites, in
            the dtype to compute in; and the changes in the model's.
        changes: those of each site.
        whose: the group and the states that the changes are of.
    """

    def __init__(self, batch: int, down: Tensor, widths: Sequence[int], dtype: torch.dtype) -> None:
        """
        Args:
            batch: rows.
            down: A of all sites of such a group.
            widths: of the output of each.
            dtype: the model's.
        """
        self.states = down.new_empty(batch, 1, down.shape[1])
        self.low = down.new_empty(batch, len(down))
        self.wide = down.new_empty(batch, 1, sum(widths))
        self.narrow = self.wide.to(dtype)
        self.changes = self.narrow.split(widths, dim=-1)
        self.whose: tuple[SingleToken, Tensor] | tuple[None, None] = (None, None)


Rooms = MutableMapping[tuple, Room]  # by the shapes and dtypes that they are for


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
        rooms: Rooms,
    ) -> None:
        """
        Args:
            groups: (place of the layer among the gates, A of all sites, B of each) of each group.
            gates: of the first batch of prompts.
            dtype: the model's, in which the changes are given.
            rooms: that are there already; what is lacking is added.
        """
        self.gates = gates.clone()
        self.groups = [
            SingleToken(down, ups, self.gates[layer], _room(rooms, down, ups, len(gates[0]), dtype))
            for layer, down, ups in groups
        ]


def _room(
    rooms: Rooms, down: Tensor, ups: Sequence[Tensor], batch: int, dtype: torch.dtype
) -> Room:
    widths = [len(up) for up in ups]
    key = (batch, *down.shape, *widths, down.dtype, dtype)
    if (room := rooms.get(key)) is None:
        room = rooms[key] = Room(batch, down, widths, dtype)
    return room


class SingleToken:
    """B (g · A x) for the sites of one group, x being the states of a single token a prompt."""

    def __init__(self, down: Tensor, ups: Sequence[Tensor], gates: Tensor, room: Room) -> None:
        """
        Args:
            down: A of all sites, [sites · ranks, in], in the dtype to compute in.
            ups: B of each site, [out, ranks].
            gates: scaled gates, [batch, 1, ranks], alike for all sites; read anew at every token.
            room: of this shape.
        """
        self._down, self._gates, self._room = down.T, gates, room
        self._rows = room.states[:, 0]
        self._gated = room.low.unflatten(1, (len(ups), -1))
        self._products = list(
            zip(
                room.low.chunk(len(ups), dim=1),
                [up.T for up in ups],
                room.wide[:, 0].split([len(up) for up in ups], dim=1),
                strict=True,
            )
        )

    def change(self, place: int, states: Tensor) -> Tensor:
        """What the field adds to a site's output, [batch, 1, out]; the next group overwrites it.

        Args:
            place: of the site in its group.
            states: what the group reads, [batch, 1, in]; the same tensor for all its sites.
        """
        group, seen = self._room.whose
        if group is not self or seen is not states:
            self._read(states)
        return self._room.changes[place]

    def forget(self) -> None:
        """Keeps no states alive."""
        self._room.whose = (None, None)

    def _read(self, states: Tensor) -> None:
        room = self._room
        room.states.copy_(states)
        torch.mm(self._rows, self._down, out=room.low)
        self._gated.mul_(self._gates)
        for low, up, product in self._products:
            torch.mm(low, up, out=product)
        room.narrow.copy_(room.wide)
        room.whose = (self, states)
