"""How well the base, a capability or a router answers data: measured once, then remembered."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from operator import eq
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from niwfstore import write_atomic
from pydantic import TypeAdapter

from niwfctl.atlas import BASE_NAME, Atlas, Capability
from niwfctl.backbone.batch import batched
from niwfctl.backbone.load import default_device
from niwfctl.backbone.platform import current_platform
from niwfctl.field.precision import chosen_precision
from niwfctl.records import Example
from niwfctl.repository.model import AUTO, Model
from niwfctl.several import Sources, names_of, sources_of
from niwfctl.training.data import data_hash, read
from niwfctl.training.files import expanded

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository

logger = logging.getLogger(__name__)

LONGEST_ANSWER = 256  # tokens
BATCH_SIZE = 8  # rows
_CODE = ("niwfctl", "transformers", "bitsandbytes")  # what results depend on besides the platform

Tell = Callable[[str, int, int], None]
"""Told what is in progress, how many of its rows are done, and of how many (0: no rows)."""

Figures = TypeVar("Figures")
Done = Callable[[int], None]  # told how many rows are done
Compute = Callable[[Model, Sequence[Example], Done], Figures]


@dataclass(frozen=True)
class Data:
    """Examples to learn from or to measure on.

    Attributes:
        sources: names of where they come from.
        empty: how many records were left out, an answer of theirs being empty.
    """

    examples: tuple[Example, ...]
    hash: str
    sources: tuple[str, ...] = ()
    empty: int = 0

    @classmethod
    def read(cls, sources: Sources, skip_empty: bool = False) -> Data:
        """Reads every source, in order.

        Args:
            skip_empty: leave records with an empty answer out instead of refusing them.

        Raises:
            DataError: a source cannot be read, or a record in it is not an example.
        """
        given = expanded(sources_of(sources))
        found = read(given, skip_empty)
        hashed = data_hash(found.examples)
        return cls(tuple(found.examples), hashed, tuple(names_of(given)), found.empty)


@dataclass(frozen=True)
class Subject:
    """What answers.

    Attributes:
        target: `NAME` or `NAME@REV`; None for the base, AUTO for the router.
        made_of: everything its answers depend on, besides the backbone.
        activate: makes it active in a model.
    """

    target: str | None
    made_of: tuple[str, ...]
    activate: Callable[[Model], object]


def base() -> Subject:
    """The bare backbone."""
    return Subject(None, (), lambda model: model.use(None))


def named(target: str, capability: Capability) -> Subject:
    """A capability, given as `NAME` or `NAME@REV`."""
    # given by name, it does not depend on routing
    content = capability.unrouted.model_dump_json(exclude={"name"})
    return Subject(target, (content,), lambda model: model.use(target))


def routed(revision: str, atlas: Atlas) -> Subject:
    """The owner of each prompt in a revision's atlas, or the base (G3)."""
    made_of = (AUTO, *(atlas[name].dump() for name in sorted(atlas))) if atlas else ()
    return Subject(AUTO, made_of, lambda model: model.route(revision))


@dataclass(frozen=True)
class Measured:
    """How well examples were answered.

    Attributes:
        perplexity: of the answers' tokens.
        tokens: their number.
        exact_match: share of rows whose likeliest answer is the expected one; None if not asked.
    """

    perplexity: float
    tokens: int
    exact_match: float | None = None

    def score(self, measure: str) -> float:
        """−log(perplexity) in nats per token, or the exact match: higher is better for both."""
        return -math.log(self.perplexity) if measure == "perplexity" else self.exact_match


@dataclass
class RowFigures:
    """What was measured of each row, in their order.

    Attributes:
        losses: negative log-likelihood of its whole answer, in nats.
        tokens: of its answer.
        owners: what owns its prompt, None for the base; empty unless owners answered.
        answers: the likeliest ones; empty unless the exact match was asked for.
        matches: whether these are the expected ones.
    """

    losses: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    owners: list[str | None] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    matches: list[bool] = field(default_factory=list)


def warn_of_learned_rows(capabilities: Mapping[str, Capability], data: Data) -> None:
    """Warns if a capability, by `NAME` or `NAME@REV`, or a part was trained on this very data."""
    found = (
        (target, source)
        for target, capability in capabilities.items()
        for source, regions in (
            (target, capability.regions),
            *((part.of, part.regions) for part in capability.parts),
        )
        if any(one.run.origin == "trained" and one.run.data_hash == data.hash for one in regions)
    )
    if first := next(found, None):
        logger.warning(
            "%r was trained on most rows of this data, so its figures say little of other prompts: "
            "its held-out perplexity is in `niwfctl show %s`",
            *first,
        )


class Bench:
    """Measures and remembers the results; loads the backbone only when it must.

    A result is remembered under the hash of all that it depends on: the manifests of what
    answered, the backbone, the coordinate map, the data, the versions and the platform. So an
    unchanged capability is measured once however many commits have it, and an interruption loses
    only the result in progress.
    """

    def __init__(
        self,
        repository: Repository,
        report: Tell = lambda what, done, rows: None,
        recall: bool = True,
    ) -> None:
        """
        Args:
            report: told what is in progress.
            recall: use remembered results; if False, measure again and remember that.
        """
        self._repository, self._report, self._recall = repository, report, recall
        self._folder = repository.private / "cache" / "measured"
        self._model: Model | None = None
        config, reading = repository.config, repository.config.backbone.reading
        device = torch.device(default_device())
        rounded = chosen_precision(device.type)
        self._always = [
            *(config.backbone.identity, config.backbone.quant, config.field.coordinates),
            *([json.dumps(reading, sort_keys=True)] if reading else []),
            *(f"{package} {version(package)}" for package in _CODE),
            json.dumps(current_platform(device)),
            *([f"float32 products in {rounded}"] if rounded else []),
        ]

    def measure(
        self,
        subject: Subject,
        data: Data,
        label: str | None = None,
        *,
        exact_match: bool = False,
        longest_answer: int = LONGEST_ANSWER,
        batch_size: int = BATCH_SIZE,
        rows: RowFigures | None = None,
    ) -> Measured:
        """Perplexity, and exact match if asked.

        Args:
            label: its name while in progress; the subject's target by default.
            longest_answer: tokens to generate at most, for the exact match.
            batch_size: rows per forward pass.
            rows: empty, and gets what is measured of each row; nothing remembered is used then.

        Raises:
            BackboneError: the backbone is missing, or is not the pinned one.
            DataError, UsageError: an example is longer than the backbone can read.
            ObjectError: an object is missing or corrupt.
        """
        fresh, rows = rows is not None, rows or RowFigures()
        question = _Question(subject, data, label or subject.target or BASE_NAME, fresh)
        score = partial(_score, batch_size, rows)
        match = partial(_match, batch_size, longest_answer, rows)
        scored = self._figures(_Scored, question, f"score {batch_size}", score)
        if fresh and subject.target == AUTO:
            rows.owners = list(self._model.routes.names)
        if not exact_match:
            return Measured(scored.perplexity, scored.tokens)
        matched = self._figures(_Matched, question, f"match {batch_size} {longest_answer}", match)
        return Measured(scored.perplexity, scored.tokens, matched.exact_match)

    def owners(self, atlas: Atlas, data: Data, label: str) -> dict[str, int]:
        """How many prompts each capability of HEAD's atlas owns, and the base, as `base` (G3).

        Args:
            label: its name while in progress.

        Raises:
            BackboneError: the backbone is missing, or is not the pinned one.
            DataError, UsageError: a prompt is longer than the backbone can read.
            ObjectError: an object is missing or corrupt.
        """
        subject = Subject(AUTO, routed("HEAD", atlas).made_of, lambda model: None)
        return self._figures(_Owned, _Question(subject, data, label), "owners", _owned).owners

    def _figures(
        self, kind: type[Figures], question: _Question, how: str, compute: Compute[Figures]
    ) -> Figures:
        file = self._file(question, how)
        if self._recall and not question.fresh:
            with suppress(OSError, ValueError):  # an unreadable result is measured again
                return TypeAdapter(kind).validate_json(file.read_bytes())
        if self._model is None:
            self._report("loading the backbone", 0, 0)
            self._model = Model(self._repository)
        label, examples = question.label, question.data.examples
        rows = len(examples)
        self._report(label, 0, rows)
        question.subject.activate(self._model)
        found = compute(self._model, examples, lambda done: self._report(label, done, rows))
        with suppress(OSError):
            write_atomic(file, json.dumps(asdict(found)).encode())
        return found

    def _file(self, question: _Question, how: str) -> Path:
        parts = [*self._always, question.data.hash, how, *question.subject.made_of]
        return self._folder / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}.json"


@dataclass(frozen=True)
class _Question:
    subject: Subject
    data: Data
    label: str
    fresh: bool = False  # whether it must be measured, even if it is remembered


@dataclass(frozen=True)
class _Scored:
    perplexity: float
    tokens: int


@dataclass(frozen=True)
class _Matched:
    exact_match: float


@dataclass(frozen=True)
class _Owned:
    owners: dict[str, int]


def _owned(model: Model, examples: Sequence[Example], done: Done) -> _Owned:
    found = Counter(owner or BASE_NAME for owner in model.owners(examples))
    done(len(examples))
    return _Owned(dict(found))


def _score(
    batch_size: int, rows: RowFigures, model: Model, examples: Sequence[Example], done: Done
) -> _Scored:
    found = model.score(examples, batch_size, lambda rows, _: done(rows))
    rows.losses, rows.tokens = found.losses.tolist(), found.lengths.tolist()
    return _Scored(found.perplexity, found.tokens)


def _match(
    batch_size: int,
    longest: int,
    rows: RowFigures,
    model: Model,
    examples: Sequence[Example],
    done: Done,
) -> _Matched:
    for batch in batched(examples, batch_size):
        answers = model.answers(batch, longest, batch_size)
        rows.answers += answers
        rows.matches += map(eq, answers, model.expected(batch))
        done(len(rows.answers))
    return _Matched(sum(rows.matches) / len(rows.matches))
