"""Listening, and serving until Ctrl-C."""

from __future__ import annotations

import ipaddress
import socket

import uvicorn
from fastapi import FastAPI

from niwfctl.errors import UsageError
from niwfctl.serve.app import create_app
from niwfctl.serve.engine import Engine


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


def serve(engine: Engine, listening: socket.socket, api_key: str | None = None) -> None:
    """Serves until Ctrl-C or SIGTERM.

    Args:
        api_key: key that requests must send; None lets everyone in.

    Raises:
        KeyboardInterrupt: on Ctrl-C, once every answer under way has ended.
    """
    app = create_app(engine, api_key, None if api_key else own_names(listening))
    Server(engine, app).run(sockets=[listening])


class Server(uvicorn.Server):
    """Ends answers before it waits for connections to close."""

    def __init__(self, engine: Engine, app: FastAPI) -> None:
        super().__init__(uvicorn.Config(app, log_level="warning"))
        self._engine = engine

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._engine.close()
        await super().shutdown(sockets)
