"""Composition without retraining: a capability made of sealed bases of others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from niwfctl.atlas import Atlas, Capability, Part, parse_target
from niwfctl.errors import UsageError
from niwfctl.records import SEEDS
from niwfctl.repository.names import require_free, warn_of_ref
from niwfctl.repository.record import record
from niwfctl.repository.same_field import usable
from niwfctl.repository.underway import require_ready
from niwfctl.storage import storing
from niwfctl.typed import command_line

if TYPE_CHECKING:
    from torch import Tensor

    from niwfctl.atlas import RegionEntry
    from niwfctl.field.region import Region
    from niwfctl.repository.repository import Repository
    from niwfctl.training.run import Run

EXACT = ("linear", "routed")
SPARSE = ("ties", "dare_linear", "dare_ties", "magnitude_prune")  # PEFT's
APPROXIMATING = ("svd", *SPARSE)


@dataclass(frozen=True)
class Recipe:
    """How capabilities become one.

    Attributes:
        weights: one a capability; may be negative; None: 1 for each.
        method: `linear`: Σ_i w_i ΔW_i(z), exact, with the existing bases; `routed`: the one that
            owns the prompt acts; `svd`: the best approximation of the sum by a smaller
            rank; or one of PEFT's methods on the changes of weights.
        rank: of the result if it is approximated; None for the sum of all ranks.
        density: share of the entries that PEFT's methods keep; None for half of them.
        seed: of the methods that sample.
    """

    weights: tuple[float, ...] | None = None
    method: str = "linear"
    rank: int | None = None
    density: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Composed:
    """The outcome.

    Attributes:
        error: ‖ΔW − approximation‖_F over ‖ΔW‖_F, gates at the means of their cells; None if
            nothing is approximated.
    """

    commit: str
    capability: Capability
    error: float | None


def compose(
    repository: Repository, sources: Sequence[str], name: str, recipe: Recipe, message: str | None
) -> Composed:
    """Implements `Repository.compose`."""
    require_free(repository, name)
    warn_of_ref(repository, name)
    parts = parts_of(repository, sources, checked(recipe, len(sources)))
    if recipe.method == "routed":
        _require_owners(repository, sources)
    require_ready(repository)
    approximation = (
        None if recipe.method in EXACT else _approximated(repository, name, parts, recipe)
    )
    if message is None:
        message = _message(name, sources, recipe, approximation)
    with storing(), repository.writing(), repository.operations.recording(command_line(message)):
        entry = approximation and approximation.sealed(repository)

        def change(atlas: Atlas) -> Atlas:
            require_free(repository, name, atlas)
            if entry is not None:
                from niwfctl.repository.commit import RoutingOptions, adding

                return adding(repository, atlas, [entry], RoutingOptions(manual=True))
            whole = Capability(name=name, parts=parts)
            return atlas | {name: _routed(name, parts) if recipe.method == "routed" else whole}

        commit = record(repository, change, message)
    repository.git.tell_hook("post-commit")
    return Composed(commit, repository.atlas(commit)[name], approximation and approximation.error)


def parts_of(
    repository: Repository, sources: Sequence[str], weights: Sequence[float]
) -> tuple[Part, ...]:
    """The terms of a composition; of compositions, their own terms.

    Raises:
        UnknownName: there is no such capability.
        UsageError: one was trained in another field, or a weight overflows.
    """
    found = []
    for source, weight in zip(sources, weights, strict=True):
        capability = usable(repository, source)
        name, revision = parse_target(source)
        of = f"{name}@{repository.git.resolve(revision)[:12]}"
        own = [Part(of=of, weight=1.0, regions=capability.regions)] if capability.regions else []
        for part in own or capability.parts:
            if not math.isfinite(product := part.weight * weight):
                raise UsageError(f"{source!r} times {weight:g} overflows: use a smaller weight")
            found.append(part.model_copy(update={"weight": product}))
    return tuple(found)


def checked(recipe: Recipe, count: int) -> tuple[float, ...]:
    """The weights of `count` capabilities.

    Raises:
        UsageError: the recipe is invalid.
    """
    if recipe.method not in (*EXACT, *APPROXIMATING):
        known = ", ".join((*EXACT, *APPROXIMATING))
        raise UsageError(f"--method {recipe.method!r} is unknown: choose one of {known}")
    weights = recipe.weights or (1.0,) * count
    if len(weights) != count:
        raise UsageError(
            f"{len(weights)} weights for {count} capabilities: give one for each, as in "
            f"--weights {','.join(['0.7'] * count)}"
        )
    if not all(map(math.isfinite, weights)) or not any(weights):
        raise UsageError("--weights must be finite numbers, and not all of them 0")
    if recipe.method == "routed" and recipe.weights:
        raise UsageError("routed capabilities act unweighted: leave out --weights")
    if recipe.density is not None and recipe.method not in SPARSE:
        raise UsageError(
            f"--density applies to {', '.join(SPARSE)}: {recipe.method} keeps all entries"
        )
    if recipe.density is not None and not 0 < recipe.density <= 1:
        raise UsageError(f"--density {recipe.density:g}: give a share above 0 and up to 1")
    if recipe.rank is not None and recipe.rank < 1:
        raise UsageError(f"--rank {recipe.rank}: give a whole number from 1 up")
    if recipe.rank is not None and recipe.method in EXACT:
        raise UsageError(
            f"--rank approximates, and {recipe.method} is exact: use `--method svd --rank "
            f"{recipe.rank}` for the best approximation of the weighted sum"
        )
    if not 0 <= recipe.seed < SEEDS:
        raise UsageError(f"--seed {recipe.seed}: give a number from 0 to {SEEDS - 1}")
    return weights


def _require_owners(repository: Repository, sources: Sequence[str]) -> None:
    """Requires capabilities with regions, since only those can own a prompt."""
    for source in sources:
        if parts := repository.capability(source).parts:
            raise UsageError(
                f"{source!r} is a weighted sum, which cannot own a prompt: name its parts "
                f"instead, {', '.join(part.of for part in parts)}"
            )


def _message(
    name: str, sources: Sequence[str], recipe: Recipe, approximation: _Approximation | None
) -> str:
    how = "" if recipe.method == "linear" else f" by {recipe.method}"
    lost = f", relative error {approximation.error:.3g}" if approximation else ""
    return f"Compose {name} of {', '.join(sources)}{how}{lost}"


def _routed(name: str, parts: Sequence[Part]) -> Capability:
    """The regions of all parts under one name; routing of the whole atlas still knows their own."""
    regions = {entry.region.oid: entry for part in parts for entry in part.regions}
    return Capability(name=name, regions=tuple(map(_never_routed, regions.values())))


def _never_routed(entry: RegionEntry) -> RegionEntry:
    terms = entry.terms and entry.terms.model_copy(update={"manual": True})
    return entry.model_copy(update={"terms": terms, "routing": None})


@dataclass(frozen=True)
class _Approximation:
    """A region that approximates others, not in the store yet."""

    run: Run
    region: Region
    probe: Tensor
    error: float

    def sealed(self, repository: Repository) -> RegionEntry:
        """Stores it; call this under the lock that keeps gc out until it is committed."""
        from niwfctl.repository.commit import seal

        return seal(repository, self.run, self.region, self.probe)


def _approximated(
    repository: Repository, name: str, parts: Sequence[Part], recipe: Recipe
) -> _Approximation:
    """A region of one basis, which approximates the parts at the means of their cells."""
    from niwfctl.backbone.adapter import ActiveField
    from niwfctl.backbone.probe import witnessed
    from niwfctl.repository.approximation import approximated_region
    from niwfctl.repository.model import Model
    from niwfctl.repository.regions import load_region
    from niwfctl.repository.runs import Rows, new_run
    from niwfctl.training.run import TrainingOptions

    if any(len(part.regions) > 1 for part in parts):
        raise UsageError(
            "a capability of several regions cannot be approximated by one of rank r: compose "
            f"with `--method {EXACT[0]}`"
        )
    loaded = [(part.weight, load_region(repository, part.regions[0])) for part in parts]
    region, error = approximated_region(loaded, recipe)
    model = Model(repository)
    model.adapter.active = ActiveField.of_region(model.adapter.groups, region.on(model.device))
    witness, probe = witnessed(model.adapter)
    rank = region.bases[0].rank
    run = new_run(
        model,
        name,
        [f"{part.weight:+g} {part.of}" for part in parts],
        "",
        Rows([], [], 0),
        TrainingOptions(bases=1, rank=rank, alpha=rank, seed=recipe.seed),
        origin="composed",
        steps=0,
        witness=witness,
    )
    return _Approximation(run, region, probe, error)
