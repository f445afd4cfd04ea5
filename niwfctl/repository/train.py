"""Training a capability in a repository."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from torch import Tensor

from niwfctl.atlas import AUTO_NAME, ObjectRef, RegionEntry, check_name, get_capability
from niwfctl.backbone.load import default_device
from niwfctl.backbone.recompute import recompute_layers
from niwfctl.backbone.scoring import Scorer
from niwfctl.errors import DataError, NiwfError, UsageError
from niwfctl.field.region import Region
from niwfctl.repository.measure import Data
from niwfctl.repository.model import Model
from niwfctl.repository.names import require_file_name, warn_of_ref
from niwfctl.repository.regions import load_basis, load_region
from niwfctl.repository.runs import Rows, encoded, holding_out, new_run, resolved
from niwfctl.repository.trainings import to_resume, uncommitted
from niwfctl.several import IN_MEMORY, Source
from niwfctl.training import checkpoint
from niwfctl.training.data import FEW_HELD_OUT, repeated
from niwfctl.training.interrupt import Stop, stopping_if_free
from niwfctl.training.loop import SAVE_SECONDS, Progress, Trainer
from niwfctl.training.processes import Processes, leads
from niwfctl.training.reuse import related
from niwfctl.training.run import Reused, Run, TrainingOptions, ValidationData

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository

logger = logging.getLogger(__name__)

WORSENING = 0.02  # of the perplexity after its best; less is noise on so few rows


def train(
    repository: Repository,
    name: str,
    data: Sequence[Source],
    val_data: Sequence[Source],
    options: TrainingOptions | None,
    resume: bool,
    finish: bool,
    restart: bool,
    report: Callable[[Progress], None],
    stop: Stop | None,
    save_seconds: float = SAVE_SECONDS,
) -> Run:
    """Implements `Repository.train`."""
    check_name(name)
    processes = Processes()
    locked = repository.trainings.locked() if leads() else nullcontext()
    with locked, nullcontext(stop) if stop else stopping_if_free() as stop:
        previous = _previous(repository, name, options, resume or finish, restart)
        if previous and finish:
            _end(previous)
        if previous:
            previous.options = previous.options.sparing(options or TrainingOptions())
            options = previous.options
        options = _defaults(options or TrainingOptions())
        processes.share(range(options.rows_a_step))  # refuses too many before the slow loading
        training, validation = _data(name, data, val_data, options, previous)
        if not (previous or validation):
            options = holding_out(options, training.examples)
        report(Progress(f"loading the backbone onto {default_device()}", 0, 0))
        model = Model(repository)
        rows = _rows(name, model, training, validation, options, previous)
        run = previous or _new(model, name, training, validation, rows, options, report)
        run = processes.agreed(run)
        trainer = _trainer(repository, model, run, rows, processes)
        if previous:
            _, tensors = checkpoint.load(repository.trainings.checkpoint(name))
            trainer.restore(tensors)
        try:
            save = _Saver(repository, name).save
            trainer.fit(report, save, lambda: processes.any(stop()), save_seconds)
            if leads():
                warn_of_overfitting(run)
                _compare(model, trainer)
        finally:
            model.adapter.detach()  # so that the backbone is freed when nothing refers to it
        return run


def _compare(model: Model, trainer: Trainer) -> None:
    """Warns if the committed version does better on the same held-out rows than the result."""
    run = trainer.run
    if run.options.mode == "new":
        return
    try:
        model.use(run.name)
    except NiwfError as error:  # the training is whole without it
        logger.warning("the committed %r cannot be compared with: %s", run.name, error)
        return
    score = trainer.scorer.score(trainer.held_out, trainer.options.batch_size)
    if score.perplexity < run.perplexity:
        logger.warning(
            "%r as it is committed has a perplexity of %.4g on the held-out rows, better than the "
            "%.4g of this training: unless it learned from those rows%s, keep it",
            run.name,
            score.perplexity,
            run.perplexity,
            f", or that is by chance, as it may be on so few ({run.held_out_rows})"
            if _rests_on_few(run)
            else "",
        )


def warn_of_overfitting(run: Run) -> None:
    """Warns if the result is worse than the base, or than an earlier step was."""
    problems = []
    if run.perplexity > run.base_perplexity:
        problems.append(f"is {run.perplexity:.4g}, worse than the base's {run.base_perplexity:.4g}")
    best = min(run.glances, key=lambda glance: glance.validation, default=None)
    rises = best and run.best_step is None
    rise = run.glances[-1].validation / best.validation - 1 if rises else 0
    if rise > WORSENING:
        problems.append(f"was best at step {best.step} of {run.steps} and has risen by {rise:.1%}")
    if not problems:
        return
    keep = "" if run.options.keep_best else "--keep-best, "
    when = "rather than commit it"
    if _rests_on_few(run):
        when = (
            f"on so few rows ({run.held_out_rows}) that may be chance, so measure on more, with "
            "--val-data or a larger --val-split, and if it is so"
        )
    logger.warning(
        "the held-out perplexity of %r %s: %s, train again with --restart and %sfewer --epochs or "
        "--steps, a lower --lr, or more data",
        run.name,
        ", and ".join(problems),
        when,
        keep,
    )


def _rests_on_few(run: Run) -> bool:
    return run.held_out_rows < FEW_HELD_OUT


class _Saver:
    """Saves the checkpoints of one training; its first one is an operation of the log."""

    def __init__(self, repository: Repository, name: str) -> None:
        self._repository, self._name = repository, name
        self._recorded = False

    def save(self, run: Run, tensors: dict[str, Tensor]) -> None:
        """Saves a checkpoint, in the one process that writes."""
        if not leads():
            return
        operations, name = self._repository.operations, self._name
        with nullcontext() if self._recorded else operations.recording_training(name):
            checkpoint.save(self._repository.trainings.checkpoint(name), run, tensors)
        self._recorded = True


def _data(
    name: str,
    data: Sequence[Source],
    val_data: Sequence[Source],
    options: TrainingOptions,
    previous: Run | None,
) -> tuple[Data, Data | None]:
    """What to learn from, and what to measure on; None: a share of the former.

    A resumed training must get what it began with.
    """
    if previous:
        data = _again(name, previous.sources, data)
        val_data = _again(name, previous.val_data.sources if previous.val_data else (), val_data)
    elif val_data and "val_split" in options.model_fields_set:
        raise UsageError("--val-data and --val-split exclude each other: give one of them")
    training = Data.read(data, options.skip_empty)
    validation = Data.read(val_data, options.skip_empty) if val_data else None
    if previous:
        before = previous.data_hash, previous.val_data and previous.val_data.data_hash
        if before != (training.hash, validation and validation.hash):
            raise DataError(
                f"the data of {name!r} has changed since its training began: restore it, or start "
                f"over with `niwfctl train {name} --restart --data …`"
            )
    elif validation and leads():
        _warn_of_repeated(training, validation)
    return training, validation


def _again(name: str, sources: Sequence[str], given: Sequence[Source]) -> Sequence[Source]:
    """The data of a training that is resumed: what was in memory must be given again."""
    if IN_MEMORY not in sources:
        return sources
    if not given:
        raise UsageError(
            f"the data of {name!r} was in a program's memory: resume it from Python, and give "
            "`train` the same data again"
        )
    return given


def _warn_of_repeated(training: Data, validation: Data) -> None:
    if count := repeated(training.examples, validation.examples):
        logger.warning(
            "%d of the %d rows of --val-data begin with prompts that --data holds, too, so the "
            "held-out perplexity says less of new ones: take them out of one of the two",
            count,
            len(validation.examples),
        )


def _rows(
    name: str,
    model: Model,
    training: Data,
    validation: Data | None,
    options: TrainingOptions,
    previous: Run | None,
) -> Rows:
    """The examples as tokens, split as a resumed training split them."""
    rows = encoded(model, training.examples, options, validation.examples if validation else ())
    if previous and previous.rows != len(rows.training):
        raise DataError(
            f"the training of {name!r} was begun by a version that held out other rows: start over "
            f"with `niwfctl train {name} --restart --data …`"
        )
    return rows


def _new(
    model: Model,
    name: str,
    training: Data,
    validation: Data | None,
    rows: Rows,
    options: TrainingOptions,
    report: Callable[[Progress], None],
) -> Run:
    """The record of a training that begins now."""
    val_data = validation and ValidationData(
        sources=resolved(validation.sources), data_hash=validation.hash
    )
    empty = training.empty + (validation.empty if validation else 0)
    details = {"steps": _steps(options, rows), "val_data": val_data, "empty_records": empty}
    run = new_run(model, name, training.sources, training.hash, rows, options, **details)
    if AUTO_NAME in options.reuse:
        report(Progress("choosing bases", 0, 0))
    run.reused = _reused(model, run, rows)
    return run


def _trainer(
    repository: Repository, model: Model, run: Run, rows: Rows, processes: Processes
) -> Trainer:
    reused = map(ObjectRef.of, run.reused)
    bases = [load_basis(repository, ref, model.device) for ref in reused]
    return Trainer(model.adapter, model.skip, run, rows.training, rows.held_out, bases, processes)


def _previous(
    repository: Repository, name: str, options: TrainingOptions | None, resume: bool, restart: bool
) -> Run | None:
    """The run to resume, if any; refuses what would lose or repeat work."""
    if resume:
        return to_resume(repository, name)
    _require_place(repository, name, options or TrainingOptions())
    if restart:
        return None  # not even read, since it may be damaged
    if found := uncommitted(repository, name):
        way = "commit it" if found.finished else f"resume it with `niwfctl train {name} --resume`"
        raise UsageError(
            f"{name!r} has an uncommitted training at step {found.step} of {found.steps}: {way}, "
            "or discard it with --restart"
        )
    return None


def _end(run: Run) -> None:
    """Makes the step that a training has reached its last."""
    if not run.step:
        raise UsageError(
            f"the training of {run.name!r} stopped before its first step: resume it with "
            f"`niwfctl train {run.name} --resume`"
        )
    run.steps = run.step


def _require_place(repository: Repository, name: str, options: TrainingOptions) -> None:
    atlas, mode = repository.atlas(), options.mode
    for other in options.reuse:
        if other != AUTO_NAME:
            get_capability(atlas, other)
    if mode == "new" and name in atlas:
        raise UsageError(
            f"{name!r} is committed, and what is committed never changes: add to it with --extend, "
            "train it anew, from scratch, with --revise, or train under another name"
        )
    if mode == "new":
        require_file_name(name, atlas)
        if leads():
            warn_of_ref(repository, name)
    if mode != "new" and get_capability(atlas, name).parts:
        raise UsageError(
            f"{name!r} is a composition and has no region of its own to {mode}: train one of its "
            "parts"
        )


def _defaults(options: TrainingOptions) -> TrainingOptions:
    """One new basis is enough beside reused ones, unless the user asks for more."""
    reusing = options.reuse or options.mode == "extend"
    if reusing and "bases" not in options.model_fields_set:
        return options.model_copy(update={"bases": 1})
    return options


def _steps(options: TrainingOptions, rows: Rows) -> int:
    return options.steps or math.ceil(options.epochs * len(rows.training) / options.rows_a_step)


def _reused(model: Model, run: Run, rows: Rows) -> tuple[Reused, ...]:
    """The sealed bases that a new training gates, each once."""
    options, atlas = run.options, model.repository.atlas()
    named = [name for name in options.reuse if name != AUTO_NAME]
    if options.mode == "extend":
        named.append(run.name)
    chosen = [(name, entry) for name in named for entry in get_capability(atlas, name).all_regions]
    if AUTO_NAME in options.reuse:
        chosen += _related(model, rows, options)
    found = {
        ref.oid: Reused(of=name, oid=ref.oid, size=ref.size, scale=_scale_of(entry, ref))
        for name, entry in chosen
        for ref in entry.bases
    }
    return tuple(found.values())


def _scale_of(entry: RegionEntry, basis: ObjectRef) -> float:
    """The α/r that a region's basis was sealed with; for a reused one, by its own training."""
    reused = {one.oid: one.scale for one in entry.run.reused}
    return reused.get(basis.oid, entry.scale)


def _related(model: Model, rows: Rows, options: TrainingOptions) -> list[tuple[str, RegionEntry]]:
    candidates = {
        entry.id: (name, entry)
        for name, capability in model.repository.atlas().items()
        for entry in capability.regions
    }

    def region_of(id: str) -> Region:
        entry = candidates[id][1]
        return load_region(model.repository, entry, model.device, model.adapter.sites)

    if options.gradient_checkpointing:  # as the trainer does, but later
        recompute_layers(model.adapter)
    scorer = Scorer(model.adapter, model.skip)
    chosen = related(scorer, rows.training, list(candidates), region_of, options.batch_size)
    return [candidates[id] for id in chosen]
