"""What a lock keeps of a task, and what not: measured against copies made at commit."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from niwfctl.field.basis import Basis
from niwfctl.field.cell import Cell
from rivals.protocol import part, under

WITNESSES = 64  # coordinates at which changes of weights are measured, of each kind


@dataclass(frozen=True)
class Remembered:
    """What is kept of a committed task.

    Attributes:
        cell: Gaussian of the occupied coordinates.
        anchors: float32 [anchors, dim], from its 95% ellipsoid.
        gates: the snapshot there, [anchors, layers, bases].
        generator, bank: copies as they were at commit; no training sees them.
        test_z: coordinates of the task's held-out prompts at commit.
    """

    cell: Cell
    anchors: Tensor
    gates: Tensor
    generator: nn.Module
    bank: Sequence[Basis]
    test_z: Tensor

    def locked(self) -> dict[str, Tensor]:
        """What the lock itself needs."""
        return under("cell", self.cell.tensors()) | {"anchors": self.anchors, "gates": self.gates}

    def measured(self) -> dict[str, Tensor]:
        """What is only needed to measure."""
        state = under("generator", self.generator.state_dict()) | {"test_z": self.test_z}
        for index, basis in enumerate(self.bank):
            state |= under(f"bank.{index}", basis.tensors())
        return state

    @classmethod
    def now(
        cls,
        cell: Cell,
        anchors: Tensor,
        generator: nn.Module,
        bank: Sequence[Basis],
        test_z: Tensor,
    ) -> Remembered:
        """A copy of what a task is now."""
        return cls(
            cell,
            anchors,
            generator(anchors),
            copy.deepcopy(generator),
            [Basis.from_tensors({k: v.clone() for k, v in one.tensors().items()}) for one in bank],
            test_z,
        )

    @classmethod
    def of(
        cls, locked: dict[str, Tensor], measured: dict[str, Tensor], like: nn.Module
    ) -> Remembered:
        """What `locked` and `measured` described."""
        generator = copy.deepcopy(like)
        generator.load_state_dict(part(measured, "generator"))
        count = len({key.split(".")[1] for key in measured if key.startswith("bank.")})
        bank = [Basis.from_tensors(part(measured, f"bank.{index}")) for index in range(count)]
        cell = Cell.from_tensors(part(locked, "cell"))
        return cls(cell, locked["anchors"], locked["gates"], generator, bank, measured["test_z"])


def drift(
    then: Remembered, generator: nn.Module, bank: Sequence[Basis], test_z: Tensor
) -> dict[str, float]:
    """How far a task has moved since it was committed.

    Args:
        then: what it was.
        generator, bank: what they are now.
        test_z: coordinates of its held-out prompts now.

    Returns:
        gates_at_anchors, gates_between, gates_of_prompts: mean absolute change of a gate, whose
            mean is k / bases; `between` takes fresh samples of the ellipsoid, `of_prompts` the
            held-out prompts where they lie now against where they lay then.
        weights_at_anchors, weights_between, weights_of_prompts: ‖ΔW′ − ΔW‖ / ‖ΔW‖ over all sites,
            the mean over 64 coordinates.
        moved: mean Mahalanobis distance that z of a held-out prompt has moved, in radii.
        inside_then, inside_now: share of held-out prompts in the ellipsoid.
        rerouted: share of held-out prompts and layers whose open gates are different now.
    """
    fresh = then.cell.sample(len(then.anchors), seed=12345).to(then.anchors)
    places = {
        "at_anchors": (then.anchors, then.anchors),
        "between": (fresh, fresh),
        "of_prompts": (then.test_z, test_z),
    }
    found: dict[str, float] = {}
    for kind, (before, now) in places.items():
        old, new = then.generator(before), generator(now)
        found[f"gates_{kind}"] = float((new - old).abs().mean())
        found[f"weights_{kind}"] = weights_change(
            (old[:WITNESSES], then.bank), (new[:WITNESSES], bank)
        )
    opened = (then.generator(then.test_z) > 0) != (generator(test_z) > 0)
    gone = then.cell.distance(test_z.cpu() - then.test_z.cpu() + then.cell.mean)
    return found | {
        "moved": float((gone / then.cell.radius).mean()),
        "inside_then": float(then.cell.contains(then.test_z.cpu()).double().mean()),
        "inside_now": float(then.cell.contains(test_z.cpu()).double().mean()),
        "rerouted": float(opened.any(-1).double().mean()),
    }


def weights_change(
    old: tuple[Tensor, Sequence[Basis]], new: tuple[Tensor, Sequence[Basis]]
) -> float:
    """Mean over coordinates of ‖ΔW′ − ΔW‖ / ‖ΔW‖, over all sites together.

    The change g′B′A′ − gBA is split into (g′ − g)BA + g′(B′ − B)A + g′B′(A′ − A), each of
    which is exactly zero where nothing changed. Norms of such sums come from Gram matrices:
    ‖Σ_b w_b U_b V_b‖² = wᵀ (UᵀU ∘ VVᵀ) w.

    Args:
        old, new: gates [coordinates, layers, bases], and the bases that they weight.
    """
    (old_gates, old_bank), (new_gates, new_bank) = old, new
    rank = old_bank[0].rank
    before, now = (
        gates.double().repeat_interleave(rank, dim=-1) for gates in (old_gates, new_gates)
    )
    weights = torch.cat([now - before, now, now], dim=-1)
    names = list(old_bank[0].down)
    layers = sorted({_layer(name) for name in names})
    change, norm = torch.zeros(2, len(weights), dtype=torch.float64, device=weights.device)
    for name in names:
        (down, up), (down_now, up_now) = (_stacked(bank, name) for bank in (old_bank, new_bank))
        layer = layers.index(_layer(name))
        ups = torch.cat([up, up_now - up, up_now], dim=1)
        downs = torch.cat([down, down, down_now - down])
        change += _square_norm(weights[:, layer], ups, downs)
        norm += _square_norm(before[:, layer], up, down)
    return float((change.clamp_min(0) / norm).sqrt().mean())


def _stacked(bank: Sequence[Basis], name: str) -> tuple[Tensor, Tensor]:
    """(A [Σ ranks, in], B [out, Σ ranks]) of a site, float64."""
    down = torch.cat([basis.down[name] for basis in bank]).double()
    return down, torch.cat([basis.up[name] for basis in bank], dim=1).double()


def _square_norm(weights: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """‖up · diag(w) · down‖² for each row w of weights."""
    gram = (up.T @ up) * (down @ down.T)
    return ((weights @ gram) * weights).sum(-1)


def _layer(name: str) -> int:
    return int(name.split(".")[1])
