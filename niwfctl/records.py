"""What is recorded of prompts and proofs, as plain data: below all that reads or makes it."""

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
        answer: what the model is to say after it; empty where only the prompt is known.
        origin: the record it comes from: `FILE:LINE` for JSONL and CSV, `FILE[INDEX]` for JSON,
            `FILE row INDEX` for Parquet and the hub. The answers of one chat share theirs.
    """

    messages: tuple[Message, ...]
    answer: str
    origin: str


_MOST_THREADS = 4096  # no machine that trains has more, and a library may crash when asked for them


def _with_threads(platform: dict[str, str | int]) -> dict[str, str | int]:
    threads = platform.get("threads")
    if not isinstance(threads, int) or not 1 <= threads <= _MOST_THREADS:
        raise ValueError(f"`threads` must be a number from 1 to {_MOST_THREADS}")
    return platform


Platform = Annotated[dict[str, str | int], AfterValidator(_with_threads)]
"""What a computation ran on, as `niwfctl.backbone.platform` describes it."""


class Witness(BaseModel):
    """The probes' digest at the end of training, and what computed it."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    digest: str
    platform: Platform
