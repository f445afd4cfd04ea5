"""One LoRA a task: exact for weights, but the task of a prompt must be given or found out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from niwfctl.backbone.prompts import Tokens
from rivals.loop import answers_of, mean_nats, seen, train
from rivals.lora import Adapters
from rivals.olora import adapters_state, load_adapters
from rivals.protocol import GIVEN, OPEN, Answers, Method, Setting, Task, part, under
from rivals.routers import FrozenStates, NearestMean, RidgeRouter


class LoraPerTask(Method):
    """One PEFT LoRA a task, chosen by the true task or by the nearest mean of frozen states.

    The states are read where niwfctl reads its own, in a separate pass that ends there.
    """

    name = "one LoRA a task"
    ways = (GIVEN, OPEN)

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.states = FrozenStates(self.backbone, self.router_layer())
        self.router = self.new_router()
        self.adapters = Adapters(self, self.first_layer())

    def new_router(self) -> NearestMean | RidgeRouter:
        """The router, which finds the task of a prompt."""
        return NearestMean()

    def router_layer(self) -> int:
        """Index of the layer whose input the router reads."""
        return self.tap_layer

    def first_layer(self) -> int:
        """Index of the first adapted layer."""
        return 0

    def learn(self, task: Task) -> float:
        with self.adapters.bare():
            states = self.states(seen(task.training, self.options))
        self.router.learn(states)
        self.adapters.add(task.name)
        parameters = self.adapters.parameters(task.name)
        loss = lambda batch: mean_nats(self.model, batch)  # noqa: E731
        return train(task.training, parameters, self.options, loss)

    def answers(self, rows: Sequence[Tokens], task: str | None) -> Answers:
        owners = [task] * len(rows) if task is not None else self.owners(rows)
        found = Answers.empty(len(rows))
        for owner in sorted(set(owners)):
            places = [index for index, name in enumerate(owners) if name == owner]
            found.put(places, self._answered_by(owner, [rows[index] for index in places]))
        return found

    def owners(self, rows: Sequence[Tokens]) -> list[str]:
        """Each row's task, by its prompt."""
        with self.adapters.bare():
            states = self.states(rows)
        return [self.adapters.names[index] for index in self.router.route(states).tolist()]

    def _answered_by(self, owner: str, rows: list[Tokens]) -> Answers:
        if owner not in self.adapters.names:
            with self.adapters.bare():
                return answers_of(self.model, rows)
        self.adapters.use([owner])
        return answers_of(self.model, rows)

    def parameters(self) -> int:
        return sum(p.numel() for p in self.adapters.parameters(self.adapters.names[-1]))

    def state(self) -> dict[str, Tensor]:
        return adapters_state(self.adapters) | under("router", self.router.state())

    def restore(self, state: dict[str, Tensor]) -> None:
        load_adapters(self.adapters, state, self.setting.stream)
        self.router.restore(part(state, "router"))


class AnySsr(LoraPerTask):
    """Any-SSR (2503.13575): a LoRA a task above frozen early layers, chosen by ridge regression.

    As in its paper: 4 frozen layers, mean-pooled states after them, ReLU of a fixed random
    projection, and the closed-form ridge solution over all tasks so far, which its recursion equals
    in exact arithmetic. Chosen here: 5,000 features in place of 10,000, states standardized on
    general prompts, and each task weighted equally, however many rows it has.
    """

    name = "Any-SSR"
    ways = (OPEN,)

    def __init__(self, setting: Setting, features: int = 5000) -> None:
        """
        Args:
            features: random features of the router.
        """
        self._features = features
        super().__init__(setting)

    def new_router(self) -> RidgeRouter:
        return RidgeRouter(self.backbone.width, self._features, torch.Generator().manual_seed(0))

    def router_layer(self) -> int:
        return self.first_layer()

    def first_layer(self) -> int:
        return min(4, self.model.config.num_hidden_layers - 1)
