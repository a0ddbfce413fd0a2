"""The service under uvicorn: one process, a port, until Ctrl-C."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from ...platform.core.errors import ConfigError
from ...platform.core.extras import require_extra
from ...platform.core.log_lines import JsonLines
from ..config import HOST, ListenConfig, ServiceConfig

if TYPE_CHECKING:
    from fastapi import FastAPI

log = logging.getLogger("vetdino.service")

CONNECTIONS = 512
"""Connections at a time; above, they are answered with 503 at once."""


def serve(config: ServiceConfig, listen: ListenConfig) -> None:
    """Serves until Ctrl-C or SIGTERM.

    Raises ConfigError where the port is in use, tokens are missing or an extra is, before anything is loaded; else what
    `open_engine` raises.
    """
    for library in ("fastapi", "uvicorn"):
        require_extra(library, "the service")
    from ..engine.opening import check_ray, open_engine
    from .api import create_app
    from .auth import load_tokens

    tokens = load_tokens(listen)
    check_ray(config)
    with bound_socket(listen.host, listen.port) as listener, _ray(config):
        engine = open_engine(config)
        try:
            app = create_app(engine, tokens, local=listen.host == HOST)
            run(app, listener, config.limits.body_s, "The service")
        finally:
            engine.close()


def _ray(config: ServiceConfig) -> AbstractContextManager[None]:
    """A connection to the Ray that runs, where galleries are divided."""
    if config.gallery_shards == 1:
        return nullcontext()
    require_extra("ray", "a gallery in shards")
    from ...platform.training.cluster import ray_connection

    return ray_connection()


def run(app: FastAPI, listener: socket.socket, header_s: float, name: str) -> None:
    """Runs an app on a socket until Ctrl-C or SIGTERM. header_s: seconds for a request's headers to arrive."""
    import uvicorn

    host, port = listener.getsockname()[:2]
    print(f"{name} is at http://{host}:{port} (Ctrl-C stops it)", flush=True)
    handler = log_to_stderr()
    settings = uvicorn.Config(
        app,
        http=timed_protocol(header_s),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
        limit_concurrency=CONNECTIONS,
    )
    try:
        uvicorn.Server(settings).run(sockets=[listener])
    except KeyboardInterrupt as interruption:
        print(f"{name} has stopped.", flush=True)
        if type(interruption) is not KeyboardInterrupt:  # SIGTERM: the command line gives its exit code
            raise
    finally:
        log.removeHandler(handler)


def log_to_stderr() -> logging.Handler:
    """One line for each request on stderr, JSON where that is no terminal, until the handler is removed."""
    handler = logging.StreamHandler()
    plain = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(plain if sys.stderr.isatty() else JsonLines())
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    return handler


def timed_protocol(header_s: float) -> Any:
    """uvicorn's HTTP/1.1, which also closes a connection whose request's headers take longer than `header_s`.

    h11, the strict parser: what another one might read in two ways (two lengths, length and chunks) it refuses.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class TimedProtocol(H11Protocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _watch(self) -> None:
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop()  # a request has arrived
            elif self._timer is None:
                self._timer = self.loop.call_later(header_s, self.transport.abort)

        def _stop(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return TimedProtocol


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that listens nowhere else. Raises ConfigError where the port cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(
            f"port {port} of {host} cannot be used ({getattr(error, 'strerror', None) or error}); "
            "choose another with --port, or stop the program that uses it"
        ) from None
    return listener
