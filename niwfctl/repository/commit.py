"""Committing: finished trainings become immutable objects, manifests and a git commit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from niwfctl.atlas import Atlas, Capability, ObjectRef, RegionEntry, Terms, get_capability
from niwfctl.backbone.platform import current_platform
from niwfctl.errors import NiwfError, UnknownName, UsageError
from niwfctl.field.basis import Basis
from niwfctl.field.generator import Generator
from niwfctl.field.naming import under
from niwfctl.field.region import Region
from niwfctl.repository.record import record
from niwfctl.repository.regions import load_basis, pins
from niwfctl.repository.routing import require_light, settled, warn_of_superseded
from niwfctl.repository.trainings import obstacle
from niwfctl.repository.underway import require_ready
from niwfctl.several import Names, several
from niwfctl.storage import storing
from niwfctl.tensors import as_bytes
from niwfctl.training import checkpoint
from niwfctl.training.run import Run
from niwfctl.typed import command_line

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository


@dataclass(frozen=True)
class Committed:
    """A commit: its id and what it added."""

    commit: str
    capabilities: tuple[Capability, ...]


@dataclass(frozen=True)
class RoutingOptions:
    """How a new region shares coordinate space with existing ones.

    Attributes:
        max_takeover: share of each earlier region's anchors it may win, from 0 to 1; None for
            niwf.toml's.
        manual: never route to it.
        supersede: names of capabilities whose prompts it competes for on equal terms.
        accept_shadow: commit it even where earlier ones own most of its prompts.
        general: it also gets prompts of the base, as if it had been trained with `general`.
    """

    max_takeover: float | None = None
    manual: bool = False
    supersede: Names = ()
    accept_shadow: bool = False
    general: bool = False

    def __post_init__(self) -> None:
        """Requires a share.

        Raises:
            UsageError: `max_takeover` is none.
        """
        if self.max_takeover is not None and not 0 <= self.max_takeover <= 1:
            raise UsageError(f"--max-takeover {self.max_takeover:g}: give a share from 0 to 1")


def commit(
    repository: Repository, names: list[str], message: str, routing: RoutingOptions
) -> Committed:
    """Implements `Repository.commit`. Order: objects, git objects, work tree, branch."""
    if not message.strip():
        raise UsageError("an empty commit message: say what was trained")
    require_ready(repository)
    with storing(), repository.writing():
        runs = trained(repository, names)
        sealed = [_sealed(repository, run) for run in runs]
        done = commit_regions(repository, sealed, message, routing, [run.name for run in runs])
    repository.git.tell_hook("post-commit")
    return done


def commit_regions(
    repository: Repository,
    entries: Sequence[RegionEntry],
    message: str,
    routing: RoutingOptions,
    trainings: Sequence[str] = (),
) -> Committed:
    """Commits regions as one operation; the caller holds the lock under which they were sealed.

    Args:
        trainings: names of those to put aside.

    Raises:
        UsageError, UnknownName, Shadowed: as `adding`.
        GitError: git refuses.
    """
    with repository.operations.recording(command_line(message)) as operation:
        new = record(repository, lambda atlas: adding(repository, atlas, entries, routing), message)
        for name in trainings:
            repository.operations.set_aside(operation, name)
    atlas, names = repository.atlas(new), [entry.run.name for entry in entries]
    warn_of_superseded(atlas, names, repository.config.routing.max_shadow)
    return Committed(new, tuple(atlas[name] for name in names))


def trained(repository: Repository, names: Sequence[str]) -> list[Run]:
    """The trainings that a commit would seal.

    Raises:
        NiwfError: no training is finished.
        UnknownName: nothing is trained under a name, or it revises or extends what is not at HEAD.
        UsageError: a training is not finished, used another coordinate map, or its name is taken.
    """
    waiting = {run.name: run for run in repository.uncommitted()}
    for name in names:
        if name not in waiting:
            repository.trainings.get(name)  # raises if it cannot be read
            raise UnknownName(
                f"nothing is trained under {name!r}: train it with `niwfctl train {name} --data …`"
            )
    chosen = [waiting[name] for name in dict.fromkeys(names)]
    chosen = chosen or [run for run in waiting.values() if run.finished]
    if not chosen:
        raise NiwfError(
            "nothing to commit: no training is finished; train one with `niwfctl train NAME`"
        )
    for run in chosen:
        if not run.finished:
            raise UsageError(
                f"the training of {run.name!r} stopped at step {run.step} of {run.steps}: resume "
                f"it with `niwfctl train {run.name} --resume`, or end it there with `--finish`"
            )
        if run.coordinates != repository.config.field.coordinates:
            raise UsageError(
                f"{run.name!r} was trained on another coordinate map: train it again with --restart"
            )
    _require_place(repository, chosen)
    return chosen


def _require_place(repository: Repository, runs: Sequence[Run]) -> None:
    """Requires that each training can be committed onto HEAD."""
    atlas = repository.atlas()
    found = [(run, obstacle(run, atlas)) for run in runs]
    others = [run.name for run, clause in found if not clause]
    for run, clause in found:
        if clause:
            ways = [f"commit the others with `niwfctl commit {' '.join(others)}`"] if others else []
            if run.options.mode == "new":
                ways.append(f"give that one another name with `niwfctl mv {run.name} OTHER`")
            ways.append(f"discard this training with `niwfctl rm --training {run.name}`")
            error = UsageError if run.options.mode == "new" else UnknownName
            raise error(f"the training {run.name!r} {clause}: {', or '.join(ways)}")


def seal(repository: Repository, run: Run, region: Region, probe: Tensor) -> RegionEntry:
    """Stores a region and the bases that are its own.

    Args:
        run: its record; the region's first bases are the reused ones that it names.
        probe: the sample of the run's witness, [sequences, ≤ 256].

    Returns:
        Its manifest entry, without routing terms so far.
    """
    own = region.bases[len(run.reused) :]
    stored = [repository.store.put_tensors(as_bytes(basis.tensors())) for basis in own]
    bases = tuple(map(ObjectRef.of, (*run.reused, *stored)))
    pinned = pins(bases, region.scale, region.layers)
    tensors = region.tensors() | pinned | {"probe": probe}
    return RegionEntry(
        region=ObjectRef.of(repository.store.put_tensors(as_bytes(tensors))),
        bases=bases,
        scale=region.scale,
        layers=region.layers,
        radius=float(region.cell.radius),
        anchors=len(region.anchors),
        run=run.without_folders,
        sealed_on=current_platform(torch.device("cpu")),
    )


def adding(
    repository: Repository, atlas: Atlas, entries: Sequence[RegionEntry], routing: RoutingOptions
) -> Atlas:
    """An atlas with added regions, each under its run's name, and the routing lock settled.

    Raises:
        UsageError: a new capability's name is taken.
        UnknownName: the capability to extend or revise does not exist.
        Shadowed: earlier capabilities own too much of a region.
    """
    superseded = tuple(
        entry.id
        for name in several(routing.supersede)
        for entry in _owning(get_capability(atlas, name))
    )
    limits = repository.config.routing
    order = _next_order(atlas)
    for number, entry in enumerate(entries):
        terms = Terms(
            order=order + number,
            max_takeover=limits.max_takeover
            if routing.max_takeover is None
            else routing.max_takeover,
            max_base_takeover=limits.max_base_takeover,
            manual=routing.manual,
            general=routing.general or entry.run.options.general,
            supersedes=superseded,
        )
        atlas |= {
            entry.run.name: _with(atlas, entry.run, entry.model_copy(update={"terms": terms}))
        }
    names = [entry.run.name for entry in entries]
    atlas = settled(repository, atlas, names)
    if not routing.accept_shadow:
        require_light(atlas, names, limits.max_shadow)
    return atlas


def _owning(capability: Capability) -> tuple[RegionEntry, ...]:
    """The regions through which a capability owns prompts.

    Raises:
        UsageError: it is a composition, which owns none.
    """
    if capability.parts:
        raise UsageError(
            f"{capability.name!r} is a composition and owns no prompts to supersede: name what it "
            f"is made of, {', '.join(part.of for part in capability.parts)}"
        )
    return capability.regions


def _next_order(atlas: Atlas) -> int:
    """The next place in the order, after every region, even if some were removed."""
    regions = (entry for capability in atlas.values() for entry in capability.regions)
    return 1 + max((entry.terms.order for entry in regions if entry.terms), default=-1)


def _with(atlas: Atlas, run: Run, entry: RegionEntry) -> Capability:
    mode = run.options.mode
    if mode == "new" and run.name in atlas:
        raise UsageError(
            f"{run.name!r} was committed in the meantime: give that one another name with "
            f"`niwfctl mv {run.name} OTHER`, then commit this training"
        )
    earlier = get_capability(atlas, run.name).regions if mode != "new" else ()
    return Capability(name=run.name, regions=(*earlier, entry) if mode == "extend" else (entry,))


def _sealed(repository: Repository, run: Run) -> RegionEntry:
    run, tensors = checkpoint.load(repository.trainings.checkpoint(run.name))
    reused = tuple(load_basis(repository, ObjectRef.of(one)) for one in run.reused)
    return seal(repository, run, _region(run, tensors, reused), tensors["probe"])


def _region(run: Run, tensors: dict[str, Tensor], reused: tuple[Basis, ...]) -> Region:
    """The region of a finished training; its own bases in bf16, as they were measured."""
    own = tuple(
        Basis.from_tensors(under(tensors, f"bases.{index}")).to(dtype=torch.bfloat16)
        for index in range(run.options.bases)
    )
    layers = own[0].layers
    seen = tensors["coordinates"]
    return Region.seal(
        Generator.from_tensors(under(tensors, "generator"), len(layers)),
        (*reused, *own),
        scale=run.options.alpha / run.options.rank,
        layers=layers,
        coordinates=seen[~seen.isnan().any(1)],
        held_out=tensors["held_out"],
        seed=run.options.seed,
    )
