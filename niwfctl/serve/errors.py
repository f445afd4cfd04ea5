"""Errors as OpenAI's clients expect them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from niwfctl.config import reason_of
from niwfctl.errors import DataError, MemoryFull, NiwfError, UnknownName, UsageError, of_memory

WRONG = "invalid_request_error"
OURS = "server_error"
UNREADABLE = "the body cannot be read as JSON: send UTF-8 JSON"
FULL = "the server has too little memory for this now: ask again later, or for less text"


class ApiError(Exception):
    """The error that answers a request.

    Attributes:
        status: of HTTP.
        body: `{"error": {"message", "type", "param", "code"}}`.
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = WRONG,
        *,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


def as_api_error(error: Exception) -> ApiError:
    """What a client is told about an error."""
    match error:
        case ApiError():
            return error
        case UnknownName():
            return ApiError(404, str(error), param="model", code="model_not_found")
        case UsageError() | DataError():
            return ApiError(400, str(error))
        case _ if isinstance(error, MemoryFull) or of_memory(error):
            return ApiError(503, FULL, OURS, code="memory_full")
        case NiwfError():
            return ApiError(500, str(error), OURS)
        case _:
            return ApiError(500, f"{type(error).__name__} in the server; its log says more", OURS)


def of_fields(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """The first problem that pydantic found in a request's body.

    What is not supported goes before what is missing: a turn that calls a tool may lack content.
    """
    first = min(errors, key=lambda error: error["type"] != "extra_forbidden")
    if first["type"] == "json_invalid":
        return ApiError(400, "the body is not JSON: send one JSON object")
    param = ".".join(str(part) for part in first["loc"] if part != "body")
    if not param:
        return ApiError(400, "the body is not a JSON object: send one, as application/json")
    if first["type"] == "extra_forbidden":
        said = f"`{param}` is not supported here: leave it out"
        return ApiError(400, said, param=param, code="unsupported_parameter")
    if first["type"] == "missing":
        return ApiError(
            400, f"`{param}` is missing", param=param, code="missing_required_parameter"
        )
    said = f"`{param}` is wrong: {reason_of(first)}"
    return ApiError(400, said, param=param, code="invalid_value")
