"""The field inside a Hugging Face model, in one forward pass.

A hook at the tap layer pools the prompt's states, maps them to the coordinate z and asks the
active field for its gates; a hook at each adapted linear then adds (α/r) Σ_b g_b(z) B_b A_b x to
what the frozen linear gave. The model's own modules and weights stay as they are, and while
nothing is active the hooks return at once, so the logits are the bare backbone's, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from niwfctl.backbone.sites import decoder_layers, linears
from niwfctl.field.basis import Basis, Site
from niwfctl.field.coordinates import CoordinateMap, pool


@dataclass
class ActiveField:
    """What acts on the model: gates as a function of z, over bases stacked for speed.

    Attributes:
        gates: z [batch, dim] → float [batch, layers, bases].
        layers: adapted layer indices, in the order of the gates.
        ranks: rank of each basis; a gate is repeated over the rows of its basis.
        scale: α/r.
        down: stacked A by site name, [Σ ranks, in].
        up: stacked B by site name, [out, Σ ranks].
    """

    gates: Callable[[Tensor], Tensor]
    layers: tuple[int, ...]
    ranks: Tensor
    scale: float
    down: dict[str, Tensor]
    up: dict[str, Tensor]

    @classmethod
    def of(
        cls,
        bases: Sequence[Basis],
        gates: Callable[[Tensor], Tensor],
        layers: tuple[int, ...],
        scale: float,
    ) -> ActiveField:
        """Stacks the bases along their ranks, so that each linear costs two products."""
        names = list(bases[0].down)
        device = bases[0].down[names[0]].device
        return cls(
            gates,
            layers,
            torch.tensor([basis.rank for basis in bases], device=device),
            scale,
            {name: torch.cat([basis.down[name] for basis in bases]) for name in names},
            {name: torch.cat([basis.up[name] for basis in bases], dim=1) for name in names},
        )

    def row_gates(self, z: Tensor) -> dict[int, Tensor]:
        """Scaled gates by layer, [batch, 1, Σ ranks], ready to multiply A x."""
        gates = self.gates(z).repeat_interleave(self.ranks, dim=-1) * self.scale
        gates = gates.to(next(iter(self.down.values())).dtype)
        return {layer: gates[:, None, i] for i, layer in enumerate(self.layers)}


@dataclass
class Pass:
    """The state of the forward pass under way."""

    prompt: Tensor | None = None
    z: Tensor | None = None
    gates: dict[int, Tensor] = field(default_factory=dict)


class FieldAdapter:
    """Attaches a field to a frozen model.

    Attributes:
        z: coordinates of the last prompts seen, float32 [batch, dim], or None.
    """

    def __init__(self, model: nn.Module, sites: Sequence[Site], coordinates: CoordinateMap) -> None:
        """
        Args:
            model: a Hugging Face causal language model; its parameters are frozen here.
            sites: the linears to adapt; the lowest layer among them is the tap layer.
            coordinates: the map from pooled states to z.
        """
        model.requires_grad_(False)
        self.model, self.sites = model, list(sites)
        self.coordinates = coordinates.to(model.device)
        self.active: ActiveField | None = None
        self._pass = Pass()
        tap = decoder_layers(model)[min(site.layer for site in sites)]
        self._handles = [tap.register_forward_pre_hook(self._read_coordinate, with_kwargs=True)]
        for site, linear in zip(self.sites, linears(model, self.sites), strict=True):
            self._handles.append(linear.register_forward_hook(self._adding(site)))

    @property
    def z(self) -> Tensor | None:
        """Coordinates of the last prompts seen, float32 [batch, dim]."""
        return self._pass.z

    @contextmanager
    def prompts(self, mask: Tensor) -> Iterator[None]:
        """A block whose first forward pass reads the coordinates; later ones keep the gates.

        Args:
            mask: bool [batch, tokens] of that first pass, True at the prompt's own tokens.
        """
        self._pass = Pass(prompt=mask)
        try:
            yield
        finally:
            self._pass = Pass(z=self._pass.z)

    def detach(self) -> None:
        """Removes every hook: the model is as it was."""
        for handle in self._handles:
            handle.remove()

    def _read_coordinate(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        now = self._pass
        if now.prompt is None or now.z is not None:
            return
        states = args[0] if args else kwargs["hidden_states"]
        with torch.no_grad():
            now.z = self.coordinates(pool(states, now.prompt))
        if self.active is not None:
            now.gates = self.active.row_gates(now.z)

    def _adding(self, site: Site) -> Callable[[nn.Module, tuple, Tensor], Tensor | None]:
        name, layer = site.name, site.layer

        def add(module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
            active = self.active
            if active is None:
                return None
            low = nn.functional.linear(args[0], active.down[name]) * self._pass.gates[layer]
            return output + nn.functional.linear(low, active.up[name])

        return add
