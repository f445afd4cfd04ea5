"""Who owns a held-out prompt if no task is given? Capabilities are added one after another.

    python benchmarks/routing.py DATA_DIR [--states DIR]

DATA_DIR holds code.jsonl, shell.jsonl and instruct.jsonl; the other tasks are made from files on
the machine (tasks.py, examples/stdlib_data.py). The last 200 prompts of each are held out. Nothing
is trained: a region's place depends on its prompts alone. 900 prompts per task are drawn, three
times. --states caches the backbone's states for the prompts, which take most of the time.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from common import HELD_OUT, data_folder, markdown, write_results
from densities import (
    HalfShrunk,
    Mahalanobis,
    Mixture,
    NearestMean,
    Ridge,
    SharedCovariance,
    StudentT,
)
from states import States, task_states
from torch import Tensor

from niwfctl.field.cell import FREEDOM, SLACK, Cell
from niwfctl.field.coordinates import CoordinateMap
from niwfctl.field.region import FOLDS, OCCUPIED_ANCHORS
from niwfctl.field.routing import BASE, Claim, locked, needed_margin, owners, shadowed, won

ROWS, DRAWS = 900, 3
GENERAL = "instruct"
FIVE = ("code", "shell", "stdlib-code", "german", "packages")
LAST, FIRST = (*FIVE, GENERAL), (GENERAL, *FIVE)
EIGHT = (*FIVE, "stdlib-explain", "manual", GENERAL)
UNSEEN = ("arithmetic", "extraction", "changes", GENERAL)
NEIGHBOURS = ("sql", "french")  # never trained, but near trained ones: code contains SQL too


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=data_folder)
    parser.add_argument("--states", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        states = task_states(arguments.data, arguments.states or Path(scratch))
    kept = Setting()
    orders = {name: several(kept, states, order) for name, order in ORDERS.items()}
    compared = {label: summary(setting, states) for label, setting in COMPARED.items()}
    compared |= {label: router_summary(make, states) for label, make in ROUTERS.items()}
    results = {"setting": vars(kept) | {"density": "Cell"}, "orders": orders, "compared": compared}
    write_results("routing", results, report(orders, compared))


@dataclass(frozen=True)
class Setting:
    """One way to route; the defaults are what the product does."""

    states: str = "mean4"
    dim: int = 128
    prompts: int | None = None  # the first of the calibration set
    density: type[Cell] = Cell
    freedom: float | None = FREEDOM  # of the base's Student t; None: a Gaussian
    coverage: float = 0.99
    slack: float = SLACK
    max_takeover: float = 0.02
    max_base_takeover: float = 0.05
    neighbourhoods: bool = True
    whitened: bool = True
    rows: int = ROWS
    fresh: bool = True  # anchors are scored by cells fitted without them


class Field:
    """Claims that are added one after another."""

    def __init__(self, setting: Setting, states: States, draw: int) -> None:
        self.setting, self.draw = setting, draw
        self.names: list[str] = []
        self.claims: list[Claim] = []
        self.facts: list[dict[str, float]] = []
        general = self._pooled(states["calibration"])[: setting.prompts]
        self._map = CoordinateMap.fit(general, setting.dim)
        if not setting.whitened:
            lengths = self._map.projection.norm(dim=1, keepdim=True)
            self._map = replace(self._map, projection=self._map.projection / lengths)
        self.anchors = self._map(general)
        self.base, self.scores = setting.density.cross_fit(self.anchors, freedom=setting.freedom)

    def z(self, states: dict[str, Tensor]) -> Tensor:
        """Coordinates of a task's prompts."""
        return self._map(self._pooled(states))

    def add(self, name: str, states: dict[str, Tensor], general: bool) -> None:
        """Adds a capability, as `commit` does."""
        setting, z = self.setting, self.z(states)[:-HELD_OUT]
        random = torch.Generator().manual_seed(1000 + self.draw)
        z = z[torch.randperm(len(z), generator=random)[: setting.rows]]
        held_out = torch.arange(len(z)) % 10 == 0
        cell = setting.density.fit(z[~held_out], z[held_out], setting.coverage)
        cell = replace(cell, radius=cell.radius * setting.slack / SLACK)
        leads = cell.log_density(self.anchors) - self.scores
        margin = needed_margin(cell, self.anchors, self.scores, setting.max_base_takeover)
        seen = z[~held_out].double()
        fresh = setting.density.cross_fit(seen, FOLDS, freedom=None)[1] if setting.fresh else None
        claim = Claim(
            cell,
            0.0,
            seen[:OCCUPIED_ANCHORS],
            margin=0.0 if general else margin,
            general=general,
            fresh=None if fresh is None else fresh[:OCCUPIED_ANCHORS],
        )
        if setting.neighbourhoods or setting.max_takeover > 0:
            claim, _ = locked(claim, self.claims, setting.max_takeover)
        else:
            needed = [float((1e-6 + lead_of(claim, one)).max()) for one in self.claims]
            claim = replace(claim, bias=max([0.0, *needed]))
        taken = [won(claim, one).double().mean().item() for one in self.claims]
        owned = shadowed(claim, self.claims, self.base)
        self.facts.append(
            {
                "bias": claim.bias,
                "margin": claim.margin,
                "takeover": max(taken, default=0.0),
                "base_takeover": (leads > claim.margin).double().mean().item(),
                "shadow": (owned != len(self.claims)).double().mean().item(),
                "ceded": claim.ceded_share(),
            }
        )
        self.names.append(name)
        self.claims.append(claim)

    def shares(self, states: dict[str, Tensor]) -> dict[str, float]:
        """Who owns the held-out prompts of a task, as shares."""
        owned = owners(self.z(states)[-HELD_OUT:], self.base, self.claims)
        found = {"base": (owned == BASE).double().mean().item()}
        return found | {
            name: (owned == index).double().mean().item() for index, name in enumerate(self.names)
        }

    def _pooled(self, states: dict[str, Tensor]) -> Tensor:
        return torch.cat([states[key] for key in self.setting.states.split("+")], dim=1)


def lead_of(claim: Claim, earlier: Claim) -> Tensor:
    """By how much a claim without a bias outbids an earlier one at its anchors."""
    return replace(claim, bias=0.0).bid(earlier.anchors) - earlier.own_scores


def field(setting: Setting, states: States, order: Sequence[str], draw: int) -> Field:
    """All tasks of an order added; the general one claims the base's cell."""
    made = Field(setting, states, draw)
    for name in order:
        made.add(name, states[name], general=name == GENERAL)
    return made


def several(setting: Setting, states: States, order: Sequence[str]) -> dict[str, object]:
    """Shares and facts of an order, each a list with one entry per draw."""
    fields = [field(setting, states, order, draw) for draw in range(DRAWS)]
    others = [name for name in (*UNSEEN, *NEIGHBOURS) if name not in order]
    return {
        "owners": {
            name: [made.shares(states[name]) for made in fields] for name in (*order, *others)
        },
        "facts": {name: [f.facts[index] for f in fields] for index, name in enumerate(order)},
    }


def right(found: dict[str, object], order: Sequence[str]) -> list[float]:
    """Mean share of the prompts of an order's tasks that went to their owner, one per draw."""
    shares = found["owners"]
    return [sum(shares[name][draw][name] for name in order) / len(order) for draw in range(DRAWS)]


def stayed(found: dict[str, object], names: Sequence[str] = UNSEEN) -> dict[str, float]:
    """Share of each unseen task's prompts that stayed with the base, averaged over the draws."""
    return {n: sum(one["base"] for one in found["owners"][n]) / DRAWS for n in names}


def summary(setting: Setting, states: States) -> dict[str, object]:
    """The figures of a row of the comparison."""
    last, first = (several(setting, states, order) for order in (LAST, FIRST))
    unseen = stayed(several(setting, states, FIVE))
    return {"last": right(last, LAST), "first": right(first, FIRST), "unseen": unseen}


Router = Ridge | NearestMean


def router_summary(make: type[Router], states: States) -> dict[str, object]:
    """The same for a router that knows no order, with a margin that also leaves the base 95%."""
    by_name = {name: one[KEPT.states] for name, one in states.items()}
    drawn, unseen = [], dict.fromkeys(UNSEEN, 0.0)
    for draw in range(DRAWS):
        seen = torch.arange(len(by_name["calibration"])) % 5 != 0
        router = make(by_name["calibration"][seen])
        random = torch.Generator().manual_seed(1000 + draw)

        def owned(task: Tensor, router: Router = router, seen: Tensor = seen) -> Tensor:
            margin = router.leads(by_name["calibration"][~seen]).amax(1).quantile(0.95)
            lead, index = router.leads(task[-HELD_OUT:]).max(1)
            return torch.where(lead > margin.clamp_min(0), index, BASE)

        for name in FIVE:
            pool = by_name[name][:-HELD_OUT]
            router.add(pool[torch.randperm(len(pool), generator=random)[:ROWS]])
        # the general one gets what no other claims, and needs no class of its own
        place = {name: index for index, name in enumerate(FIVE)} | {GENERAL: BASE}
        shares = [(owned(by_name[n]) == k).double().mean().item() for n, k in place.items()]
        for name in UNSEEN:
            unseen[name] += (owned(by_name[name]) == BASE).double().mean().item() / DRAWS
        drawn.append(sum(shares) / len(shares))
    return {"last": drawn, "first": drawn, "unseen": unseen}


ORDERS = {
    "the general one last": LAST,
    "the general one first": FIRST,
    "five, none general": FIVE,
    "eight, near-duplicates among them": EIGHT,
}
KEPT = Setting()
COMPARED = {
    "what was kept": KEPT,
    "before: layer 6, d = 32, 496 calibration prompts, 95% cells, no margin over the base": replace(
        KEPT,
        states="mean6",
        dim=32,
        prompts=496,
        coverage=0.95,
        slack=1.0,
        max_base_takeover=1.0,
        freedom=None,
    ),
    "calibration: the first 496 prompts": replace(KEPT, prompts=496),
    "calibration: every prompt, but the map not whitened": replace(KEPT, whitened=False),
    "no margin over the base": replace(KEPT, max_base_takeover=1.0),
    "margin: 2% of the base's anchors": replace(KEPT, max_base_takeover=0.02),
    "margin: 10% of the base's anchors": replace(KEPT, max_base_takeover=0.10),
    "cells: 95%": replace(KEPT, coverage=0.95, slack=1.0),
    "cells: 99%, no slack": replace(KEPT, slack=1.0),
    "d = 16": replace(KEPT, dim=16),
    "d = 32": replace(KEPT, dim=32),
    "d = 64": replace(KEPT, dim=64),
    "d = 192": replace(KEPT, dim=192),
    "layer 2": replace(KEPT, states="mean2"),
    "layer 6": replace(KEPT, states="mean6"),
    "the last token's state": replace(KEPT, states="last4"),
    "mean and last token's state": replace(KEPT, states="mean4+last4"),
    "four Gaussians a region, and for the base": replace(KEPT, density=Mixture),
    "a Gaussian for the base, too": replace(KEPT, freedom=None),
    "Student's t for regions, too": replace(KEPT, density=StudentT),
    "shrunk half-way": replace(KEPT, density=HalfShrunk),
    "one covariance for all": replace(KEPT, density=SharedCovariance),
    "200 prompts a task": replace(KEPT, rows=200),
    "anchors looked at by the cell fitted to them": replace(KEPT, fresh=False),
    "the same, 200 prompts a task": replace(KEPT, fresh=False, rows=200),
    "max_takeover 0": replace(KEPT, max_takeover=0.0),
    "max_takeover 0, without neighbourhoods": replace(KEPT, max_takeover=0.0, neighbourhoods=False),
}

ROUTERS: dict[str, type[Router]] = {
    "a ridge-regression router, 2,000 random features": Ridge,
    "the nearest mean of standardized states": NearestMean,
    "the nearest mean, by the covariance within tasks": Mahalanobis,
}


def spread(values: Sequence[float]) -> str:
    """Mean and half the range, in percent."""
    mean = sum(values) / len(values)
    return f"{mean:.1%} ± {50 * (max(values) - min(values)):.1f}"


INTRODUCTION = (
    f"Where {HELD_OUT} held-out prompts of each task go. Nothing is trained: a region's place "
    f"depends on its prompts alone. {DRAWS} times, {ROWS} prompts of each task are drawn, and "
    "regions are added in the order of the columns; ± is half the range of the draws. The general "
    "one is `instruct`, which also answers what the base would. Biases and margins are in nats; a "
    "shadow is the share of a region's own prompts that earlier ones keep. Under *Compared*, one "
    "thing at a time is other than in what was kept; slack is the factor on a cell's radius."
)


def report(orders: dict[str, dict], compared: dict[str, dict]) -> str:
    """All tables."""
    parts = []
    for label, order in ORDERS.items():
        found = orders[label]
        mean = spread(right(found, order))
        parts += [f"## {label.capitalize()}: {mean} go to their owner", confusion(found, order)]
        parts.append(facts(found))
    rows = [
        [label, spread(one["last"]), spread(one["first"]), *map("{:.1%}".format, values)]
        for label, one in compared.items()
        for values in [one["unseen"].values()]
    ]
    columns = ["", "six, general last", "six, general first", *(f"{n} to base" for n in UNSEEN)]
    return "\n\n".join([INTRODUCTION, *parts, "## Compared", markdown(columns, rows)])


def confusion(found: dict[str, object], order: Sequence[str]) -> str:
    """Which task's held-out prompts go where, averaged over the draws."""
    rows = [
        [name if name in order else f"{name} (unseen)"]
        + [f"{sum(one[owner] for one in draws) / DRAWS:.1%}" for owner in ("base", *order)]
        for name, draws in found["owners"].items()
    ]
    return markdown(["held-out prompts of", "base", *order], rows)


def facts(found: dict[str, object]) -> str:
    """What the lock settled, averaged over the draws."""

    def mean(draws: list[dict[str, float]], key: str) -> float:
        return sum(one[key] for one in draws) / DRAWS

    rows = [
        [name, f"{mean(draws, 'bias'):.1f}", f"{mean(draws, 'margin'):.1f}"]
        + [f"{mean(draws, key):.1%}" for key in ("takeover", "base_takeover", "shadow")]
        for name, draws in found["facts"].items()
    ]
    columns = ["added", "bias", "margin", "most taken of an earlier one", "of the base", "shadow"]
    return markdown(columns, rows)


if __name__ == "__main__":
    main()
