"""Who is let in, before anything of a request is read. No torch."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection
from contextlib import ExitStack
from typing import TYPE_CHECKING

from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from niwfctl.serve.errors import ApiError

if TYPE_CHECKING:
    from niwfctl.serve.engine import Engine


HEALTH = "/health"


def refusal(error: ApiError) -> Response:
    """The response that tells a client of an error."""
    return JSONResponse(error.body, error.status)


class RequireKey:
    """Lets in only requests with the key, and those that ask how the server is."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app, self._expected = app, f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or hands it on."""
        if scope["type"] != "http" or scope["path"] == HEALTH or self._is_borne(scope):
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


class TakePlace:
    """Lets a request wait in the queue before its body is read, and not for ever.

    Bodies that nobody counts, or of any size, would fill the memory.
    """

    def __init__(self, app: ASGIApp, engine: Engine, patience: float, largest: int) -> None:
        self._app, self._engine = app, engine
        self._patience, self._largest = patience, largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or hands it on."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        with ExitStack() as place:
            try:
                self._require_small(int(dict(scope["headers"]).get(b"content-length", 0)))
                place.enter_context(self._engine.reading())
            except HTTPException as error:
                await refusal(ApiError(error.status_code, error.detail))(scope, receive, send)
                return
            except ApiError as error:
                await refusal(error)(scope, receive, send)
                return
            await self._app(scope, self._until_read(receive, place), send)

    def _until_read(self, receive: Receive, place: ExitStack) -> Receive:
        """`receive` that gives the place back once the body is here, and waits no longer for it.

        The place is then taken anew by whoever reads the request.
        """
        deadline = asyncio.get_running_loop().time() + self._patience
        is_read, size = False, 0

        async def next_message() -> Message:
            nonlocal is_read, size
            if is_read:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError as error:
                said = f"the body did not come within {self._patience:g} seconds: send it again"
                raise HTTPException(408, said) from error
            size += len(message.get("body", b""))
            self._require_small(size)
            if not message.get("more_body"):
                is_read = True
                place.close()
            return message

        return next_message

    def _require_small(self, size: int) -> None:
        if size > self._largest:
            raise HTTPException(413, f"the body is larger than {self._largest} bytes: send less")
