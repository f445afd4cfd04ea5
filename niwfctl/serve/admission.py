"""Who is let in, before anything of a request is read. No torch."""

from __future__ import annotations

import secrets
from collections.abc import Collection

from fastapi.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from niwfctl.serve.errors import ApiError


def refusal(error: ApiError) -> Response:
    """The response that tells a client of an error."""
    return JSONResponse(error.body, error.status)


class RequireKey:
    """Lets in only requests with the key."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app, self._expected = app, f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or hands it on."""
        if scope["type"] != "http" or self._is_borne(scope):
            await self._app(scope, receive, send)
            return
        error = ApiError(
            401,
            "the API key is missing or wrong: send the server's as `Authorization: Bearer KEY`",
            code="invalid_api_key",
        )
        await refusal(error)(scope, receive, send)

    def _is_borne(self, scope: Scope) -> bool:
        borne = dict(scope["headers"]).get(b"authorization", b"")
        return secrets.compare_digest(borne, self._expected)


class RequireHost:
    """Lets in only requests that call the server by one of its own names.

    A page in a browser of this machine may let its own name lead here (DNS rebinding): it would
    then be allowed to read the answers.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or hands it on."""
        if scope["type"] != "http" or self._is_named(scope):
            await self._app(scope, receive, send)
            return
        error = ApiError(
            403,
            "the Host header is none of this server's names: ask it as "
            f"{' or '.join(sorted(self._hosts))}, or start it with --api-key to allow every name",
            code="unknown_host",
        )
        await refusal(error)(scope, receive, send)

    def _is_named(self, scope: Scope) -> bool:
        named = [value for key, value in scope["headers"] if key == b"host"]
        host, colon, port = (named[0] if len(named) == 1 else b"").decode("latin-1").rpartition(":")
        whole = host if colon and port.isdecimal() else f"{host}{colon}{port}"
        return whole.lower() in self._hosts
