"""Gates for pipelines: is HEAD fit to ship?"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from niwfctl.atlas import Atlas, Capability
from niwfctl.config import FILE, Gate
from niwfctl.errors import (
    DataError,
    NiwfError,
    StorageError,
    UsageError,
    hindrance_of_needed,
    shared,
    shares_text,
)
from niwfctl.repository.diff import parent_of_head
from niwfctl.repository.easing import Baseline, eased, limits
from niwfctl.repository.measure import Bench, Data, Measured, Tell, named
from niwfctl.repository.verify import Check, verify
from niwfctl.storage import storing

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository

logger = logging.getLogger(__name__)

_PARENT = "HEAD~1"
_NULL = re.compile("0{40}|0{64}")  # what pipelines are given as a new branch's previous commit


def check(
    repository: Repository,
    against: str | None,
    report: Tell = lambda what, done, rows: None,
    strict: bool = False,
) -> list[Check]:
    """Verifies HEAD, then measures every gate of its niwf.toml.

    Results are remembered, so that an unchanged capability is not measured twice.

    Args:
        against: revision to compare with where a gate limits the regression; HEAD's parent by
            default. If one is given, it is also noted where HEAD's gates hold less than its own.
            With git's null id, everything is new.
        report: told what is in progress.
        strict: whether what is noted fails.

    Raises:
        DataError: a gate's data cannot be used.
        UnknownName: there is no such revision, or a shallow clone lacks HEAD's parent.
        UsageError: `strict`, but nothing to compare with.
    """
    if strict and against is None:
        raise UsageError(
            "--strict compares the gates with another revision's: say which with --against REV"
        )
    atlas, gates = repository.atlas(), committed_gates(repository)
    limited = any(gate.max_regression is not None for gate in gates.values())
    given = against is not None
    before = _baseline(repository, against) if given or limited else Baseline("")
    data = {name: gate_data(repository, name) for name in gates if name in atlas}
    report("verifying", 0, 0)
    checks = _verified(repository)
    bench = Bench(repository, report)
    for name, gate in sorted(gates.items()):
        if name not in atlas:
            problem = f"{FILE} has a gate for it, but HEAD has no such capability"
            checks.append(Check(name, "gate", False, problem))
        elif stops := [one for one in checks if not one.ok and _stops(one, name)]:
            hindered = shared([one.hindered for one in stops])
            checks.append(Check(name, "gate", False, "not measured: see above", hindered=hindered))
        else:
            checks += _Gated(bench, name, gate, data[name], atlas, before).checks()
    return [*checks, *eased(repository, before, strict)] if given else checks


def _verified(repository: Repository) -> list[Check]:
    try:
        with storing():
            return list(verify(repository, [], "HEAD", False).checks)
    except StorageError as error:
        return [Check("commit", "objects", False, str(error), hindered=error.exit_code)]


def _stops(one: Check, name: str) -> bool:
    """Whether a capability cannot be measured if this does not hold."""
    needed = {name, "backbone", "coordinates"}
    return one.subject in needed or (one.subject, one.check) == ("commit", "objects")


def compared_with(repository: Repository, against: str | None) -> str | None:
    """Full id of the commit that `check` was told to compare with.

    None if it was told none, or git's null id, with which everything is new.

    Raises:
        UnknownName: there is no such revision.
    """
    if against is None or _NULL.fullmatch(against):
        return None
    return repository.git.resolve(against)


def committed_gates(repository: Repository) -> dict[str, Gate]:
    """The gates of HEAD's niwf.toml, by capability; warns where the file holds others."""
    if repository.git.changes(FILE):
        logger.warning("%s differs from HEAD: the gates of HEAD apply", FILE)
    return repository.config.gates


def gate_data(repository: Repository, name: str) -> Data:
    """The data that a capability's gate is measured on; warns where it differs from HEAD's.

    It is one file, so that `eased` sees whether it is the baseline's. It is read from the work
    tree, as Git LFS may keep it, or git may ignore it.

    Raises:
        DataError: it lies outside the repository, is no file, or cannot be used.
    """
    source = repository.config.gates[name].data
    path = Path(source)
    try:
        if path.is_absolute() or ".." in path.parts:
            raise DataError(f"{source} lies outside the repository: move it in")
        if not os.path.isfile(repository.path / path):  # only of one file git tells what it was
            raise DataError(
                f"{source} does not exist or is no file: name one data file in the repository, "
                "not a folder or pattern, whose data could change unseen"
            )
        data = Data.read([str(repository.path / path)])
    except DataError as error:
        raise DataError(f"the gate of {name!r} cannot be measured: {error}") from error
    if repository.git.changes(source):
        logger.warning(
            "%s differs from HEAD: the gate of %r is measured on it as it is in the work tree, so "
            "commit it or restore it",
            source,
            name,
        )
    return data


def _baseline(repository: Repository, against: str | None) -> Baseline:
    if against is not None and _NULL.fullmatch(against):
        return Baseline("the branch began")
    if against is not None:
        commit = repository.git.resolve(against)
        return Baseline(against, commit, repository.atlas(commit))
    if parent := parent_of_head(repository, ", or give --against with a commit that is here"):
        return Baseline(_PARENT, parent, repository.atlas(parent))
    return Baseline("HEAD, which is the first commit")


@dataclass(frozen=True)
class _Gated:
    """One capability and its gate."""

    bench: Bench
    name: str
    gate: Gate
    data: Data
    atlas: Atlas
    before: Baseline

    @property
    def now(self) -> Capability:
        """The capability at HEAD."""
        return self.atlas[self.name]

    def checks(self) -> Iterator[Check]:
        """One check for each limit that the gate sets."""
        gate = self.gate
        if not limits(gate):
            yield Check(self.name, "gate", True, "not measured: it sets no limit")
            return
        if gate.min_owned is not None:
            yield from self._tried("owned", self._owned(gate.min_owned))
        if limits(gate).keys() - {"min_owned"}:
            yield from self._tried("gate", self._answers(gate))

    def _tried(self, check: str, found: Iterator[Check]) -> Iterator[Check]:
        """What a measurement finds, or that it could not be made, and why."""
        try:
            with storing():
                yield from found
        except NiwfError as error:
            if (code := hindrance_of_needed(error)) is None:
                raise
            yield Check(self.name, check, False, f"not measured: {error}", hindered=code)

    def _answers(self, gate: Gate) -> Iterator[Check]:
        now = self._measure("HEAD", self.now, gate.min_exact_match is not None)
        if gate.max_perplexity is not None:
            fits = now.perplexity <= gate.max_perplexity
            detail = f"{now.perplexity:.4f}, at most {gate.max_perplexity:g}"
            numbers = now.perplexity, gate.max_perplexity
            yield Check(self.name, "perplexity", fits, detail, *numbers)
        if gate.min_exact_match is not None:
            fits = now.exact_match >= gate.min_exact_match
            detail = f"{now.exact_match:.1%}, at least {gate.min_exact_match:.1%}"
            numbers = now.exact_match, gate.min_exact_match
            yield Check(self.name, "exact match", fits, detail, *numbers)
        if gate.max_regression is not None:
            yield from self._tried("regression", self._regression(now, gate.max_regression))

    def _owned(self, limit: float) -> Iterator[Check]:
        """Whether its prompts still reach it; by name, they would whoever owned them."""
        owners = self.bench.owners(self.atlas, self.data, f"owners of {self.name}'s prompts")
        total = sum(owners.values())
        share = owners.get(self.name, 0) / total
        detail = f"owns {share:.1%} of {total} prompts, at least {limit:.1%}"
        if share < limit:
            others = {who: count / total for who, count in owners.items() if who != self.name}
            detail += f": {shares_text(others, 'owns')}"
        yield Check(self.name, "owned", share >= limit, detail, share, limit)

    def _regression(self, now: Measured, limit: float) -> Iterator[Check]:
        called, atlas = self.before.called, self.before.atlas
        if self.name not in atlas:
            detail = f"it is new since {called}"
            yield Check(self.name, "regression", True, detail, limit=limit)
            return
        then = self._measure(called, atlas[self.name], False)
        rise = now.perplexity / then.perplexity - 1
        detail = f"{rise:+.2%} against {then.perplexity:.4f} at {called}, at most {limit:+.2%}"
        numbers = rise, limit, then.perplexity
        yield Check(self.name, "regression", rise <= limit, detail, *numbers)

    def _measure(self, revision: str, capability: Capability, exact_match: bool) -> Measured:
        subject = named(f"{self.name}@{revision}", capability)
        return self.bench.measure(subject, self.data, exact_match=exact_match)
