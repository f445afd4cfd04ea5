"""Merging: the union of two atlases. Regions are immutable, so nothing is retrained or averaged."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from niwfctl.atlas import Atlas, Capability, RegionEntry, changes
from niwfctl.config import FILE
from niwfctl.errors import Conflict, UsageError, shares_text
from niwfctl.layout import ATTRIBUTES_FILE, OURS, is_ours
from niwfctl.repository.names import require_distinct, require_free
from niwfctl.repository.record import changed_files, lacking, record
from niwfctl.repository.rewrite import tell_gates
from niwfctl.repository.same_field import require_same_field
from niwfctl.repository.underway import require_ended
from niwfctl.storage import storing
from niwfctl.typed import command_line

if TYPE_CHECKING:
    from niwfctl.git.git import Git
    from niwfctl.repository.audit import Excess
    from niwfctl.repository.repository import Repository

logger = logging.getLogger(__name__)

_UP_TO_DATE = ("up to date", (), (), ())


@dataclass(frozen=True)
class Resolution:
    """What to do with a capability that both sides changed.

    Attributes:
        side: `ours`, `theirs`, or None to refuse.
        rename: (capability, new name for theirs); ours keeps its name. None as capability means the
            only one that both changed.
    """

    side: str | None = None
    rename: tuple[tuple[str | None, str], ...] = ()


@dataclass(frozen=True)
class Merged:
    """The outcome of a merge.

    Attributes:
        commit: where the branch is now.
        kind: `up to date`, `fast-forward`, `merge`, or `settled` (HEAD or its branch was
            merged with itself, which settles only routing).
        added, changed, removed: names of capabilities, compared with our side before.
        biases: routing biases in nats (before, after) that the merge had to change, by name, or by
            `NAME/ID` where a capability has several regions.
        takeovers: the regions that would have won more of an earlier one than allowed.
        shadowed: shares of a capability's anchors by owner, for each of which others now own more
            than `max_shadow`, and did not on a side that has it.
        other_files: paths that changed here and are neither pointers nor manifests. Some act by
            themselves, such as .lfsconfig, niwf.toml and workflows.
    """

    commit: str
    kind: str
    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    biases: dict[str, tuple[float, float]] = field(default_factory=dict)
    takeovers: tuple[Excess, ...] = ()
    shadowed: dict[str, dict[str, float]] = field(default_factory=dict)
    other_files: tuple[str, ...] = ()


def merge(
    repository: Repository, revision: str, resolution: Resolution, message: str | None
) -> Merged:
    """Implements `Repository.merge`."""
    require_ended(repository)
    message = f"Merge {revision}" if message is None else message
    with storing(), repository.writing(), repository.operations.recording(command_line(message)):
        merged = _merge(repository, revision, resolution, message)
    for name, owners in merged.shadowed.items():
        _warn_of_shadow(name, owners, repository.config.routing.max_shadow)
    tell_gates(repository, merged.removed)
    if merged.kind != "up to date":
        repository.git.tell_hook("post-merge", "0")
    return merged


def _merge(repository: Repository, revision: str, resolution: Resolution, message: str) -> Merged:
    git = repository.git
    for _, name in resolution.rename:
        require_free(repository, name)
    ours, theirs = git.resolve("HEAD"), git.resolve(revision)
    require_same_field(repository, theirs, revision)
    bases = git.merge_bases(ours, theirs)
    before, after = repository.atlas(ours), repository.atlas(theirs)
    if bases in ([ours], [theirs]):
        _renames(resolution, [], before, after)  # nothing was changed on both sides
    if bases == [theirs]:
        own = revision in ("HEAD", git.branch())  # another name of that commit asks for nothing
        return _settle(repository, ours) if own else Merged(ours, *_UP_TO_DATE)
    if bases == [ours]:
        git.move(ours, theirs, f"niwfctl merge {revision}: fast-forward")
        return _report(git, ours, theirs, "fast-forward", before, after)
    git.require_identity(repository.path)  # only now: moving a branch along needs no author
    common = [repository.atlas(base) for base in bases] or [{}]
    union = united(common, before, after, resolution, revision)
    require_distinct(union)
    atlas, routed = _routed(repository, union, (before, after))
    commit = _commit(repository, ours, theirs, atlas, message, related=bool(bases))
    git.move(ours, commit, f"niwfctl merge {revision}")
    return replace(_report(git, ours, commit, "merge", before, atlas), **routed)


def _settle(repository: Repository, head: str) -> Merged:
    """Restores the routing lock, and lost pointers, where plain `git merge` joined branches."""
    from niwfctl.repository.routing import settled

    before = repository.atlas(head)
    after, routed = _routed(repository, before, (before,))
    if after == before and not lacking(repository, head, after):
        return Merged(head, *_UP_TO_DATE)
    commit = record(repository, lambda atlas: settled(repository, atlas), "Settle the routing")
    after = repository.atlas(commit)
    return replace(_report(repository.git, head, commit, "settled", before, after), **routed)


def _routed(
    repository: Repository, union: Atlas, sides: Sequence[Atlas]
) -> tuple[Atlas, dict[str, Any]]:
    """The atlas with its routing settled, and the report's fields about that."""
    from niwfctl.repository.audit import audited
    from niwfctl.repository.routing import base_tensors, newly_shadowed, routed_regions, settled

    atlas = settled(repository, union)
    found = audited(base_tensors(repository), routed_regions(repository, union))
    before, after = _biases(union), _biases(atlas)
    biases = {of: (before[of], after[of]) for of in before if before[of] != after[of]}
    return atlas, {
        "biases": biases,
        "takeovers": found.excesses,
        "shadowed": newly_shadowed(sides, atlas, repository.config.routing.max_shadow),
    }


def _warn_of_shadow(name: str, owners: dict[str, float], allowed: float) -> None:
    """Warns rather than refuses: the terms of both sides are sealed, and could not be mended."""
    logger.warning(
        "%s of the prompts of %r, more than %.0f%% (max_shadow), since it was committed first or "
        "as early: train %s again with --revise to put it after %r, take the merge back with "
        "`niwfctl undo`, or ask for %r by name",
        shares_text(owners, "now owns"),
        name,
        100 * allowed,
        ", ".join(map(repr, sorted(owners))),
        name,
        name,
    )


def _biases(atlas: Atlas) -> dict[str, float]:
    """The routing bias of every region, by the name of its capability, or `NAME/ID`."""
    return {
        name if len(capability.regions) == 1 else f"{name}/{entry.id}": (
            entry.routing.bias if entry.routing else 0.0
        )
        for name, capability in atlas.items()
        for entry in capability.regions
    }


def united(
    bases: Sequence[Atlas],
    ours: Atlas,
    theirs: Atlas,
    resolution: Resolution,
    revision: str = "BRANCH",
) -> Atlas:
    """The three-way union: takes what one side changed; what both changed needs a resolution.

    Of a capability that both sides only extended, it keeps the regions of both, unless a resolution
    says otherwise. What one side renamed and the other changed is changed under its new name.
    Without conflicts, the result does not depend on which side is ours.

    Args:
        bases: of the best common ancestors. After criss-cross merges there are several, and a side
            has changed whatever differs from any of them.
        revision: what is merged, for messages.

    Raises:
        Conflict: both sides changed a capability, or one removed what the other changed, and
            nothing says which to take.
        UsageError: a rename does not apply.
    """
    bases, ours, theirs = _under_new_names(bases, ours, theirs)
    atlas: Atlas = {}
    conflicts = []
    for name in sorted(ours.keys() | theirs.keys()):
        mine, other = _unrouted(ours.get(name)), _unrouted(theirs.get(name))
        before = [_unrouted(base.get(name)) for base in bases]
        if mine == other or all(one == other for one in before):
            taken: Capability | None = ours.get(name)
        elif all(one == mine for one in before):
            taken = theirs.get(name)
        else:
            conflicts.append(name)
            continue
        if taken is not None:
            atlas[name] = taken
    renames = _renames(resolution, conflicts, ours, theirs)
    for name, new in renames.items():
        atlas[name] = ours[name]
        atlas[new] = theirs[name].model_copy(update={"name": new})
    open_ones = [name for name in conflicts if name not in renames]
    if not resolution.side:
        for name in open_ones:
            of_bases = [base.get(name) for base in bases]
            if extended := _extended(of_bases, ours.get(name), theirs.get(name)):
                atlas[name] = extended
        open_ones = [name for name in open_ones if name not in atlas]
    if open_ones and not resolution.side:
        here, there = ([one for one in open_ones if one not in side] for side in (ours, theirs))
        both = [one for one in open_ones if one not in (*here, *there)]
        raise Conflict(both, here, there, revision)
    side = ours if resolution.side == "ours" else theirs
    atlas |= {name: side[name] for name in open_ones if name in side}
    return dict(sorted(atlas.items()))


def _under_new_names(
    bases: Sequence[Atlas], ours: Atlas, theirs: Atlas
) -> tuple[list[Atlas], Atlas, Atlas]:
    """The atlases, in which what one side renamed has its new name on the other and before."""
    before, sides = [dict(base) for base in bases], [dict(ours), dict(theirs)]
    for side, other in (sides, sides[::-1]):
        for old, new in _renamed(bases, side).items():
            if old in other and new not in other:
                for atlas in (*before, other):
                    atlas[new] = atlas.pop(old).model_copy(update={"name": new})
    return before, *sides


def _renamed(bases: Sequence[Atlas], side: Atlas) -> dict[str, str]:
    """The new names of capabilities that a side has under no old one, with all of their regions."""
    known = {name for base in bases for name in base}
    found: dict[str, str] = {}
    for old in sorted(known - side.keys()):
        of_bases = [base.get(old) for base in bases]
        names = [new for new in side.keys() - known if _contains(side[new], of_bases)]
        if len(names) == 1:
            found[old] = names[0]
    return found


def _contains(capability: Capability, earlier: Sequence[Capability | None]) -> bool:
    """Whether it has all regions of each earlier one, and each has some."""
    own = _regions(capability).items()
    return all(one and one.regions and _regions(one).items() <= own for one in earlier)


def _extended(
    bases: Sequence[Capability | None], ours: Capability | None, theirs: Capability | None
) -> Capability | None:
    """A capability with the regions that either side added; None if one did anything else to it."""
    if not (ours and theirs and _contains(ours, bases) and _contains(theirs, bases)):
        return None
    # terms of a region that both have may differ, and nothing says which hold
    others = _regions(theirs)
    if any(others.get(id, entry) != entry for id, entry in _regions(ours).items()):
        return None
    both = {entry.id: entry for side in (theirs, ours) for entry in side.regions}
    regions = tuple(sorted(both.values(), key=lambda entry: entry.place))
    return ours.model_copy(update={"regions": regions})


def _regions(capability: Capability | None) -> dict[str, RegionEntry]:
    """Its regions by id, without routing."""
    return {entry.id: entry for entry in capability.unrouted.regions} if capability else {}


def _renames(
    resolution: Resolution, conflicts: list[str], ours: Atlas, theirs: Atlas
) -> dict[str, str]:
    """New names for theirs, by capability.

    Raises:
        UsageError: a name is taken or invalid, or there are not two capabilities to keep.
    """
    renames: dict[str, str] = {}
    for name, new in resolution.rename:
        if name is None and len(conflicts) != 1:
            raise UsageError(
                f"--rename {new}: both sides changed {', '.join(conflicts) or 'nothing'}: say "
                f"which gets the name, as in `--rename NAME={new}`"
            )
        name = name or conflicts[0]
        if name not in conflicts or name not in ours or name not in theirs:
            how = "removed on one side" if name in conflicts else "not changed on both sides"
            raise UsageError(
                f"--rename {name}={new}: {name!r} was {how}, so there are not two to keep"
            )
        if new in {*ours, *theirs, *renames.values()}:
            raise UsageError(f"--rename {name}={new}: {new!r} is taken already")
        renames[name] = new
    return renames


def _unrouted(capability: Capability | None) -> Capability | None:
    return capability.unrouted if capability else None


def _commit(
    repository: Repository, ours: str, theirs: str, atlas: Atlas, message: str, *, related: bool
) -> str:
    git = repository.git
    tree, paths = git.merge_tree(ours, theirs)
    # In unrelated histories neither side is known to have changed these: ours stay.
    settings = () if related else (FILE, ATTRIBUTES_FILE)
    foreign = [path for path in paths if not path.startswith((*OURS, *settings))]
    if foreign:
        raise UsageError(
            f"both sides changed {', '.join(foreign)}: merge these with `git merge`, then "
            "`niwfctl verify`"
        )
    # Remove what either side has, then add what was taken: git may have kept what was not.
    files = changed_files(repository.atlas(ours), {}) | changed_files(repository.atlas(theirs), {})
    files |= changed_files({}, atlas)
    files |= {path: git.blob(ours, path) for path in paths if path in settings}
    return git.commit(files, message, [ours, theirs], onto=tree)


def _report(git: Git, ours: str, commit: str, kind: str, before: Atlas, after: Atlas) -> Merged:
    others = tuple(path for path in git.differing(ours, commit) if not is_ours(path))
    return Merged(commit, kind, *changes(before, after), other_files=others)
