"""Records of prompts and proofs, as plain data that every other module may import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


@dataclass(frozen=True)
class Message:
    """One turn of a chat, by the system, user, assistant or a tool."""

    role: str
    content: str


@dataclass(frozen=True)
class Example:
    """A prompt, as chat messages ending before the answer, and its answer.

    Attributes:
        messages: the prompt.
        answer: what the model should answer; empty if only the prompt is known.
        origin: the record it comes from: `FILE:LINE` for JSONL and CSV, `FILE[INDEX]` for JSON,
            `FILE row INDEX` for Parquet and the hub. All answers of one chat have the same; without
            one, it is a record of its own.
    """

    messages: tuple[Message, ...]
    answer: str
    origin: str = ""


_MOST_THREADS = 4096  # no machine has more, and libraries may crash when asked for them


def _with_threads(platform: dict[str, str | int]) -> dict[str, str | int]:
    threads = platform.get("threads")
    if not isinstance(threads, int) or not 1 <= threads <= _MOST_THREADS:
        raise ValueError(f"`threads` must be a number from 1 to {_MOST_THREADS}")
    return platform


Platform = Annotated[dict[str, str | int], AfterValidator(_with_threads)]
"""What a computation ran on, as described by `niwfctl.backbone.platform`."""


class Witness(BaseModel):
    """The digest of the probes, and the platform that computed it."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    digest: str
    platform: Platform
