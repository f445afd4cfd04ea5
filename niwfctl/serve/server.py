"""Listening, and serving until a signal."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
import sys
import time
from types import FrameType

import uvicorn
from fastapi import FastAPI

from niwfctl.errors import BackboneError, UsageError
from niwfctl.serve.app import create_app
from niwfctl.serve.engine import Engine
from niwfctl.training.interrupt import TERMINATED

SLOWEST_READER = 5  # seconds that a client may take, in the end, to read what it was sent


def listen(host: str, port: int) -> socket.socket:
    """A socket that clients can connect to; they wait until the server runs.

    Args:
        port: 0 picks a free one.

    Raises:
        UsageError: the port is taken or not allowed, or no such address is this machine's.
    """
    try:
        family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:  # the latter if it cannot be a host name
        reason = getattr(error, "strerror", None) or "there can be no such host"
        raise UsageError(
            f"cannot listen on {host}, port {port} ({reason}): choose others with --host and --port"
        ) from error


def is_private(listening: socket.socket) -> bool:
    """Whether only this machine can connect."""
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback


def own_names(listening: socket.socket) -> frozenset[str] | None:
    """What requests may call a server that only this machine can connect to; None: anything."""
    if not is_private(listening):
        return None
    host = listening.getsockname()[0]
    return frozenset({"localhost", "127.0.0.1", "[::1]", f"[{host}]" if ":" in host else host})


def url(listening: socket.socket) -> str:
    """What clients call the base URL."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


def serve(
    engine: Engine,
    listening: socket.socket,
    api_key: str | None = None,
    grace: float = 0,
    log_requests: bool = False,
) -> int:
    """Serves until Ctrl-C or SIGTERM.

    Args:
        api_key: key that requests must send; None lets everyone in.
        grace: seconds that answers may go on for after SIGTERM.
        log_requests: whether to write a line about each to standard error.

    Returns:
        The exit code.

    Raises:
        KeyboardInterrupt: on Ctrl-C, once every answer under way has ended.
        BackboneError: the device failed, in a way that only a new process mends.
    """
    hosts, log = None if api_key else own_names(listening), _write if log_requests else None
    app = create_app(engine, api_key, hosts, log=log)
    server = Server(engine, app, grace)
    server.run(sockets=[listening])
    if engine.broken:
        raise BackboneError(
            f"the GPU failed while it answered ({engine.broken}): start the server again"
        )
    return TERMINATED if server.terminated else 0


def _write(line: str) -> None:
    sys.stderr.write(line)
    sys.stderr.flush()


class Server(uvicorn.Server):
    """Ends answers before it waits for connections to close; ends if the device fails.

    Attributes:
        terminated: whether SIGTERM came: no more requests are taken, but answers may go on for as
            long as the grace, unless a second signal comes.
    """

    def __init__(self, engine: Engine, app: FastAPI, grace: float = 0) -> None:
        """
        Args:
            grace: seconds.
        """
        super().__init__(
            uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=SLOWEST_READER)
        )
        self.terminated = False
        self._engine, self._grace, self._hurried = engine, grace, False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Notes a signal; uvicorn would send itself SIGTERM again, which containers ignore."""
        self._hurried = self.terminated
        if sig == signal.SIGTERM:
            self.terminated = self.should_exit = True
            return
        if self._hurried:
            self.should_exit = False  # or uvicorn would take it for a second Ctrl-C
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._engine.broken is not None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends or awaits the answers under way, then closes connections."""
        self._engine.refuse()
        deadline = time.monotonic() + (self._grace if self.terminated else 0)
        while self._engine.busy and not self._hurried and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        self._engine.close()
        await super().shutdown(sockets)
