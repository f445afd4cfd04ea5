"""The routes: from HTTP to the engine and back. No torch at import."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from niwfctl.errors import NiwfError
from niwfctl.serve.admission import HEALTH, RequireHost, RequireKey, TakePlace, refusal
from niwfctl.serve.errors import UNREADABLE, ApiError, as_api_error, of_fields
from niwfctl.serve.log import LogRequests
from niwfctl.serve.protocol import AnyRequest, ChatRequest, CompletionRequest
from niwfctl.serve.replies import Json, answerer, model_card, reply_to, usage

if TYPE_CHECKING:
    from niwfctl.serve.engine import Engine
    from niwfctl.serve.jobs import Job, Piece

LARGEST_BODY = 8 << 20  # bytes; of the longest contexts, several times over
PATIENCE = 30.0  # seconds that a body may take
_UNBUFFERED = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # by proxies on the way


def create_app(
    engine: Engine,
    api_key: str | None = None,
    hosts: Collection[str] | None = None,
    patience: float = PATIENCE,
    log: Callable[[str], object] | None = None,
) -> FastAPI:
    """The endpoint, as an ASGI application.

    Args:
        engine: runs as long as the application.
        api_key: key that requests must send; None lets everyone in.
        hosts: names by which requests must call the server; None allows every name.
        patience: seconds that a request's body may take.
        log: called with a line of JSON for every request for an answer.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with engine.running():
            yield

    app = FastAPI(lifespan=lifespan, openapi_url=None)
    limits = {"patience": patience, "largest": LARGEST_BODY}
    app.add_middleware(TakePlace, engine=engine, **limits)  # the innermost of these
    if api_key is not None:
        app.add_middleware(RequireKey, key=api_key)
    if hosts is not None:
        app.add_middleware(RequireHost, hosts=hosts)
    if log is not None:
        app.add_middleware(LogRequests, write=log)
    started = int(time.time())

    @app.api_route(HEALTH, methods=["GET", "HEAD"])
    async def health() -> Json:
        engine.require_working()
        return {"status": "ok"}

    @app.get("/v1/models")
    def models() -> Json:
        return {"object": "list", "data": [model_card(name, started) for name in engine.names()]}

    @app.get("/v1/models/{name:path}")
    def model(name: str) -> Json:
        engine.resolve(name)
        return model_card(name, started)

    @app.post("/v1/completions")
    async def completions(asked: CompletionRequest, request: Request) -> Response:
        return await _answer(engine, asked, request)

    @app.post("/v1/chat/completions")
    async def chat_completions(asked: ChatRequest, request: Request) -> Response:
        return await _answer(engine, asked, request)

    @app.exception_handler(RequestValidationError)
    async def bad_fields(request: Request, error: RequestValidationError) -> Response:
        return refusal(of_fields(error.errors()))

    @app.exception_handler(HTTPException)
    async def bad_request(request: Request, error: HTTPException) -> Response:
        match error.status_code:
            case 400:  # for whatever json.loads raised but a JSONDecodeError
                said = UNREADABLE
            case 408 | 413:
                said = error.detail
            case _:
                said = f"{request.method} {request.url.path}: {error.detail}"
        return refusal(ApiError(error.status_code, said))

    @app.exception_handler(ApiError)
    @app.exception_handler(NiwfError)
    @app.exception_handler(Exception)  # these are logged, too
    async def failed(request: Request, error: Exception) -> Response:
        return refusal(as_api_error(error))

    return app


async def _answer(engine: Engine, asked: AnyRequest, request: Request) -> Response:
    jobs: list[Job] = []
    request.state.model, request.state.jobs = asked.model, jobs
    with engine.reading(len(asked.each)):
        for one in asked.each:
            jobs.append(await run_in_threadpool(engine.job, one))
    pieces = engine.answer(jobs)
    async with _watching(request, engine, jobs):
        first = await anext(pieces)  # errors up to here get an HTTP status
        if not asked.stream:
            found = [first, *[piece async for piece in pieces]]
            return JSONResponse(
                reply_to(asked).whole(answerer(jobs), _whole(found, len(jobs)), _usage(jobs))
            )
    events = _events(asked, jobs, first, pieces)
    return StreamingResponse(events, media_type="text/event-stream", headers=_UNBUFFERED)


def _whole(pieces: Sequence[Piece], prompts: int) -> list[tuple[str, str]]:
    """The answer to each prompt, and why it ended."""
    answers = [[piece for piece in pieces if piece.index == index] for index in range(prompts)]
    return [("".join(piece.text for piece in own), own[-1].ended) for own in answers]


@asynccontextmanager
async def _watching(request: Request, engine: Engine, jobs: Sequence[Job]) -> AsyncIterator[None]:
    """Cancels the jobs if the client disconnects meanwhile."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        for job in jobs:
            engine.cancel(job, ApiError(499, "the client disconnected"))

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()


async def _events(
    asked: AnyRequest, jobs: Sequence[Job], first: Piece, pieces: AsyncGenerator[Piece, None]
) -> AsyncGenerator[str, None]:
    """The answers as server-sent events; if the client disconnects, the jobs are cancelled."""
    reply = reply_to(asked)
    unused = {"usage": None} if asked.stream_options.include_usage else {}
    async with aclosing(pieces):
        try:
            async for piece in _with(first, pieces):
                for text, ended in ((piece.text, None), ("", piece.ended)):
                    if text or ended:
                        chunk = reply.chunk(piece.model, text, ended, piece.index)
                        yield _event(chunk | unused)
        except (ApiError, NiwfError) as error:
            yield _event(as_api_error(error).body)
            return
    if asked.stream_options.include_usage:
        yield _event(reply.last(answerer(jobs), _usage(jobs)))
    yield "data: [DONE]\n\n"


async def _with(first: Piece, rest: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
    yield first
    async for piece in rest:
        yield piece


def _event(value: Json) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def _usage(jobs: Sequence[Job]) -> Json:
    return usage(sum(len(job.row.prompt) for job in jobs), sum(job.row.count for job in jobs))
