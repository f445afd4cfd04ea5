"""The field inside a Hugging Face model, in one forward pass.

A hook at the tap layer pools the prompt's states, maps them to the coordinate z and asks the
active field for its gates; each adapted linear then adds (α/r) Σ_b g_b(z) B_b A_b x to the output
of its frozen weight. The model's own modules and weights are not changed, and while nothing is
active the linears compute exactly what they did before: the logits are the bare backbone's, bit for
bit. The linears' `forward` is wrapped rather than hooked, because calling a hook costs more, which
matters in decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial, wraps
from typing import NoReturn, Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from niwfctl.backbone.batch import fitted, on, require_prompts
from niwfctl.backbone.decoding import DecodeBuffers, Group, Workspaces
from niwfctl.backbone.sites import SiteGroup, decoder_layers, linears, shared_inputs
from niwfctl.errors import UsageError
from niwfctl.field.basis import Basis, Site
from niwfctl.field.coordinates import CoordinateMap, pool
from niwfctl.field.frozen import FrozenSum
from niwfctl.field.region import Region


@dataclass(frozen=True)
class Factors:
    """The bases, stacked so that a group needs one product with A and a site one with B.

    Attributes:
        down: for each group A of all its sites and all bases, [sites · Σ ranks, in].
        up: B of all bases by site name, [out, Σ ranks].
    """

    down: list[Tensor]
    up: dict[str, Tensor]

    @classmethod
    def stack(cls, groups: Sequence[SiteGroup], bases: Sequence[Basis]) -> Factors:
        """Stacks the bases along their ranks."""
        sites = [site.name for group in groups for site in group]
        return cls(
            [
                torch.cat([basis.down[site.name] for site in group for basis in bases])
                for group in groups
            ],
            {name: torch.cat([basis.up[name] for basis in bases], dim=1) for name in sites},
        )

    @classmethod
    def join(cls, groups: Sequence[SiteGroup], parts: Sequence[Factors]) -> Factors:
        """The same as `stack` of the bases of all parts, in their order."""
        downs = zip(*(part.down for part in parts), strict=True)
        return cls(
            [_site_by_site(group, of_group) for group, of_group in zip(groups, downs, strict=True)],
            {name: torch.cat([part.up[name] for part in parts], dim=1) for name in parts[0].up},
        )

    @cached_property
    def decoding(self) -> Factors:
        """The same for passes of a single token, made at the first such pass.

        On a CPU, bf16 products of a single token spend 18 µs or more on dispatch where float32
        ones take 4 in total.
        """
        return self.for_single_rows() if self.down[0].device.type == "cpu" else self

    def for_single_rows(self) -> Factors:
        """A float32 copy whose transposes are contiguous, which halves the time of products."""
        return Factors(
            [_in_columns(down) for down in self.down],
            {name: _in_columns(up) for name, up in self.up.items()},
        )


def _site_by_site(group: SiteGroup, downs: Sequence[Tensor]) -> Tensor:
    parts = zip(*(down.chunk(len(group)) for down in downs), strict=True)
    return torch.cat([part for of_site in parts for part in of_site])


def _in_columns(factor: Tensor) -> Tensor:
    return factor.T.float().contiguous().T


@dataclass
class ActiveField:
    """A field that acts on the model: gates as a function of z, over stacked bases.

    Attributes:
        gates: z [batch, dim] → float [batch, layers, bases].
        ranks: rank of each basis; its gate is repeated for each of its rows.
        scale: α/r.
        factors: the bases.
        buffers: what passes of a single token compute with, made at the first one.
    """

    gates: Callable[[Tensor], Tensor]
    ranks: tuple[int, ...]
    scale: float
    factors: Factors
    buffers: DecodeBuffers | None = None

    @classmethod
    def of(
        cls,
        groups: Sequence[SiteGroup],
        bases: Sequence[Basis],
        gates: Callable[[Tensor], Tensor],
        scale: float,
    ) -> ActiveField:
        """A field over bases, which may be trainable."""
        ranks = tuple(basis.rank for basis in bases)
        return cls(gates, ranks, scale, Factors.stack(groups, bases))

    @classmethod
    def of_region(cls, groups: Sequence[SiteGroup], region: Region) -> ActiveField:
        """The field of a sealed region; it keeps only the generator of the region alive."""
        return cls.of(groups, region.bases, region.generator, region.scale)

    @classmethod
    def of_frozen(
        cls, groups: Sequence[SiteGroup], change: FrozenSum, device: torch.device
    ) -> ActiveField:
        """A field whose gates are the same for every prompt."""
        gates = change.gates.to(device)
        bases = [basis.to(device=device, dtype=basis.dtype) for basis in change.bases]
        return cls.of(groups, bases, lambda z: gates.expand(len(z), -1, -1), 1.0)

    def at(self, z: Tensor) -> ActiveField:
        """The field for prompts at z: this one, whatever z is."""
        return self

    def row_gates(self, z: Tensor) -> Tensor:
        """Scaled gates, float32 [layers, batch, 1, Σ ranks]."""
        gates = _for_each_row(self.gates(z) * self.scale, self.ranks)
        return gates.transpose(0, 1).unsqueeze(2)


def _for_each_row(gates: Tensor, ranks: tuple[int, ...]) -> Tensor:
    """Each basis's gate for each of its rows, [..., bases] → [..., Σ ranks].

    Where all ranks are the same, a GPU need not be sent them, and adds up gradients in one order.
    A CPU adds them up as it always has, so that trainings keep their bits.
    """
    if gates.device.type != "cpu" and len(set(ranks)) == 1:
        return gates.repeat_interleave(ranks[0], dim=-1)
    repeats = torch.tensor(ranks, device=gates.device)
    return gates.repeat_interleave(repeats, dim=-1, output_size=sum(ranks))


class FieldRouter(Protocol):
    """Chooses the field for a batch of prompts."""

    def at(self, z: Tensor) -> ActiveField | None:
        """The field for prompts at z [batch, dim]; None for the bare backbone."""


@dataclass
class Pass:
    """The state of the current forward pass.

    Attributes:
        known: coordinates, by row, that were read before.
        decoding: compute the changes, one for each group, in a pass of a single token per prompt;
            None in passes of more tokens.
    """

    prompt: Tensor | None = None
    known: Mapping[int, Tensor] = field(default_factory=dict)
    z: Tensor | None = None
    active: ActiveField | None = None
    gates: Tensor | None = None
    tiled: dict[tuple, Tensor] = field(default_factory=dict)
    decoding: list[Group] | None = None

    def gates_of(self, layer: int, sites: int, dtype: torch.dtype) -> Tensor:
        """Gates of one layer for a group of `sites` sites, [batch, 1, sites · Σ ranks]."""
        key = (layer, sites, dtype)
        if key not in self.tiled:
            self.tiled[key] = self.gates[layer].repeat(1, 1, sites).to(dtype)
        return self.tiled[key]


class FieldAdapter:
    """Attaches a field to a frozen model.

    Attributes:
        active: the field that acts, a router that chooses one by z, or None for the bare backbone.
        groups: the adapted sites, grouped by shared input.
        layers: the adapted layers, in the order of the gates.
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
        self.groups = shared_inputs(model, self.sites)
        self.layers = tuple(sorted({site.layer for site in self.sites}))
        self.coordinates = coordinates.to(model.device)
        self.active: ActiveField | FieldRouter | None = None
        self._pass = Pass()
        self._workspaces: Workspaces = WeakValueDictionary()  # fields keep theirs alive
        self._own: dict[nn.Module, Callable] = {}  # each wrapped module's forward
        self._shared = [_SharedProduct(self, *pair) for pair in enumerate(self.groups)]
        tap = decoder_layers(model)[self.layers[0]]
        self._handle = tap.register_forward_pre_hook(self._read_coordinate, with_kwargs=True)
        for shared, group in zip(self._shared, self.groups, strict=True):
            for place, module in enumerate(linears(model, group)):
                self.wrap(module, partial(shared.adding, place))

    def __reduce__(self) -> NoReturn:
        """Refuses `copy.deepcopy` and `torch.save` of the model too, whose hook refers to this.

        Raises:
            UsageError: always; the copy's linears would compute with the original's weights.
        """
        raise UsageError(
            "a model with a field inside it can be neither copied nor pickled: close it with "
            "`Model.close()` first, or load another with transformers' `from_pretrained`"
        )

    @property
    def z(self) -> Tensor | None:
        """Coordinates of the most recent prompts, float32 [batch, dim]."""
        return self._pass.z

    @contextmanager
    def prompts(self, mask: Tensor, known: Mapping[int, Tensor] | None = None) -> Iterator[None]:
        """A block whose first forward pass reads the coordinates; later passes reuse its gates.

        Args:
            mask: bool [batch, tokens] of that first pass, True at the prompt's own tokens; on the
                CPU, nothing waits for a GPU. A row counts for all copies that beam search makes of
                it, and tokens beyond the mask, such as candidates, are not the prompt's.
            known: coordinates [dim], by row, that were read before: the mask of these rows does not
                matter.

        Raises:
            UsageError: it is no such tensor, or has no True in some row; in the first pass, if that
                has other rows, or fewer tokens.
        """
        known = known or {}
        require_prompts(mask, known)
        self._pass = Pass(prompt=on(self.model.device, mask.bool())[0], known=known)
        try:
            yield
        finally:  # a pass that raised left its activations in the groups
            for group in [*self._shared, *(self._pass.decoding or ())]:
                group.forget()
            self._pass = Pass(z=self._pass.z)

    def repeated(self) -> AbstractContextManager[None]:
        """A block, to be entered later, in which the current pass can be computed again."""
        now = self._pass

        @contextmanager
        def block() -> Iterator[None]:
            # The second computation must not see what the first one cached for later layers.
            before, self._pass = self._pass, replace(now, tiled={})
            try:
                yield
            finally:
                self._pass = before

        return block()

    def wrap(self, module: nn.Module, around: Callable[[Callable], Callable]) -> None:
        """Replaces a module's forward until `detach`; a second wrapper replaces the first.

        Args:
            around: returns the new forward, given the module's own.
        """
        module.forward = around(self._own.setdefault(module, module.forward))

    def detach(self) -> None:
        """Removes the field: the model is as before, and is freed once nothing refers to it."""
        self._handle.remove()
        for module, own in self._own.items():
            del module.forward  # or the module would refer to itself
            if module.forward != own:
                module.forward = own
        self._own, self._shared = {}, []  # which refer to this adapter

    def _read_coordinate(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        now = self._pass
        if now.prompt is None:
            if self.active is not None:
                raise UsageError(
                    "a capability is active, but nothing says which tokens are the prompt's: call "
                    "the model within `with model.adapter.prompts(mask)`, as docs/library.md shows "
                    'under "With transformers\' own methods", or choose the base with '
                    "`model.use(None)`"
                )
            return
        states = args[0] if args else kwargs["hidden_states"]
        if now.z is None:
            self._enter(now, states)
        now.decoding = None
        if now.active is not None and states.shape[-2] == 1 and not torch.is_grad_enabled():
            now.decoding = self._buffers(now.active, now.gates, states.dtype)

    def _enter(self, now: Pass, states: Tensor) -> None:
        with torch.no_grad():
            now.z = self.coordinates(pool(states, fitted(now.prompt, states)))
            each = now.z.unflatten(0, (len(now.prompt), -1))  # the copies of each row
            for row, z in now.known.items():
                each[row] = z
        now.active = self.active.at(now.z) if self.active is not None else None
        if now.active is not None:
            now.gates = now.active.row_gates(now.z)

    def _buffers(self, active: ActiveField, gates: Tensor, dtype: torch.dtype) -> list[Group]:
        factors, buffers = active.factors.decoding, active.buffers
        if buffers is None or buffers.gates.shape != gates.shape:
            groups = [
                (shared.layer, down, [factors.up[name] for name in shared.names])
                for shared, down in zip(self._shared, factors.down, strict=True)
            ]
            own = gates.to(factors.down[0].dtype)
            buffers = active.buffers = DecodeBuffers(groups, own, dtype, self._workspaces)
        buffers.gates.copy_(gates)
        return buffers.groups


class _SharedProduct:
    """g · A x of one group, computed at its first site and kept until its last."""

    def __init__(self, adapter: FieldAdapter, index: int, group: SiteGroup) -> None:
        self.adapter, self.index = adapter, index
        self.names = [site.name for site in group]
        self.layer = adapter.layers.index(group[0].layer)
        self.input: Tensor | None = None
        self.parts: tuple[Tensor, ...] = ()

    def adding(self, place: int, frozen: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """The forward of the group's site at `place`: its own output plus the field's change."""
        adapter, index, name = self.adapter, self.index, self.names[place]
        last = place == len(self.names) - 1

        @wraps(frozen)
        def forward(states: Tensor) -> Tensor:
            now = adapter._pass
            if now.active is None:
                return frozen(states)
            if now.decoding is not None:
                return now.decoding[index].add(frozen(states), place, states)
            if self.input is not states:
                self._read(now, states)
            part = self.parts[place]
            if last:  # keep nothing alive longer than needed, even if the product raises
                self.forget()
            change = linear(part, now.active.factors.up[name])
            output = frozen(states)
            if torch.is_grad_enabled():
                return output + change.to(output.dtype)
            return output.add_(change)

        return forward

    def forget(self) -> None:
        """Drops the last input and product."""
        self.input, self.parts = None, ()

    def _read(self, now: Pass, states: Tensor) -> None:
        down = now.active.factors.down[self.index]
        gates = now.gates_of(self.layer, len(self.names), down.dtype)
        low = linear(states.to(down.dtype), down) * gates
        self.input, self.parts = states, low.chunk(len(self.names), dim=-1)
