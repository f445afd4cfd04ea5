"""Routers of the rivals: which task is a prompt from, by the states of frozen early layers?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from niwfctl.backbone.batch import batched
from niwfctl.backbone.calibration import BATCH, LONGEST, calibration_prompts, pooled
from niwfctl.backbone.load import Backbone
from niwfctl.backbone.prompts import Tokens, common_prefix, prompt_tokens
from niwfctl.records import Message


class FrozenStates:
    """Mean-pooled states that enter a layer, standardized on niwfctl's calibration prompts."""

    def __init__(self, backbone: Backbone, layer: int) -> None:
        self._model, self._layer = backbone.model, layer
        general = [
            prompt_tokens(backbone.tokenizer, [Message("user", prompt)])[:LONGEST]
            for prompt in calibration_prompts()
        ]
        self.skip = common_prefix(general)
        states = self._pooled(general)
        self._mean, self._deviation = states.mean(0), states.std(0).clamp_min(1e-6)

    def __call__(self, rows: Sequence[Tokens]) -> Tensor:
        """float32 [rows, hidden], of their prompts; the bare model must be active."""
        return (self._pooled([row.prompt for row in rows]) - self._mean) / self._deviation

    def _pooled(self, prompts: Sequence[list[int]]) -> Tensor:
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        parts = [
            pooled(self._model, self._layer, [prompts[i] for i in places], self.skip)
            for places in batched(order, BATCH)
        ]
        states = torch.cat(parts)
        return states[torch.tensor(order).argsort()]


class NearestMean:
    """The task whose mean state is nearest."""

    def __init__(self) -> None:
        self.means: list[Tensor] = []

    def learn(self, states: Tensor) -> None:
        """Adds a task by states of its prompts, [prompts, hidden]."""
        self.means.append(states.mean(0))

    def route(self, states: Tensor) -> Tensor:
        """Index of a task for each state, int64 [rows]."""
        return torch.cdist(states, torch.stack(self.means)).argmin(1)

    def state(self) -> dict[str, Tensor]:
        """The means."""
        return {str(index): mean for index, mean in enumerate(self.means)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Puts the means back."""
        self.means = [state[str(index)] for index in range(len(state))]


class RidgeRouter:
    """Ridge regression from random features of a state to its task.

    It keeps the features' second moments over all tasks and their sum for each. Both are additive,
    so the solution does not depend on the order of the tasks.
    """

    def __init__(
        self, hidden: int, features: int, random: torch.Generator, ridge: float = 1e-2
    ) -> None:
        """
        Args:
            hidden: width of a state.
            features: random features M.
            random: draws the fixed projection.
            ridge: γ, as a share of the features' mean square.
        """
        self.projection = torch.randn(hidden, features, generator=random) / hidden**0.5
        self.ridge = ridge
        self.moments = torch.zeros(features, features, dtype=torch.float64)
        self.sums: list[Tensor] = []
        self._weights: Tensor | None = None

    def learn(self, states: Tensor) -> None:
        """Adds a task by states of its prompts, [prompts, hidden]."""
        features = self._features(states)
        self.moments += features.T @ features / len(features)
        self.sums.append(features.mean(0))
        self._weights = None

    def route(self, states: Tensor) -> Tensor:
        """Index of a task for each state, int64 [rows]."""
        if self._weights is None:
            scale = self.moments.diagonal().mean()
            regular = self.moments + self.ridge * scale * torch.eye(len(self.moments)).double()
            factor = torch.linalg.cholesky(regular)
            self._weights = torch.cholesky_solve(torch.stack(self.sums, dim=1), factor)
        return (self._features(states) @ self._weights).argmax(1)

    def state(self) -> dict[str, Tensor]:
        """The statistics, and the projection."""
        sums = {f"sums.{index}": total for index, total in enumerate(self.sums)}
        return {"projection": self.projection, "moments": self.moments} | sums

    def restore(self, state: dict[str, Tensor]) -> None:
        """Puts the statistics back."""
        self.projection, self.moments = state["projection"], state["moments"]
        self.sums = [state[f"sums.{index}"] for index in range(len(state) - 2)]
        self._weights = None

    def _features(self, states: Tensor) -> Tensor:
        return torch.relu(states @ self.projection).double()
