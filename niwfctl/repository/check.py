"""Gates for pipelines: is what HEAD has fit to be shipped?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from niwfstore import write_atomic

from niwfctl.atlas import Capability
from niwfctl.config import Gate
from niwfctl.errors import DataError
from niwfctl.repository.verify import Check, verify
from niwfctl.training.data import Example, data_hash, read_examples

if TYPE_CHECKING:
    from niwfctl.repository.model import Model
    from niwfctl.repository.repository import Repository

LONGEST_ANSWER = 256


@dataclass(frozen=True)
class Measured:
    """A capability on the data of its gate; None where the gate does not ask."""

    perplexity: float
    exact_match: float | None


def check(repository: Repository, against: str | None) -> list[Check]:
    """Verifies HEAD, then measures every gate of its niwf.toml.

    What was measured is remembered by the ids of the objects and the data, so that an unchanged
    capability is not measured twice.

    Args:
        against: revision to compare with where a gate limits the regression; HEAD's parent by
            default.

    Raises:
        DataError: a gate's data cannot be used.
        UnknownName: there is no such revision.
    """
    checks = list(verify(repository, [], "HEAD", False).checks)
    atlas = repository.atlas()
    bench = _Bench(repository)
    for name, gate in sorted(repository.config.gates.items()):
        if name not in atlas:
            checks.append(
                Check(name, "gate", False, "niwf.toml has a gate for it, HEAD has it not")
            )
        elif all(one.ok for one in checks if one.subject in (name, "backbone", "coordinates")):
            checks += _gate(repository, bench, gate, atlas[name], against)
        else:
            checks.append(Check(name, "gate", False, "not measured: it is not what was committed"))
    return checks


def junit(checks: list[Check]) -> bytes:
    """The checks as JUnit XML."""
    failures = sum(not one.ok for one in checks)
    suite = ElementTree.Element(
        "testsuite", name="niwfctl check", tests=str(len(checks)), failures=str(failures)
    )
    for one in checks:
        case = ElementTree.SubElement(suite, "testcase", classname=one.subject, name=one.check)
        if not one.ok:
            ElementTree.SubElement(case, "failure", message=one.detail)
    return ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)


def _gate(
    repository: Repository, bench: _Bench, gate: Gate, capability: Capability, against: str | None
) -> Iterator[Check]:
    name = capability.name
    examples = _examples(repository, gate)
    now = bench.measure(capability, examples, gate.min_exact_match is not None)
    if gate.max_perplexity is not None:
        fits = now.perplexity <= gate.max_perplexity
        detail = f"{now.perplexity:.4f}, at most {gate.max_perplexity:g}"
        yield Check(name, "perplexity", fits, detail)
    if gate.min_exact_match is not None:
        fits = now.exact_match >= gate.min_exact_match
        detail = f"{now.exact_match:.1%}, at least {gate.min_exact_match:.1%}"
        yield Check(name, "exact match", fits, detail)
    if gate.max_regression is not None:
        yield _regression(repository, bench, gate, capability, examples, now, against)


def _regression(
    repository: Repository,
    bench: _Bench,
    gate: Gate,
    capability: Capability,
    examples: list[Example],
    now: Measured,
    against: str | None,
) -> Check:
    name = capability.name
    before = repository.atlas(against or "HEAD~1").get(name)
    if before is None:
        return Check(name, "regression", True, f"it is new since {against or 'HEAD~1'}")
    then = bench.measure(before, examples, False)
    rise = now.perplexity / then.perplexity - 1
    detail = f"{rise:+.2%} against {then.perplexity:.4f}, at most {gate.max_regression:+.2%}"
    return Check(name, "regression", rise <= gate.max_regression, detail)


def _examples(repository: Repository, gate: Gate) -> list[Example]:
    path = Path(gate.data)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"the gate's data {gate.data!r} lies outside the repository: move it in")
    return read_examples([str(repository.path / path)])


class _Bench:
    """Measures capabilities, remembers the figures, and loads the backbone only when it must."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._memory = repository.private / "cache" / "measured.json"
        self._known: dict[str, dict] = {}
        with suppress(OSError, ValueError):  # only a memory: without it all is measured again
            self._known = json.loads(self._memory.read_bytes())
        self._model: Model | None = None

    def measure(self, capability: Capability, examples: list[Example], exact: bool) -> Measured:
        """Perplexity, and exact match where asked."""
        key = self._key(capability, examples, exact)
        if key not in self._known:
            model = self._model = self._model or self._repository.load()
            (entry,) = capability.regions
            model.adapter.active = model.field(entry)
            match = None
            if exact:
                answers = model.answers(examples, LONGEST_ANSWER)
                hits = [a == e.answer.strip() for a, e in zip(answers, examples, strict=True)]
                match = sum(hits) / len(hits)
            score = model.score(examples)
            self._known[key] = {"perplexity": score.perplexity, "exact_match": match}
            write_atomic(self._memory, json.dumps(self._known).encode())
        return Measured(**self._known[key])

    def _key(self, capability: Capability, examples: list[Example], exact: bool) -> str:
        config = self._repository.config
        parts = [ref.oid for ref in capability.objects]
        parts += [config.backbone.identity, config.backbone.quant, config.field.coordinates]
        parts += [data_hash(examples), str(exact)]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()
