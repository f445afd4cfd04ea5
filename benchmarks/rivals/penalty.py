"""The paper's own system: what is learned is locked by a penalty on gates at anchors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from niwfctl.backbone.adapter import ActiveField, FieldAdapter
from niwfctl.backbone.batch import batched, pad, prompt_mask
from niwfctl.backbone.calibration import calibration_prompts
from niwfctl.backbone.prompts import Tokens, common_prefix, prompt_tokens
from niwfctl.backbone.sites import find_sites
from niwfctl.field.basis import Basis
from niwfctl.field.cell import Cell
from niwfctl.field.coordinates import CoordinateMap
from niwfctl.records import Message
from niwfctl.training.run import generator_share
from rivals.drift import Remembered, drift
from rivals.loop import answers_of, mean_nats, train
from rivals.loop import seen as rows_seen
from rivals.penalty_field import FieldSizes, RecurrentMap, TopKGenerator
from rivals.protocol import WEIGHT_BYTES, Answers, Method, Setting, Task, part, per_rank, under

ANCHORS = 256  # the paper's
FIRST_ADAPTED = 1  # the layer below is only the backbone's
TOGETHER = 8  # rows that are answered in one pass


@dataclass(frozen=True)
class Strengths:
    """The λ of the paper's losses, which it does not state.

    Attributes:
        lock: of the mean squared change of gates at the anchors of all earlier tasks.
        separation: of the mean over prompts and earlier tasks of max(0, 1 − d / radius)², d being
            the Mahalanobis distance of a new task's z: it pushes z out of earlier ellipsoids.
        sparsity: of max(0, entropy − ln k) of the softmax over all logits: a budget of k gates.
    """

    lock: float = 100.0
    separation: float = 1.0
    sparsity: float = 0.1


class PenaltyLock(Method):
    """One generator, one map and one bank, all trained by every task.

    A first pass of the bare backbone over the prompt gives mean-pooled states of every layer; a
    trained GRU reads z from them; a second pass with the field at z gives the answer. The bank has
    as many parameters as one niwfctl training optimizes, and every task trains all of it.
    """

    name = "penalty lock (the paper's)"

    def __init__(
        self,
        setting: Setting,
        strengths: Strengths = Strengths(),
        sizes: FieldSizes = FieldSizes(),  # noqa: B008
    ) -> None:
        super().__init__(setting)
        self.strengths, self.sizes = strengths, sizes
        width = self.backbone.width
        nowhere = CoordinateMap(torch.zeros(width), torch.zeros(1, width))  # z comes from the GRU
        sites = find_sites(self.model, FIRST_ADAPTED)
        self.adapter = FieldAdapter(self.model, sites, nowhere)
        self.skip = common_prefix(
            [
                prompt_tokens(self.backbone.tokenizer, [Message("user", prompt)])
                for prompt in calibration_prompts()
            ]
        )
        rank = max(1, round(self.budget / per_rank(sites) / sizes.bases))
        self.scale = self.options.alpha / self.options.rank
        random = torch.Generator().manual_seed(self.options.seed)
        to = {"device": self.model.device, "dtype": torch.float32}
        self.bank = [Basis.initial(sites, rank, random).to(**to) for _ in range(sizes.bases)]
        torch.manual_seed(self.options.seed)
        self.map = RecurrentMap(width, sizes).to(**to)
        self.generator = TopKGenerator(len(self.adapter.layers), sizes).to(**to)
        for tensor in self._trained():
            tensor.requires_grad_(True)
        self.remembered: dict[str, Remembered] = {}

    def learn(self, task: Task) -> float:
        # the map and the generator learn at the rate of niwfctl's generator: its reasons hold here
        gating = [*self.map.parameters(), *self.generator.parameters()]
        groups = [
            {"params": self._of_bank()},
            {"params": gating, "share": generator_share(self.backbone.width)},
        ]
        seconds = train(task.training, groups, self.options, self.loss)
        self.remember(task)
        return seconds

    def loss(self, batch: list[Tokens]) -> Tensor:
        """What training minimizes."""
        z = self.coordinates(batch)
        logits = self.generator.logits(z)
        with self._at(self.generator.gates(logits), batch):
            nats = mean_nats(self.model, batch)
        strengths = self.strengths
        return (
            nats
            + strengths.lock * self.lock_penalty()
            + strengths.separation * self.separation_penalty(z)
            + strengths.sparsity * self.sparsity_penalty(logits)
        )

    def lock_penalty(self) -> Tensor:
        """Mean squared change of gates at the anchors of all earlier tasks."""
        changes = [
            (self.generator(one.anchors) - one.gates).square().mean()
            for one in self.remembered.values()
        ]
        return torch.stack(changes).mean() if changes else torch.zeros(())

    def separation_penalty(self, z: Tensor) -> Tensor:
        """How deep z lies in the ellipsoids of earlier tasks."""
        depths = [
            (1 - one.cell.distance(z.cpu()) / one.cell.radius).clamp_min(0).square().mean().float()
            for one in self.remembered.values()
        ]
        return torch.stack(depths).mean() if depths else torch.zeros(())

    def sparsity_penalty(self, logits: Tensor) -> Tensor:
        """By how much the entropy of the softmax exceeds that of k even gates."""
        shares = logits.log_softmax(-1)
        entropy = -(shares.exp() * shares).sum(-1)
        return (entropy - math.log(self.sizes.top_k)).clamp_min(0).mean()

    @torch.no_grad()
    def remember(self, task: Task) -> None:
        """Fits the Gaussian, draws anchors, snapshots gates, and copies what measuring needs."""
        z = self._of_rows(rows_seen(task.training, self.options))
        cell = Cell.fit(z.cpu(), self._of_rows(task.validation).cpu())
        anchors = cell.sample(ANCHORS, self.options.seed).float().to(self.model.device)
        self.remembered[task.name] = Remembered.now(
            cell, anchors, self.generator, self.bank, self._of_rows(task.test)
        )

    def answers(self, rows: Sequence[Tokens], task: str | None) -> Answers:
        found = Answers.empty(len(rows))
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        for places in batched(order, TOGETHER):
            batch = [rows[index] for index in places]
            with torch.no_grad(), self._at(self.generator(self.coordinates(batch)), batch):
                found.put(places, answers_of(self.model, batch))
        return found

    def coordinates(self, rows: Sequence[Tokens]) -> Tensor:
        """z of prompts, float32 [rows, dim], by a first pass; the map's gradient is kept."""
        tokens = pad([row.prompt for row in rows]).to(self.model.device)
        lengths = [len(row.prompt) for row in rows]
        mask = prompt_mask(lengths, tokens.shape[1], self.skip).to(tokens.device)
        self.adapter.active = None
        with torch.no_grad():
            states = self.model.get_decoder()(
                tokens, use_cache=False, output_hidden_states=True
            ).hidden_states
        weights = mask.float() / mask.sum(1, keepdim=True)
        pooled = [torch.einsum("bth,bt->bh", state.float(), weights) for state in states]
        return self.map(torch.stack(pooled, dim=1))

    def parameters(self) -> int:
        return sum(tensor.numel() for tensor in self._trained())

    def state(self) -> dict[str, Tensor]:
        state = under("map", self.map.state_dict())
        state |= under("generator", self.generator.state_dict())
        for index, basis in enumerate(self.bank):
            state |= under(f"bank.{index}", {k: v.detach() for k, v in basis.tensors().items()})
        for name, one in self.remembered.items():
            state |= under(f"locked.{name}", one.locked())
            state |= under(f"measured.{name}", one.measured())
        return state

    def bytes(self) -> int:
        """Without the copies that only measuring needs."""
        kept = (v.numel() for key, v in self.state().items() if not key.startswith("measured."))
        return sum(kept) * WEIGHT_BYTES

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        self.map.load_state_dict(part(state, "map"))
        self.generator.load_state_dict(part(state, "generator"))
        for index, basis in enumerate(self.bank):
            for key, tensor in basis.tensors().items():
                tensor.copy_(part(state, f"bank.{index}")[key])
        for name in self.setting.stream:
            if locked := part(state, f"locked.{name}"):
                measured = part(state, f"measured.{name}")
                self.remembered[name] = Remembered.of(locked, measured, self.generator)

    @torch.no_grad()
    def report(self, tasks: Sequence[Task]) -> dict[str, object]:
        """What the lock did not keep of each task."""
        return {
            "drift": {
                task.name: drift(
                    self.remembered[task.name], self.generator, self.bank, self._of_rows(task.test)
                )
                for task in tasks
            }
        }

    def _at(self, gates: Tensor, rows: Sequence[Tokens]) -> AbstractContextManager:
        """A block in which the field acts on rows with these gates."""
        bases = [basis.to(dtype=self.model.dtype) for basis in self.bank]
        self.adapter.active = ActiveField.of(
            self.adapter.groups, bases, lambda _: gates, self.scale
        )
        width = max(map(len, rows))
        mask = prompt_mask([len(row.prompt) for row in rows], width, self.skip)
        return self.adapter.prompts(mask.to(self.model.device))

    @torch.no_grad()
    def _of_rows(self, rows: Sequence[Tokens]) -> Tensor:
        return torch.cat([self.coordinates(batch) for batch in batched(rows, 16)])

    def _trained(self) -> list[Tensor]:
        return [*self._of_bank(), *self.map.parameters(), *self.generator.parameters()]

    def _of_bank(self) -> list[Tensor]:
        return [tensor for basis in self.bank for tensor in basis.tensors().values()]
