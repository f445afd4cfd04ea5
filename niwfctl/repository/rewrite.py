"""Changes without training: rollback, rm and mv, each a commit; and those of trainings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from niwfctl.atlas import Atlas, Capability, get_capability, listed
from niwfctl.config import FILE
from niwfctl.errors import FormatError, ObjectError, StorageError, UnknownName, UsageError
from niwfctl.layout import manifest_file
from niwfctl.repository.checkout import activate, active
from niwfctl.repository.names import require_file_name, require_free, warn_of_ref
from niwfctl.repository.record import record
from niwfctl.repository.same_field import require_same_field
from niwfctl.repository.trainings import uncommitted
from niwfctl.repository.underway import require_ready
from niwfctl.typed import command_line

if TYPE_CHECKING:
    from niwfctl.repository.operations import Operation, Operations
    from niwfctl.repository.repository import Repository
    from niwfctl.training.run import Run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rollback:
    """What a rollback did, or would do.

    Attributes:
        commit: its id; None where nothing was committed.
        source: id of the commit that it takes things from.
        before: the atlas as it was.
        after: the atlas as it is, or would be.
    """

    commit: str | None
    source: str
    before: Atlas
    after: Atlas


def remove(repository: Repository, names: Sequence[str], message: str | None) -> str:
    """Commits the removal of capabilities; objects that others use stay in the tree.

    Returns:
        Id of the commit.

    Raises:
        UnknownName: there is no such capability.
        UsageError: no name is given.
    """
    if not names:
        raise UsageError("say what to remove: name one or more capabilities")

    def without(atlas: Atlas) -> Atlas:
        for name in names:
            if name not in atlas and repository.trainings.checkpoint(name).is_file():
                raise UnknownName(
                    f"{name!r} is no capability here but an uncommitted training: discard it with "
                    f"`niwfctl rm --training {name}`"
                )
            get_capability(atlas, name)
        return {name: capability for name, capability in atlas.items() if name not in names}

    was = active(repository)
    message = f"Remove {', '.join(names)}" if message is None else message
    commit = _recorded(repository, without, message, dict.fromkeys(names))
    if was in names:
        logger.warning("%s was active: now the bare backbone is", was)
    tell_gates(repository, names)
    return commit


def discard(repository: Repository, names: Sequence[str]) -> None:
    """Implements `Repository.discard`; a damaged training can be discarded, too."""
    if not names:
        raise UsageError("say what to discard: name one or more trainings")
    operations, trainings = repository.operations, repository.trainings
    command = command_line(f"Discard the training of {', '.join(names)}")
    with repository.writing(), trainings.locked(), operations.recording(command) as operation:
        there = [checkpoint.parent.name for checkpoint in trainings.checkpoints()]
        for name in names:
            if name not in there:
                raise UnknownName(f"nothing is trained under {name!r}: there are {listed(there)}")
        for name in dict.fromkeys(names):
            _put_aside(operations, operation, name)


def _put_aside(operations: Operations, operation: Operation, name: str) -> None:
    operations.set_aside(operation, name)
    if name not in operation.removed:
        raise StorageError(
            f"the training of {name!r} stays, since it cannot be put aside for `undo` in "
            f"{operations.folder_of(operation)}: make room on the disk"
        )


def rename(repository: Repository, old: str, new: str, message: str | None) -> str | None:
    """Commits a new name of a capability, or gives an uncommitted training another one.

    Returns:
        Id of the commit; None for a training.

    Raises:
        UnknownName: there is no such capability or training.
        UsageError: the new name is taken or invalid, or the training is of a committed capability.
        Busy: a training is in progress.
        StorageError: the disk is full or read-only.
    """
    if old not in repository.atlas() and (run := uncommitted(repository, old)):
        _rename_training(repository, run, new, message)
        return None

    def renamed(atlas: Atlas) -> Atlas:
        capability = get_capability(atlas, old)
        require_free(repository, new, atlas)
        atlas = {name: other for name, other in atlas.items() if name != old}
        return atlas | {new: capability.model_copy(update={"name": new})}

    message = f"Rename {old} to {new}" if message is None else message
    commit = _recorded(repository, renamed, message, {old: new})
    warn_of_ref(repository, new)
    tell_gates(repository, [old])
    return commit


def _rename_training(repository: Repository, run: Run, new: str, message: str | None) -> None:
    from niwfctl.training import checkpoint

    if message is not None:
        raise UsageError(
            f"{run.name!r} is not committed yet, so renaming it is no commit: leave out the message"
        )
    if run.options.mode != "new":
        raise UsageError(
            f"the training of {run.name!r} is of the capability of that name, so it cannot get "
            "another: commit it where that capability is, or discard it with `niwfctl rm "
            f"--training {run.name}`"
        )
    operations, trainings = repository.operations, repository.trainings
    command = command_line(f"Rename the training of {run.name} to {new}")
    with repository.writing(), trainings.locked(), operations.recording(command) as operation:
        require_free(repository, new)
        now, tensors = checkpoint.load(trainings.checkpoint(run.name))
        checkpoint.save(trainings.checkpoint(new), now.model_copy(update={"name": new}), tensors)
        operation.added.append(new)
        _put_aside(operations, operation, run.name)  # a kill before this leaves both
    warn_of_ref(repository, new)


def tell_gates(repository: Repository, gone: Iterable[str]) -> None:
    """Warns of gates without a capability; does not edit niwf.toml, which is the user's."""
    for name in gone:
        if name in repository.config.gates:
            logger.warning(
                "%s still sets [gates.%s], on which `niwfctl check` fails: change it there",
                FILE,
                name,
            )


def rollback(
    repository: Repository, name: str | None, revision: str | None, dry_run: bool
) -> Rollback:
    """Commits a capability, or the whole atlas, as it was.

    The whole atlas comes back with its biases; a single capability gets those that the routing lock
    needs now, as after a merge.

    Args:
        name: of the capability; None for the whole atlas.
        revision: to take it from; by default the one before it became what it is.
        dry_run: commit nothing.

    Raises:
        UnknownName: there is no such revision, or no such capability there.
        UsageError: nothing would change, it was on another backbone or coordinate map, or its name
            differs from an existing capability's only in case.
    """
    if name is None and revision is None:
        raise UsageError(
            "say what to bring back: name a capability, or give --to REV for everything"
        )
    given = revision is not None
    source = repository.git.resolve(revision) if given else _earlier(repository, name)
    called = revision if given else source[:12]
    then = repository.atlas(source)
    require_same_field(repository, source, called)
    if name is not None and name not in then:
        raise UnknownName(f"there was no capability {name!r} at {called}")

    def brought_back(atlas: Atlas) -> Atlas:
        return dict(then) if name is None else _settled(repository, atlas | {name: then[name]})

    before = repository.atlas()
    if name is not None:
        require_file_name(name, before)
    # Where plain git merged, others' routing may not be settled: bringing back one is no reason to.
    same = name in before and before[name].unrouted == then[name].unrouted
    after = before if same else brought_back(dict(before))
    if after == before:
        raise UsageError(f"{name or 'everything'} is already as it was at {source[:12]}")
    message = f"Roll back {name or 'everything'} to {source[:12]}"
    commit = None if dry_run else _recorded(repository, brought_back, message)
    if commit:
        tell_gates(repository, sorted(before.keys() - after.keys()))
    return Rollback(commit, source, before, after)


def _earlier(repository: Repository, name: str) -> str:
    """As `version_before`; tells who gave a revision in place of a name how to go back to it."""
    try:
        return version_before(repository, name)
    except UnknownName:
        with suppress(UnknownName):
            commit = repository.git.resolve(name)
            if name not in repository.atlas():
                raise UsageError(
                    f"{name!r} is no capability but the commit {commit[:12]}: bring everything "
                    f"back as it was there with `niwfctl rollback --to {name}`, or a capability "
                    f"with `niwfctl rollback NAME --to {name}`"
                ) from None
        raise


def version_before(repository: Repository, name: str) -> str:
    """The newest commit with an earlier version of a capability than HEAD's.

    At a merge, it follows the first parent that has the capability: so a branch merged since,
    whatever its dates, does not bring back what was replaced before.

    Raises:
        UnknownName: there is no earlier version of it.
    """
    git, file = repository.git, manifest_file(name)
    commit = git.resolve("HEAD")
    parents = {line.split()[0]: line.split()[1:] for line in git.log(commit, "%H %P").splitlines()}
    blobs = git.blob_ids(file, parents)

    @cache
    def version(blob: str | None) -> Capability | None:
        return None if blob is None else _version(git.blobs([blob])[blob], file)

    now = version(blobs[commit])
    while above := parents[commit]:
        commit = next((parent for parent in above if version(blobs[parent])), above[0])
        if version(blobs[commit]) not in (None, now):
            return commit
    get_capability(repository.atlas(), name)
    raise UnknownName(
        f"{name!r} has no earlier version in this history: see `niwfctl log`, and give --to"
    )


def _version(content: bytes, file: str) -> Capability | None:
    """A manifest's capability, without its routing; None if it cannot be read."""
    try:
        return Capability.parse(content, file).unrouted
    except FormatError:  # a later commit fixed it, so this is no version to return to
        return None


def _settled(repository: Repository, atlas: Atlas) -> Atlas:
    from niwfctl.repository.routing import settled

    try:
        return settled(repository, atlas)
    except ObjectError as error:  # of another capability, which must not prevent this
        logger.warning("%s; then settle the routing with `niwfctl merge HEAD`", error)
        return atlas


def _recorded(
    repository: Repository,
    change: Callable[[Atlas], Atlas],
    message: str,
    successors: Mapping[str, str | None] | None = None,
) -> str:
    """Commits a changed atlas as one operation; returns the commit's id.

    Args:
        successors: by removed capability, what becomes active if it was.
    """
    require_ready(repository)
    with repository.writing(), repository.operations.recording(command_line(message)):
        commit = record(repository, change, message)
        if successors and (was := active(repository)) in successors:
            activate(repository, successors[was])
    repository.git.tell_hook("post-commit")
    return commit
