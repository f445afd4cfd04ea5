"""The training loop: new bases and their generator, on a frozen backbone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from niwfctl.backbone.adapter import ActiveField, FieldAdapter
from niwfctl.backbone.batch import batched
from niwfctl.backbone.probe import witnessed
from niwfctl.backbone.prompts import Tokens
from niwfctl.backbone.recompute import recompute_layers
from niwfctl.backbone.scoring import Score, Scorer
from niwfctl.backbone.sites import width
from niwfctl.errors import TrainingError, TrainingInterrupted
from niwfctl.field.basis import Basis
from niwfctl.field.generator import Generator
from niwfctl.training.data import spread
from niwfctl.training.optimizer import LARGEST_GRADIENT, OPTIMIZERS, learning_rate
from niwfctl.training.processes import Processes
from niwfctl.training.rehearsal import rehearse
from niwfctl.training.run import GLANCE_ROWS, Glance, Run, generator_share

GLANCES = 4  # measurements on some held-out rows by default, the last at the end
BEST = "best."  # begins the names of tensors in a checkpoint
SAVE_SECONDS = 60.0
SAVING_SHARE = 0.02  # of the time, at most, goes into checkpoints


@dataclass(frozen=True)
class Progress:
    """What a display shows while training runs.

    Attributes:
        stage: `loading the backbone onto DEVICE`, `choosing bases`, `measuring the base`,
            `training` or `measuring`; of an import also `loading the backbone` and `reading
            coordinates`.
        step, steps: steps done, and all steps; both 0 before training.
        loss: of the last step, in nats per token.
        validation: perplexity on some held-out rows, as last measured; None before the first time.
        lr: learning rate of the last step, of the bases.
        gradient_norm: of the last step, before it was scaled down to LARGEST_GRADIENT.
        tokens_per_second: in training, without padding.
        seconds_left: of training, without the final measurement.
    """

    stage: str
    step: int
    steps: int
    loss: float | None = None
    validation: float | None = None
    lr: float | None = None
    gradient_norm: float | None = None
    tokens_per_second: float | None = None
    seconds_left: float | None = None


class Trainer:
    """Trains one region; only new parameters are optimized, never those of committed regions.

    Attributes:
        adapter: of the frozen backbone; its active field changes while it trains.
        run, options: the record to keep, and its options, with a learning rate.
        training, held_out: rows to learn from, and to measure on.
        scorer: computes losses and perplexities.
        reused: sealed bases that are gated beside the new ones.
        bases, generator: the new bases and the generator of all gates, in float32.
        coordinates: z of each training row when last seen, float32 [rows, dim]; NaN before.
        losses: of each step, in nats per token, float64 [steps]; NaN before.
        optimizer: of the new bases and the generator.
        rate, norm: learning rate and norm of the gradient of the last step.
        processes: that train together.
    """

    def __init__(
        self,
        adapter: FieldAdapter,
        skip: int,
        run: Run,
        training: Sequence[Tokens],
        held_out: Sequence[Tokens],
        reused: Sequence[Basis] = (),
        processes: Processes | None = None,
    ) -> None:
        """
        Args:
            adapter: of the frozen backbone.
            skip: leading prompt tokens that do not count towards the coordinate.
            run: the record to keep; after `restore`, training continues at its step.
            training: rows to learn from.
            held_out: rows to measure on.
            reused: the sealed bases that the run's record names, on the model's device; gated,
                never written.
            processes: the processes that train together, each with a trainer of its own.
        """
        self.adapter, self.run, self.options = adapter, run, run.options
        self.training, self.held_out = training, held_out
        self.scorer = Scorer(adapter, skip)
        self.reused = list(reused)
        self.bases, self.generator = _initial(adapter, run)
        shape = (len(training), adapter.coordinates.dim)
        self.coordinates = torch.full(shape, math.nan, dtype=torch.float32)
        self.losses = torch.full((run.steps,), math.nan, dtype=torch.float64)
        self.rate = self.norm = math.nan
        self._orders: dict[int, list[int]] = {}  # row orders of the epochs in the last step
        self._best: dict[str, Tensor] = {}  # parameters of the step measured best, if kept
        self._outcome: dict[str, Tensor] = {}
        self._kept = False  # whether there is a checkpoint of this run
        self.optimizer = OPTIMIZERS[self.options.optimizer](
            [
                {"params": self._of_bases(), "share": 1.0},
                {
                    "params": list(self.generator.parameters()),
                    "share": generator_share(width(adapter.model)),
                },
            ]
        )
        self.processes = processes or Processes()
        if self.options.gradient_checkpointing:
            recompute_layers(adapter)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of a checkpoint; those to resume with only until the result is measured."""
        named = {
            f"bases.{i}.{key}": value
            for i, basis in enumerate(self.bases)
            for key, value in basis.tensors().items()
        }
        named |= {f"generator.{key}": value for key, value in self.generator.state_dict().items()}
        if self.run.step and not self._outcome:
            named["losses"] = self.losses[: self.run.step]
        for i, parameter in enumerate([] if self._outcome else self.parameters()):
            state = self.optimizer.state.get(parameter, {})
            named |= {f"optimizer.{i}.{key}": torch.as_tensor(v) for key, v in state.items()}
        return named | {"coordinates": self.coordinates} | self._best | self._outcome

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Restores what `tensors()` returned, from a checkpoint."""
        self._kept = True
        mine = self.tensors()
        for key, value in tensors.items():
            if key in mine:
                mine[key].copy_(value)
        self._best = {key: v.clone() for key, v in tensors.items() if key.startswith(BEST)}
        state: dict[int, dict[str, Tensor | int]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".")
                plain = value.dtype == torch.int64  # bitsandbytes counts steps in an int
                state.setdefault(int(index), {})[name] = int(value) if plain else value.clone()
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})

    def fit(
        self,
        report: Callable[[Progress], None],
        save: Callable[[Run, dict[str, Tensor]], None],
        stop: Callable[[], bool],
        save_seconds: float = SAVE_SECONDS,
    ) -> None:
        """Trains to the last step, then measures and takes the witness.

        Args:
            report: called after every step.
            save: called with the record and tensors of a checkpoint.
            stop: called after every step and measured batch; True saves and ends.
            save_seconds: time between checkpoints; longer where saving is slow.

        Raises:
            MemoryFull: memory will not suffice for the largest batch; nothing was trained.
            TrainingInterrupted: `stop` returned True; the checkpoint is saved.
            TrainingError: the loss or gradient is not finite; the last checkpoint, if there is
                one, is kept.
        """
        run = self.run

        def keep() -> None:
            save(run, self.tensors())
            self._kept = True

        def pause_if_asked() -> None:
            if stop():
                keep()
                raise TrainingInterrupted(run.name, run.step, run.steps)

        if self.adapter.model.device.type == "cuda" and run.step < run.steps:
            rehearse(self)
        if run.base_perplexity is None:
            report(Progress("measuring the base", run.step, run.steps))
            self.adapter.active = None
            run.base_perplexity = self._score(self.held_out, pause_if_asked).perplexity
            self._glance()
        saved, pause, speed = time.monotonic(), save_seconds, _Speed()
        glancing = self._glancing()
        while run.step < run.steps:
            started = time.monotonic()
            run.loss, tokens = self.step()
            self.losses[run.step] = run.loss
            run.step, run.tokens = run.step + 1, run.tokens + tokens
            seconds = time.monotonic() - started
            run.seconds += seconds
            speed.add(tokens, seconds)
            if run.step in glancing:
                self.adapter.active = self._sealed()
                self._glance()
            validation = run.glances[-1].validation if run.glances else None
            left = speed.seconds * (run.steps - run.step)
            told = (run.step, run.steps, run.loss, validation, self.rate, self.norm)
            report(Progress("training", *told, speed.rate, left))
            pause_if_asked()
            if run.step < run.steps and (now := time.monotonic()) - saved >= pause:
                keep()
                saved = time.monotonic()
                pause = max(save_seconds, (saved - now) / SAVING_SHARE)
        report(Progress("measuring", run.step, run.steps, run.loss))
        self.adapter.active = self._sealed()
        if not run.glances or run.glances[-1].step < run.step:
            self._glance()
        self._take_best()
        self.adapter.active = self._sealed()
        self._measure(pause_if_asked)
        keep()

    def step(self) -> tuple[float, int]:
        """One optimizer step; returns the mean loss in nats per token, and the tokens read."""
        run, options = self.run, self.options
        rows = self.rows_of(run.step)
        answers = sum(len(self.training[index].answer) for index in rows)
        own = self.processes.share(range(len(rows)))
        losses, coordinates = [], []  # kept on the device, so that nothing waits for it
        self.adapter.active = self.field()
        for places in batched(own, options.batch_size):
            loss, _ = self.scorer.loss([self.training[rows[place]] for place in places])
            (loss / answers).backward()
            losses.append(loss.detach())
            coordinates.append(self.adapter.z)
        parameters = self.parameters()
        self._add_up_gradients(parameters)
        norm = torch.nn.utils.clip_grad_norm_(parameters, LARGEST_GRADIENT)
        self.norm = float(norm)  # the one place that waits for the device: all before is queued
        total = float(self.processes.sum(torch.stack(losses).cpu().double().sum()))
        seen = torch.zeros_like(self.coordinates[rows])
        seen[list(own)] = torch.cat(coordinates).cpu()
        self.coordinates[rows] = self.processes.sum(seen)
        self._require_finite(total, self.norm)
        self.rate = learning_rate(run.step, run.steps, options.lr, options.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * group["share"]
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total / answers, sum(len(self.training[index]) for index in rows)

    def _add_up_gradients(self, parameters: Sequence[Tensor]) -> None:
        if self.processes.count == 1:
            return
        flat = self.processes.sum(torch.cat([p.grad.flatten() for p in parameters]))
        sizes = [p.numel() for p in parameters]
        for parameter, gradient in zip(parameters, flat.split(sizes), strict=True):
            parameter.grad = gradient.view_as(parameter)

    def rows_of(self, step: int) -> list[int]:
        """The rows of a step, shortest first, so that its batches need little padding.

        Each epoch has a new order, which depends only on the seed.
        """
        size, count = self.options.rows_a_step, len(self.training)
        places = range(step * size, (step + 1) * size)
        epochs = {place // count for place in places}
        self._orders = {epoch: self._orders.get(epoch) or self._order(epoch) for epoch in epochs}
        rows = [self._orders[place // count][place % count] for place in places]
        return sorted(rows, key=lambda index: len(self.training[index]))

    def _order(self, epoch: int) -> list[int]:
        random = torch.Generator().manual_seed(self.options.seed + epoch)
        return torch.randperm(len(self.training), generator=random).tolist()

    def _glancing(self) -> set[int]:
        """The steps before the last after which some held-out rows are measured."""
        if self.options.eval_steps:
            return set(range(self.options.eval_steps, self.run.steps, self.options.eval_steps))
        return {self.run.steps * part // GLANCES for part in range(1, GLANCES)}

    def _glance(self) -> None:
        """Records how the active field does on some held-out rows, always the same."""
        run = self.run
        validation = self._score(spread(self.held_out, GLANCE_ROWS), lambda: None).perplexity
        self._require_finite(validation)
        since = self.losses[run.glances[-1].step if run.glances else 0 : run.step]
        loss = float(since.nanmean()) if len(since) else None
        run.glances += (Glance(step=run.step, loss=loss, validation=validation),)
        if self.options.keep_best and run.step:
            self._remember_best()

    def _remember_best(self) -> None:
        """Remembers the parameters, if no earlier step was measured better."""
        best = min((glance for glance in self.run.glances if glance.step), key=_validation)
        if best.step == self.run.step:
            self.run.best_step = best.step
            values = (parameter.detach() for parameter in self.parameters())
            self._best = {f"{BEST}{i}": v.to("cpu", copy=True) for i, v in enumerate(values)}

    @torch.no_grad()
    def _take_best(self) -> None:
        """Goes back to the parameters that were remembered, if any."""
        parameters = self.parameters()
        for key, value in self._best.items():
            parameters[int(key.removeprefix(BEST))].copy_(value)
        self._best = {}

    def _measure(self, pause_if_asked: Callable[[], None]) -> None:
        score = self._score(self.held_out, pause_if_asked)
        witness, sample = witnessed(self.adapter)
        self._require_finite(score.perplexity)
        self.run.perplexity, self.run.witness = score.perplexity, witness
        self._outcome = {"held_out": score.coordinates, "probe": sample}

    def _require_finite(self, *values: float) -> None:
        if not all(map(math.isfinite, values)):
            kept = "the last checkpoint is kept" if self._kept else "nothing was saved yet"
            again = "with --restart and" if self._kept else "with"
            raise TrainingError(
                f"the loss of {self.run.name!r} is no longer a finite number at step "
                f"{min(self.run.step + 1, self.run.steps)}: {kept}; train again {again} a lower "
                "--lr"
            )

    def _score(self, rows: Sequence[Tokens], between: Callable[[], None]) -> Score:
        return self.scorer.score(rows, self.options.batch_size, between)

    def field(self) -> ActiveField:
        """The field in training: float32 parameters, cast to the model's dtype."""
        own = [*self.reused, *self.bases]
        bases = [basis.to(dtype=self.adapter.model.dtype) for basis in own]
        scale = self.options.alpha / self.options.rank
        return ActiveField.of(self.adapter.groups, bases, self.generator, scale)

    @torch.no_grad()
    def _sealed(self) -> ActiveField:
        """The same without gradients: computes what the committed region will compute."""
        return self.field()

    def parameters(self) -> list[Tensor]:
        """Everything that is optimized, float32."""
        return [*self._of_bases(), *self.generator.parameters()]

    def _of_bases(self) -> list[Tensor]:
        return [tensor for basis in self.bases for tensor in basis.tensors().values()]


def _initial(adapter: FieldAdapter, run: Run) -> tuple[list[Basis], Generator]:
    device, options = adapter.model.device, run.options
    random = torch.Generator().manual_seed(options.seed)
    bases = [
        Basis.initial(adapter.sites, options.rank, random).to(device=device, dtype=torch.float32)
        for _ in range(options.bases)
    ]
    for basis in bases:
        for tensor in basis.tensors().values():
            tensor.requires_grad_(True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        generator = Generator(
            adapter.coordinates.dim,
            len(adapter.layers),
            len(run.reused) + options.bases,
            gain=_gain(run),
        )
    return bases, generator.to(device)


def _gain(run: Run) -> Tensor | None:
    """Factors that give each reused basis, at gates of 1, the scale it was sealed under."""
    own = run.options.alpha / run.options.rank
    gain = [one.scale / own for one in run.reused] + [1.0] * run.options.bases
    return torch.tensor(gain, dtype=torch.float32) if any(one != 1.0 for one in gain) else None


def _validation(glance: Glance) -> float:
    return glance.validation


class _Speed:
    """Moving averages over recent steps."""

    def __init__(self) -> None:
        self.rate, self.seconds = 0.0, 0.0

    def add(self, tokens: int, seconds: float) -> None:
        fresh = 1.0 if not self.seconds else 0.2
        self.seconds += fresh * (seconds - self.seconds)
        self.rate += fresh * (tokens / seconds - self.rate)
