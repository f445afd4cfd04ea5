"""Where prompts lie, and who owns them there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from niwfctl.backbone.adapter import FieldAdapter
from niwfctl.backbone.batch import by_length
from niwfctl.backbone.calibration import pooled
from niwfctl.backbone.generation import require_positive
from niwfctl.backbone.load import Backbone
from niwfctl.config import FieldConfig
from niwfctl.records import Example
from niwfctl.repository.chosen import Mixtures
from niwfctl.repository.mixture import Bid
from niwfctl.repository.reading import Prompt, Reader, prompted


class Places(Reader):
    """The coordinates of prompts, and their owners by an atlas; nothing above the tap layer runs.

    Attributes:
        adapter: the field inside the backbone, whatever is active in it.
    """

    def __init__(
        self, backbone: Backbone, field: FieldConfig, adapter: FieldAdapter, mixtures: Mixtures
    ) -> None:
        """
        Args:
            field: what the coordinates of its repository leave out.
            mixtures: who owns what in each atlas.
        """
        super().__init__(backbone, field)
        self.adapter, self._mixtures = adapter, mixtures

    @property
    def device(self) -> torch.device:
        """Where the backbone computes."""
        return self.backbone.model.device

    def bids(self, prompt: Prompt) -> list[Bid]:
        """(capability, score) of all candidates for a prompt, the owner first; None for the base.

        The score is log N(z; μ, Σ) − b, or None if the cell does not hold z. What is active does
        not change.

        Raises:
            UsageError, DataError: as in `owners`.
        """
        return self.bids_each([prompt])[0]

    def bids_each(
        self, prompts: Sequence[Example | Prompt], batch_size: int = 8
    ) -> list[list[Bid]]:
        """As `bids`, of each prompt.

        Raises:
            UsageError, DataError: as in `owners`.
        """
        _, routes = self._mixtures.routed()
        return routes.ranked(self.coordinates(prompts, batch_size))

    def owners(self, prompts: Sequence[Example | Prompt], batch_size: int = 8) -> list[str | None]:
        """The capability that owns each prompt; None for the base.

        What is active does not change.

        Raises:
            UsageError: one is empty, or no prompt.
            DataError: the template refuses a prompt, or it is longer than the backbone can read.
        """
        _, routes = self._mixtures.routed()
        return routes.owners(self.coordinates(prompts, batch_size))

    def owner(self, z: Tensor, revision: str = "HEAD") -> str | None:
        """The capability that owns a coordinate z [dim] by a revision's atlas; None for the base.

        Raises:
            ObjectError: an object is missing or corrupt.
            UnknownName: there is no such revision.
        """
        _, routes = self._mixtures.routed(revision)
        return routes.owners(z[None])[0]

    def coordinate(self, prompt: Prompt) -> Tensor:
        """z of a prompt, float32 [dim].

        Raises:
            UsageError, DataError: as in `coordinates`.
        """
        return self.coordinates([prompt])[0]

    def coordinates(
        self,
        prompts: Sequence[Example | Prompt],
        batch_size: int = 8,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Tensor:
        """z of each prompt, float32 [prompts, dim].

        Args:
            progress: called with (prompts done, in all).

        Raises:
            UsageError: one is empty, or no prompt.
            DataError: the template refuses a prompt, or it is longer than the backbone can read.
        """
        require_positive("batch_size", batch_size)
        examples = prompted(prompts)
        read = [self.prompt(one.messages) for one in examples]
        rows = [tokens for tokens, _ in read]
        self._require_readable(examples, rows)
        shape, done = (len(rows), self.adapter.coordinates.dim), 0
        found = torch.empty(shape, dtype=torch.float32)
        for places in by_length(rows, batch_size):
            batch = [read[place] for place in places]
            found[places] = self.read([row for row, _ in batch], [skip for _, skip in batch])
            done += len(places)
            progress(done, len(rows))
        return found

    def read(self, rows: Sequence[list[int]], skips: Sequence[int] | None = None) -> Tensor:
        """z of prompts as one batch, float32 [rows, dim], equal bit for bit to that of a full pass.

        Nothing is computed from the tap layer on, whatever is active.

        Args:
            skips: leading tokens to leave out of each; by default the template's own.
        """
        skip = self.skip if skips is None else skips
        states = pooled(self.backbone.model, self.adapter.layers[0], rows, skip)
        return self.adapter.coordinates(states.to(self.device)).cpu()
