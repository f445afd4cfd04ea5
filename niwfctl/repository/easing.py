"""What has become of the limits of another revision: removed, loosened, or never set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from operator import gt, lt
from typing import TYPE_CHECKING

from niwfctl.atlas import Atlas
from niwfctl.config import FILE, Config, Gate
from niwfctl.errors import FormatError
from niwfctl.repository.beginning import differing
from niwfctl.repository.verify import Check

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository

_LOOSER = {  # than before
    "max_perplexity": gt,
    "max_regression": gt,
    "min_exact_match": lt,
    "min_owned": lt,
}


@dataclass(frozen=True)
class Baseline:
    """What HEAD is compared with.

    Attributes:
        called: its name in messages.
        commit: its id; None where there is none, as before the first commit.
        atlas: its capabilities.
    """

    called: str
    commit: str | None = None
    atlas: Atlas = field(default_factory=dict)


def limits(gate: Gate | None) -> dict[str, float]:
    """The limits that a gate sets, by their names in niwf.toml."""
    found = {name: getattr(gate, name, None) for name in _LOOSER}
    return {name: limit for name, limit in found.items() if limit is not None}


def eased(repository: Repository, before: Baseline, strict: bool) -> Iterator[Check]:
    """A check for every way in which HEAD's niwf.toml asks for less than the baseline's.

    They are notes, which fail only if `strict`: a limit may be wrong, and a capability be given up.
    But who reviews a change must be told, since a gate that is gone cannot fail.
    """
    atlas, gates = repository.atlas(), repository.config.gates
    since = f"since {before.called}"

    def note(name: str, detail: str, **numbers: float | None) -> Check:
        return Check(name, "gate", not strict, detail, note=True, **numbers)

    try:
        then = _config(repository, before.commit)
    except FormatError as error:
        yield note("atlas", f"the gates of {before.called} are not known: {error}")
        then = None
    if then:
        for subject, check, detail, numbers in _of_field(then, repository.config, since):
            yield Check(subject, check, not strict, detail, note=True, **numbers)
    earlier: Mapping[str, Gate] = then.gates if then else {}
    for name, gate in sorted(earlier.items()):
        if name not in gates:
            together = "" if name in atlas else ", with the capability"
            yield note(name, f"removed {since}{together}")
            continue
        now = limits(gates[name])
        for limit, was in limits(gate).items():
            if limit not in now or _LOOSER[limit](now[limit], was):
                detail = f"{limit} loosened {since}: {was:g} → {_said(now.get(limit))}"
                yield note(name, detail, limit=now.get(limit), baseline=was)
        if name in atlas and _other_data(repository, before.commit, gate, gates[name]):
            yield note(name, f"measured on other data than {before.called}'s")
    for name, gate in sorted(gates.items()):
        if name in atlas and not _held(repository, "HEAD", gate.data):
            yield note(
                name,
                f"git does not hold {gate.data} as a plain file, so a change of it cannot be "
                "told: commit it",
            )
    for name, detail in _moved(before, atlas):
        yield Check(name, "regions", not strict, detail, note=True)
    for name in sorted(atlas.keys() - before.atlas.keys()):
        if not limits(gates.get(name)):
            lack = "its gate sets no limit" if name in gates else "no gate"
            yield note(name, f"{lack}: it is new {since}")


def _of_field(
    then: Config, now: Config, since: str
) -> Iterator[tuple[str, str, str, dict[str, float]]]:
    """(subject, check, what changed, its numbers) of what holds for every capability."""
    if other := differing(now, then):
        yield "backbone", "identity", f"another {' and '.join(other)} pinned {since}", {}
    for limit, was in then.routing:
        is_now = getattr(now.routing, limit)
        if is_now > was:
            detail = f"{limit} raised {since}: {was:g} → {is_now:g}"
            yield "atlas", "routing", detail, {"limit": is_now, "baseline": was}


def _moved(before: Baseline, atlas: Atlas) -> Iterator[tuple[str, str]]:
    """(capability, detail) of regions that the baseline has under other names only.

    Where one side trained a new capability and removed its source, plain git may take that for a
    rename, and bring what the other side added to the source into the new one.
    """
    held = _names(before.atlas)
    for id, names in sorted(_names(atlas).items()):
        for name in sorted(names - held[id] if id in held else ()):
            whose = " and ".join(sorted(held[id]))
            yield name, f"its region {id} was {whose}'s at {before.called}"


def _names(atlas: Atlas) -> dict[str, set[str]]:
    """The capabilities that have a region, by its id."""
    found: dict[str, set[str]] = {}
    for name, capability in atlas.items():
        for entry in capability.regions:
            found.setdefault(entry.id, set()).add(name)
    return found


def _config(repository: Repository, commit: str | None) -> Config | None:
    content = repository.git.blob(commit, FILE) if commit else None
    return Config.parse(content) if content is not None else None


def _other_data(repository: Repository, commit: str, was: Gate, now: Gate) -> bool:
    """Whether a gate is measured on other data than it was, as far as git holds them."""
    return was.data != now.data or (
        _held(repository, commit, now.data) != _held(repository, "HEAD", now.data)
    )


def _held(repository: Repository, commit: str, path: str) -> str | None:
    """The entry of a plain file in a commit.

    None if git does not hold it there: it is ignored, in a submodule, or a link or behind one.
    """
    entry = repository.git.plain("ls-tree", commit, "--", path)
    return entry if entry.startswith("100") else None


def _said(limit: float | None) -> str:
    return "none" if limit is None else f"{limit:g}"
