"""Whether the field is still the one that began, on the backbone that capabilities learned on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from niwfctl.atlas import Capability
from niwfctl.config import FILE, Config, restoring
from niwfctl.layout import object_file
from niwfctl.repository.backbone import identities

if TYPE_CHECKING:
    from niwfctl.backbone.load import Source
    from niwfctl.repository.repository import Repository


def changed(
    repository: Repository, source: Source, capabilities: Iterable[Capability]
) -> str | None:
    """Why capabilities would act otherwise than where they were trained, as a sentence.

    Whoever changes what niwf.toml pins changes every answer, though no object differs.

    Args:
        source: the pinned backbone, whose identity other versions may have computed otherwise.
    """
    own, begun = repository.config, _begun(repository)
    witnessed = any(own.backbone.witness == then.backbone.witness for then in begun.values())
    for commit, then in begun.items():
        known = _known(own, source, then.backbone.identity)
        other = differing(own, then, same_backbone=known)
        if witnessed:  # the other beginnings may have been on other platforms
            other = [key for key in other if key != "witness"]
        if other:
            return (
                f"{FILE} has another {' and '.join(other)} than at {commit[:12]}, where the field "
                "begins, so capabilities would act otherwise than they were trained: set it back"
            )
    for capability in capabilities:
        for run in (entry.run for entry in capability.all_regions):
            if not _known(own, source, run.backbone):
                return (
                    f"{capability.name} was trained on another backbone ({run.backbone[:19]}) than "
                    f"{FILE} pins ({own.backbone.identity[:19]}); {restoring(FILE)}"
                )
            if run.coordinates != own.field.coordinates:
                return (
                    f"{capability.name} was trained with another coordinate map "
                    f"({run.coordinates[:12]}) than {FILE} pins ({own.field.coordinates[:12]}); "
                    f"{restoring(FILE)}"
                )
    return None


def differing(one: Config, other: Config, *, same_backbone: bool | None = None) -> list[str]:
    """The entries of niwf.toml, of those that determine what capabilities do, that differ.

    Args:
        same_backbone: whether both identities are those of one backbone; by default, if equal.
    """
    mine, theirs = one.backbone, other.backbone
    if same_backbone is None:
        same_backbone = mine.identity == theirs.identity
    found = [] if same_backbone else ["backbone"]
    found += [key for key in ("quant", "witness") if getattr(mine, key) != getattr(theirs, key)]
    found += mine.read_otherwise(theirs)
    own = dict(one.field)
    return found + [key for key, value in other.field if own[key] != value]


def _known(config: Config, source: Source, identity: str) -> bool:
    """Whether an identity is the pinned backbone's; of a copy of a hub's files, the hub's too."""
    pinned = config.backbone
    same = (pinned.identity, f"hub:{pinned.model}@{pinned.revision}")
    return identity in same or identity in identities(source)


def _begun(repository: Repository) -> dict[str, Config]:
    """niwf.toml of the commit in which the field began, by that commit.

    There are several where histories of one field without a common commit were merged.
    """
    git, field = repository.git, repository.config.field
    added = ("--full-history", "--diff-filter=A", "--", object_file(field.coordinates))
    commits = git.log("HEAD", "%H", *added).split()
    first = [one for one in commits if not any(_after(repository, one, two) for two in commits)]
    contents = {commit: git.blob(commit, FILE) for commit in first}
    return {commit: Config.parse(content) for commit, content in contents.items() if content}


def _after(repository: Repository, commit: str, other: str) -> bool:
    """Whether a commit has another one among its ancestors."""
    return commit != other and repository.git.merge_bases(commit, other) == [other]
