"""What was made active in a model, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from niwfctl.errors import UsageError
from niwfctl.repository.mixture import Mixture, weighted


@dataclass(frozen=True)
class Rows:
    """A capability for each row.

    Attributes:
        names: of the rows' capabilities, as `Model.use_each` takes them.
        mixtures: of each name.
    """

    names: Sequence[str | None]
    mixtures: Mapping[str | None, Mixture]

    def at(self, places: Sequence[int]) -> Mixture:
        """The mixture for a batch of the rows at these places."""
        names = [self.names[place] for place in places]
        return weighted(
            [
                (torch.tensor([[float(one == name)] for one in names]), self.mixtures[name])
                for name in dict.fromkeys(names)
            ]
        )

    def require(self, count: int) -> None:
        """Requires that this many rows are given.

        Raises:
            UsageError: they are more or fewer.
        """
        if count != len(self.names):
            raise UsageError(
                f"`use_each` was given {len(self.names)} capabilities, one for each row, but the "
                f"number of rows is {count}: give as many, or make one active with `use`"
            )
