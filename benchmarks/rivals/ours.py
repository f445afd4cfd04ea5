"""niwfctl itself: its trainer, its sealed regions, its routing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache

import torch
from common import BROAD
from torch import Tensor

from niwfctl.atlas import Terms
from niwfctl.backbone.adapter import ActiveField, Factors, FieldAdapter
from niwfctl.backbone.batch import batched, pad, prompt_mask
from niwfctl.backbone.blend import Blend
from niwfctl.backbone.calibration import calibrate, default_dim, pooled
from niwfctl.backbone.prompts import Tokens
from niwfctl.backbone.sites import find_sites
from niwfctl.field.basis import Basis
from niwfctl.field.region import Region
from niwfctl.field.routing import BASE, Claim, locked, needed_margin, owners, shadowed
from niwfctl.training.loop import Trainer
from niwfctl.training.run import Run
from rivals.drift import Remembered, drift
from rivals.loop import answers_of
from rivals.protocol import GIVEN, OPEN, Answers, Method, Setting, Task, part, under

TOGETHER = 8  # rows that are answered in one pass


class Niwfctl(Method):
    """A region a task, as `train` and `commit` make it; asked by name, or with --auto.

    With --auto the base may own a prompt too, which no rival's router has to handle.
    """

    name = "niwfctl"
    ways = (GIVEN, OPEN)

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        dim = default_dim(self.backbone)
        self.made = calibrate(self.backbone, self.tap_layer, dim, lambda done, total: None)
        self.base, self.skip = self.made.base, self.made.skip
        sites = find_sites(self.model, self.tap_layer)
        self.adapter = FieldAdapter(self.model, sites, self.made.coordinates)
        self.regions: dict[str, Region] = {}
        self.claims: list[Claim] = []
        self.shadows: dict[str, float] = {}
        self.remembered: dict[str, Remembered] = {}
        self._resident: dict[str | None, ActiveField | Blend] = {}

    def learn(self, task: Task) -> float:
        trainer = Trainer(self.adapter, self.skip, self._run(task), task.training, task.validation)
        started = time.perf_counter()
        for _ in range(self.options.steps):
            trainer.step()
            trainer.run.step += 1
        seconds = time.perf_counter() - started
        region = self._sealed(trainer)
        self.commit(task.name, region)
        self.remembered[task.name] = Remembered.now(
            region.cell, region.sampled, region.generator, region.bases, self._places(task.test)
        )
        return seconds

    def commit(self, name: str, region: Region) -> None:
        """Adds a region, with the smallest bias and margin that the routing lock allows."""
        anchors, scores = self.made.anchors, self.made.scores
        margin, general = 0.0, name in BROAD
        if not general:
            margin = needed_margin(region.cell, anchors, scores, Terms(order=0).max_base_takeover)
        cell, anchors = region.cell, region.occupied
        claim = Claim(cell, 0.0, anchors, margin, general=general, fresh=region.fresh)
        claim, _ = locked(claim, self.claims, self.setting.max_takeover)
        owner = shadowed(claim, self.claims, self.base)
        taken = (owner >= 0) & (owner < len(self.claims))
        self.shadows[name] = float(taken.float().mean())
        self.regions[name] = region
        self.claims.append(claim)
        self._resident.pop(None, None)

    def answers(self, rows: Sequence[Tokens], task: str | None) -> Answers:
        self.adapter.active = self._acting(task)
        found = Answers.empty(len(rows))
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        for places in batched(order, TOGETHER):
            batch = [rows[index] for index in places]
            with self.adapter.prompts(self._prompts(batch)):
                found.put(places, answers_of(self.model, batch))
        return found

    def parameters(self) -> int:
        return self.budget

    def state(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = {}
        for name, region in self.regions.items():
            state |= under(f"sealed.{name}", _tensors(region))
            state |= under(f"measured.{name}", self.remembered[name].measured())
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        for name in self.setting.stream:
            if found := part(state, f"sealed.{name}"):
                region = self._region(found)
                self.commit(name, region)
                locked = under("cell", region.cell.tensors()) | {
                    "anchors": region.sampled,
                    "gates": region.snapshot[: len(region.sampled)],
                }
                measured = part(state, f"measured.{name}")
                self.remembered[name] = Remembered.of(locked, measured, region.generator)

    def bytes(self) -> int:
        """Size of the sealed objects as they are, with anchors and snapshots."""
        return sum(t.nbytes for key, t in self.state().items() if key.startswith("sealed."))

    def owners(self, rows: Sequence[Tokens]) -> list[str | None]:
        names = [*self.regions, None]  # BASE is the last
        owned = owners(self._places(rows), self.base, self.claims)
        return [names[index] for index in owned.tolist()]

    @torch.no_grad()
    def report(self, tasks: Sequence[Task]) -> dict[str, object]:
        """What the lock did not keep of each task, as for the paper's lock, and the shadows.

        A shadow is the share of a task's anchors that earlier tasks owned when it was committed.
        """
        found = {}
        for task in tasks:
            region, then = self.regions[task.name], self.remembered[task.name]
            z = self._places(task.test)
            found[task.name] = drift(then, region.generator, region.bases, z)
        return {"drift": found, "shadows": dict(self.shadows)}

    def _places(self, rows: Sequence[Tokens]) -> Tensor:
        """z of prompts, float32 [rows, dim]."""
        self.adapter.active = None
        prompts = [row.prompt for row in rows]
        states = [
            pooled(self.model, self.tap_layer, batch, self.skip)
            for batch in batched(prompts, TOGETHER)
        ]
        return self.adapter.coordinates(torch.cat(states).to(self.model.device)).cpu()

    def _acting(self, task: str | None) -> ActiveField | Blend | None:
        """What is active, resident as in the product after first use."""
        if task is not None and task not in self.regions:
            return None
        if task not in self._resident:
            self._resident[task] = self._routed() if task is None else self._field(task)
        return self._resident[task]

    def _field(self, task: str) -> ActiveField:
        region = self.regions[task].on(self.model.device)
        return ActiveField.of_region(self.adapter.groups, region)

    def _routed(self) -> Blend:
        names = list(self.regions)

        def shares(z: Tensor) -> Tensor:
            owner = owners(z, self.base, self.claims)
            return torch.nn.functional.one_hot(owner - BASE, 1 + len(names)).float()[:, 1:]

        @lru_cache(1)
        def factors(used: tuple[int, ...]) -> Factors:
            parts = [self._acting(names[index]).factors for index in used]
            return Factors.join(self.adapter.groups, parts)

        return Blend(shares, lambda index: self._acting(names[index]), factors)

    def _prompts(self, rows: Sequence[Tokens]) -> Tensor:
        width = pad([row.prompt + row.answer for row in rows]).shape[1]
        lengths = [len(row.prompt) for row in rows]
        return prompt_mask(lengths, width, self.skip).to(self.model.device)

    def _sealed(self, trainer: Trainer) -> Region:
        """What a commit would seal: bases in bf16, the cell's radius from unseen rows."""
        self.adapter.active = None
        unseen = trainer.scorer.score(trainer.held_out, self.options.batch_size).coordinates
        read = trainer.coordinates
        return Region.seal(
            trainer.generator.cpu(),
            tuple(
                basis.to(device="cpu", dtype=torch.bfloat16) for basis in _detached(trainer.bases)
            ),
            scale=self.options.alpha / self.options.rank,
            layers=self.adapter.layers,
            coordinates=read[~read.isnan().any(1)],
            held_out=unseen,
            seed=self.options.seed,
        )

    def _region(self, state: dict[str, Tensor]) -> Region:
        bases = [
            Basis.from_tensors(part(state, f"basis.{index}")) for index in range(self.options.bases)
        ]
        scale = self.options.alpha / self.options.rank
        tensors = part(state, "region")
        return Region.from_tensors(tensors, tuple(bases), scale, self.adapter.layers)

    def _run(self, task: Task) -> Run:
        return Run(
            id=task.name,
            name=task.name,
            sources=[],
            data_hash="",
            rows=len(task.training),
            held_out_rows=len(task.validation),
            options=self.options,
            backbone=self.backbone.identity,
            coordinates="",
            versions={},
            steps=self.options.steps,
        )


def _detached(bases: Sequence[Basis]) -> list[Basis]:
    return [
        Basis.from_tensors({key: value.detach() for key, value in basis.tensors().items()})
        for basis in bases
    ]


def _tensors(region: Region) -> dict[str, Tensor]:
    state = under("region", region.tensors())
    for index, basis in enumerate(region.bases):
        state |= under(f"basis.{index}", dict(basis.tensors()))
    return state
