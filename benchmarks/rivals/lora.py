"""PEFT LoRA adapters in one frozen model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from common import MODULES
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from niwfctl.backbone.quiet import quiet
from niwfctl.backbone.sites import decoder_layers
from rivals.protocol import Method


class Adapters:
    """LoRA adapters by name, each of the rank at which it has as many parameters as ours.

    Attributes:
        names: of the adapters, in the order in which they were added.
        rank: of each.
    """

    def __init__(self, method: Method, first_layer: int = 0) -> None:
        """
        Args:
            method: its model is adapted; its options set α/r and the seed, its budget the rank.
            first_layer: index of the first adapted layer.
        """
        layers = decoder_layers(method.model)
        adapted = range(first_layer, len(layers))
        linears = [
            module
            for index in adapted
            for name, module in layers[index].named_modules()
            if name.rpartition(".")[2] in MODULES
        ]
        size = sum(linear.in_features + linear.out_features for linear in linears)
        self.rank = max(1, round(method.budget / size))
        self._config = LoraConfig(
            r=self.rank,
            lora_alpha=method.options.alpha / method.options.rank * self.rank,
            target_modules=MODULES,
            layers_to_transform=list(adapted),
            task_type="CAUSAL_LM",
        )
        self._model, self._seed = method.model, method.options.seed
        self._peft: nn.Module | None = None
        self.names: list[str] = []

    def add(self, name: str) -> None:
        """Adds an adapter that changes nothing yet, and makes it the active one."""
        torch.manual_seed(self._seed + len(self.names))
        with quiet():
            if self._peft is None:
                self._peft = get_peft_model(self._model, self._config, adapter_name=name)
            else:
                self._peft.add_adapter(name, self._config)
        self.names.append(name)
        self.use([name])

    def use(self, names: Sequence[str]) -> None:
        """Makes adapters act together, as a sum; only the last of them is trained."""
        self._peft.base_model.set_adapter(list(names))
        for name in names[:-1]:
            for parameter in self.parameters(name):
                parameter.requires_grad_(False)

    def bare(self) -> AbstractContextManager:
        """A block in which no adapter acts."""
        return nullcontext() if self._peft is None else self._peft.disable_adapter()

    def parameters(self, name: str) -> list[nn.Parameter]:
        """All of an adapter's factors, float32."""
        return list(self._named(name).values())

    def downs(self, name: str) -> list[nn.Parameter]:
        """A of every linear, [rank, in]."""
        return [p for key, p in self._named(name).items() if ".lora_A." in key]

    def state(self, name: str) -> dict[str, Tensor]:
        """An adapter's factors by their names."""
        return {key: parameter.detach() for key, parameter in self._named(name).items()}

    @torch.no_grad()
    def load(self, name: str, state: dict[str, Tensor]) -> None:
        """Adds an adapter with the factors that `state` gave."""
        self.add(name)
        for key, parameter in self._named(name).items():
            parameter.copy_(state[key])

    def _named(self, name: str) -> dict[str, nn.Parameter]:
        return {
            key: parameter
            for key, parameter in self._peft.named_parameters()
            if key.endswith(f".{name}.weight")
        }
