"""Records of prompts and proofs, as plain data that every other module may import."""

from __future__ import annotations

import math
import reprlib
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from niwfctl.errors import DataError

ROLES = ("system", "user", "assistant", "tool")
OTHER_ROLES = {"developer": "system"}  # by what OpenAI calls them
SEEDS = 2**63  # from 0 up, that torch takes


def is_encodable(text: str) -> bool:
    """Whether UTF-8 can hold a text: it has no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class Message:
    """One turn of a chat, by the system, user, assistant or a tool.

    Attributes:
        reasoning_content: what the assistant thought before it spoke, if that is told apart.

    Raises:
        DataError: the role is none of these, or the content is not text, or none that UTF-8 can
            hold.
    """

    role: str
    content: str
    reasoning_content: str | None = None

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise DataError(
                f"a turn has the unknown role {reprlib.repr(self.role)}: expected "
                f"{', '.join(ROLES)}"
            )
        if not isinstance(self.content, str):
            raise DataError(
                f"a turn of the {self.role} has {type(self.content).__name__} for its content: "
                "expected text"
            )
        if not is_encodable(self.content):
            raise DataError(
                f"a turn of the {self.role} has half a surrogate pair: expected text that UTF-8 "
                "can hold"
            )
        if not isinstance(self.reasoning_content, str | None):
            raise DataError(
                f"a turn of the {self.role} has {type(self.reasoning_content).__name__} for its "
                "reasoning_content: expected text"
            )


@dataclass(frozen=True)
class Example:
    """A prompt, as chat messages ending before the answer, and its answer.

    Attributes:
        messages: the prompt.
        answer: what the model should answer; empty if only the prompt is known.
        origin: the record it comes from: `FILE:LINE` for JSONL and CSV, `FILE[INDEX]` for JSON,
            `FILE row INDEX` for Parquet and the hub. All answers of one chat have the same; without
            one, it is a record of its own.
        reasoning_content: what the model should think before it answers, if that is told apart.
    """

    messages: tuple[Message, ...]
    answer: str
    origin: str = ""
    reasoning_content: str | None = None


def joined(content: object) -> object:
    """A turn's content given in parts, as one text; anything else as it is.

    Raises:
        ValueError: a part is not text.
    """
    if not isinstance(content, list):
        return content
    parts = [part if isinstance(part, dict) else {} for part in content]
    if any(part.get("type") != "text" or not isinstance(part.get("text"), str) for part in parts):
        raise ValueError("only text can be read: give a string, or parts of type `text`")
    return "".join(part["text"] for part in parts)


_MOST_THREADS = 4096  # no machine has more, and libraries may crash when asked for them


def _with_threads(platform: dict[str, str | int]) -> dict[str, str | int]:
    threads = platform.get("threads")
    if not isinstance(threads, int) or not 1 <= threads <= _MOST_THREADS:
        raise ValueError(f"`threads` must be a number from 1 to {_MOST_THREADS}")
    return platform


Platform = Annotated[dict[str, str | int], AfterValidator(_with_threads)]
"""What a computation ran on, as described by `niwfctl.backbone.platform`."""


def _if_finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Measurement = Annotated[float | None, BeforeValidator(_if_finite)]
"""A figure; None if there is none, and where a computation gave no finite one."""


class Witness(BaseModel):
    """The digest of the probes, and the platform that computed it."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    digest: str
    platform: Platform
