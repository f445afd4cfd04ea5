"""Files with a line of JSON for each row of the data; docs/json.md describes them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from niwfstore import output_file

from niwfctl.atlas import BASE_NAME
from niwfctl.cli.output import require_file
from niwfctl.cli.schema import Json
from niwfctl.errors import UsageError

if TYPE_CHECKING:
    from niwfctl.records import Example
    from niwfctl.repository.measure import RowFigures
    from niwfctl.repository.mixture import Bid


def require_rows_file(file: Path, option: str, sources: Iterable[str]) -> None:
    """Checks that an option names a file that can be written, and none of the data.

    Raises:
        UsageError: it is a folder, its folder does not exist, or it is one of the sources.
    """
    require_file(file, option, ())
    if file.exists() and any(Path(one).exists() and file.samefile(one) for one in sources):
        raise UsageError(f"{option} {file} is the data, which it would replace: give another file")


def write_rows(file: Path, rows: Iterable[Json]) -> None:
    """Writes a line of JSON for each row, in UTF-8; the file is whole, or as it was."""
    with output_file(file) as output:
        for row in rows:
            line = json.dumps(row, ensure_ascii=False) + "\n"
            output.write(line.encode("utf-8", "backslashreplace"))  # `\udc80` is JSON, too


def contest_json(source: str, example: Example, bids: Sequence[Bid], expected: str | None) -> Json:
    """Who owns a row's prompt, and who is next.

    Args:
        source: of the row, as given.
        bids: of all candidates, the owner first.
        expected: who should own it, if that is known.
    """
    owner, score = bids[0]
    others = (bid for bid in bids if bid[0] != owner)  # one with several regions bids for each
    rival, rival_score = next(others, (None, None))
    return {
        "data": source,
        "origin": example.origin,
        "prompt": _prompt_json(example),
        "owner": owner or BASE_NAME,
        "score": score,
        "runner_up": None if rival_score is None else rival or BASE_NAME,
        "runner_up_score": rival_score,
        "expected": expected,
    }


def predictions_json(about: Json, examples: Sequence[Example], rows: RowFigures) -> Iterator[Json]:
    """What was measured of each row.

    Args:
        about: what answered.
    """
    for place, example in enumerate(examples):
        yield about | {
            "owner": rows.owners[place] or BASE_NAME if rows.owners else None,
            "origin": example.origin,
            "prompt": _prompt_json(example),
            "expected": example.answer,
            "loss": rows.losses[place],
            "tokens": rows.tokens[place],
            "answer": rows.answers[place] if rows.answers else None,
            "exact_match": rows.matches[place] if rows.matches else None,
        }


def _prompt_json(example: Example) -> list[Json]:
    return [
        {key: value for key, value in vars(turn).items() if value is not None}
        for turn in example.messages
    ]
