"""What a training or an import starts with: its rows as tokens, and the record of the run."""

from __future__ import annotations

import logging
import platform
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from niwfctl.backbone.prompts import Tokens, require_learnable
from niwfctl.backbone.template import marks
from niwfctl.errors import DataError
from niwfctl.records import Example
from niwfctl.repository.model import Model
from niwfctl.training.data import share_to_hold_out, split
from niwfctl.training.processes import leads
from niwfctl.training.run import Run, TrainingOptions

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rows:
    """Examples as tokens.

    Attributes:
        training: to train or fit a region on.
        held_out: to measure it on.
        skipped: how many were left out for being too long.
    """

    training: list[Tokens]
    held_out: list[Tokens]
    skipped: int


def encoded(
    model: Model,
    examples: Sequence[Example],
    options: TrainingOptions,
    held_out: Sequence[Example] = (),
) -> Rows:
    """Encodes examples; warns of those that are written in a template already.

    Args:
        examples: to learn from.
        held_out: to measure on; without any, a share of `examples` is, and is not learned from.

    Raises:
        DataError: there are too few, some are too long without `skip_long`, or one waits for
            thoughts in vain.
    """
    parts = (examples, held_out)
    if not held_out:
        parts = split(examples, options.val_split, options.seed)
    rows = [[(one, model.encoded(one)) for one in part] for part in parts]
    for example, row in (pair for part in rows for pair in part if pair[1].answer):
        require_learnable(model.backbone.tokenizer, example, row)
    limit = min(options.max_length, model.longest)
    if leads():
        _warn_of_marks(model, [*examples, *held_out])
    rows = [[pair for pair in part if pair[1].answer or not pair[0].answer] for part in rows]
    for what, part in zip(("to learn from", "held out"), rows, strict=True):
        _require_any(what, part, limit, model.longest)
    if not options.skip_long:
        _require_short([pair for part in rows for pair in part], limit, model.longest)
    learned, measured = ([row for _, row in part if len(row) <= limit] for part in rows)
    skipped = sum(map(len, parts)) - len(learned) - len(measured)
    return Rows(learned, measured, skipped)


def holding_out(options: TrainingOptions, examples: Sequence[Example]) -> TrainingOptions:
    """Options that name the share to hold out of these examples: more of few, if none was given.

    It is recorded, so that a resumed training holds out what it began with.
    """
    if "val_split" in options.model_fields_set:
        return options
    share = share_to_hold_out(examples, options.val_split)
    return options.model_copy(update={"val_split": share})


def new_run(
    model: Model,
    name: str,
    sources: Sequence[str],
    data_hash: str,
    rows: Rows,
    options: TrainingOptions,
    **details: object,
) -> Run:
    """The record of a run that begins now.

    Args:
        details: further fields of the record.
    """
    config = model.repository.config
    return Run(
        id=uuid.uuid4().hex[:12],
        name=name,
        sources=resolved(sources),
        data_hash=data_hash,
        rows=len(rows.training),
        held_out_rows=len(rows.held_out),
        skipped_rows=rows.skipped,
        options=options.for_width(model.backbone.width),
        backbone=config.backbone.identity,
        coordinates=config.field.coordinates,
        versions={
            "python": platform.python_version(),
            **{package: version(package) for package in ("niwfctl", "torch", "transformers")},
        },
        **details,
    )


def resolved(sources: Sequence[str]) -> list[str]:
    """Files by their full paths, and hub datasets as they are."""
    return [str(Path(one).resolve()) if Path(one).exists() else one for one in sources]


def _require_short(rows: Sequence[tuple[Example, Tokens]], limit: int, readable: int) -> None:
    """Refuses rows of more than `limit` tokens; the backbone reads `readable`."""
    longer = [(len(row), example.origin) for example, row in rows if len(row) > limit]
    if not longer:
        return
    longest, origin = max(longer, key=lambda one: one[0])
    ways = [f"raise it to {longest}"] if longest <= readable else []
    raise DataError(
        f"{len(longer)} of {len(rows)} rows are longer, with their prompts, than "
        f"{_most(limit, readable)}, and {origin} has {longest}: "
        f"{', or '.join([*ways, 'leave them out with --skip-long'])}"
    )


def _require_any(
    what: str, rows: Sequence[tuple[Example, Tokens]], limit: int, readable: int
) -> None:
    """Requires that some rows of one part of the data have at most `limit` tokens.

    Args:
        what: the part.
        rows: of this part.
        readable: how many the backbone reads.
    """
    if not rows:
        raise DataError(f"no row {what} has an answer once the backbone's chat template wrote it")
    shortest, origin = min((len(row), example.origin) for example, row in rows)
    longest = max(len(row) for _, row in rows)
    if shortest <= limit:
        return
    if longest <= readable:
        way = f"raise it, to {longest} for all of them"
    elif shortest <= readable:
        way = f"raise it, at most to {readable}, with --skip-long"
    else:
        way = "split the texts into shorter ones"
    raise DataError(
        f"all {len(rows)} rows {what} are longer, with their prompts, than "
        f"{_most(limit, readable)}, and the shortest, {origin}, has {shortest} tokens: {way}"
    )


def _most(limit: int, readable: int) -> str:
    """What sets the limit of a row's tokens."""
    return f"--max-length {limit}" if limit < readable else f"the backbone reads ({limit})"


def _warn_of_marks(model: Model, examples: Sequence[Example]) -> None:
    """Warns of texts in which a chat template's marks stand already, since they get it twice."""
    known = marks(model.backbone.tokenizer)
    if not known:
        return
    mark = re.compile("|".join(map(re.escape, known)))
    found: dict[str, str] = {}
    for example in examples:
        for text in _texts(example):
            if held := mark.search(text):
                found.setdefault(example.origin, held[0])
    if found:
        origin, held = next(iter(found.items()))
        logger.warning(
            "the texts of %d of %d records hold marks of the backbone's chat template, the first "
            "being %s with %s: niwfctl applies that template itself, so write them without it",
            len(found),
            len({example.origin for example in examples}),
            origin,
            held,
        )


def _texts(example: Example) -> list[str]:
    said = [*(turn.content for turn in example.messages), example.answer]
    thought = [one.reasoning_content for one in (*example.messages, example)]
    return said + [text for text in thought if text is not None]
