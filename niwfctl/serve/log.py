"""A line about every request for an answer. No torch."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from niwfctl.serve.replies import answerer

if TYPE_CHECKING:
    from niwfctl.serve.jobs import Job

LONGEST_NAME = 200  # of a model, as clients may call anything


class LogRequests:
    """Writes a line of JSON once a request was answered, refused, or given up by its client."""

    def __init__(self, app: ASGIApp, write: Callable[[str], object]) -> None:
        self._app, self._write = app, write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands a request on and writes about it."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        state, begun, status = scope.setdefault("state", {}), time.monotonic(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            jobs = state.get("jobs", [])  # the routes' notes
            line = {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "model": state.get("model", "")[:LONGEST_NAME] or None,
                **_answers(jobs, begun),
                "status": status,
                "seconds": round(time.monotonic() - begun, 3),
            }
            self._write(json.dumps(line) + "\n")  # ASCII: clients' words cannot steer a terminal


def _answers(jobs: Sequence[Job], begun: float) -> dict[str, object]:
    read = [job for job in jobs if job.begun is not None]
    return {
        "answered_by": answerer(jobs),
        "prompt_tokens": sum(len(job.row.prompt) for job in read),
        "completion_tokens": sum(job.row.count for job in read),
        "complete": bool(jobs) and all(job.row.ended for job in jobs),
        "seconds_queued": round(min(job.begun for job in read) - begun, 3) if read else None,
    }
