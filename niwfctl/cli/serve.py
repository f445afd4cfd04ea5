"""serve: capabilities as models of an OpenAI-compatible endpoint."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Annotated

import typer

from niwfctl.cli.output import err
from niwfctl.errors import UsageError

# How many plans for products torch and its oneDNN keep on a CPU. A plan is for one shape, so by
# default (1024) they grow by megabytes with every new length of prompts.
PLANS = {"LRU_CACHE_CAPACITY": "32", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32"}

app = typer.Typer()


@app.command()
def serve(
    ctx: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free one.")] = 8000,
    max_batch: Annotated[int, typer.Option(min=1, help="Requests answered together.")] = 8,
    batch_wait_ms: Annotated[
        float, typer.Option(min=0, max=10_000, help="How long a request waits for others.")
    ] = 10,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Longest chat answer if a request does not say.")
    ] = 1024,
    max_answer_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Refuse requests for longer answers (default: the context's)."),
    ] = None,
    max_queue: Annotated[
        int, typer.Option(min=1, help="Refuse requests (429) while this many are unanswered.")
    ] = 256,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds that answers may go on for after SIGTERM.")
    ] = 25,
    log_requests: Annotated[
        bool, typer.Option("--log-requests", help="Write a line of JSON about each to stderr.")
    ] = False,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="NIWFCTL_API_KEY", help="Key that requests must send.", show_envvar=True
        ),
    ] = None,
) -> None:
    """Serve OpenAI's API on this machine: a model is a capability, `auto`, or `base`."""
    if not (find_spec("fastapi") and find_spec("uvicorn")):
        raise UsageError(
            "`serve` needs FastAPI and uvicorn: install them with `pip install 'niwfctl[serve]'`"
        )
    if api_key is not None and not api_key.strip():
        raise UsageError("--api-key is empty: give a key, or omit it to let everyone in")
    os.environ |= PLANS | os.environ  # before torch is imported, which reads them then
    from niwfctl.repository import Repository
    from niwfctl.serve import server
    from niwfctl.serve.engine import Engine

    repository = Repository.open(ctx.obj)
    listening = server.listen(host, port)
    if not api_key and not server.is_private(listening):
        err.print(
            f"niwfctl: warning: {host} can be reached from other machines, and there is no "
            "authentication: whoever connects can use the model; require a key with --api-key"
        )
    with err.status("loading the backbone"):
        engine = Engine(
            repository,
            repository.load(None),
            max_batch=max_batch,
            batch_wait=batch_wait_ms / 1000,
            max_tokens=max_tokens,
            max_queue=max_queue,
            max_answer_tokens=max_answer_tokens,
        )
    err.print(f"serving {repository.path} at {server.url(listening)} (Ctrl-C ends it)")
    if code := server.serve(engine, listening, api_key, grace, log_requests):
        raise typer.Exit(code)
