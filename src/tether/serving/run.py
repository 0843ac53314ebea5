"""Runs the server: a socket, uvicorn, and an orderly end."""

from __future__ import annotations

import socket
import time
import warnings
from collections.abc import Callable
from typing import Any

import uvicorn

from tether.errors import TetherError
from tether.sampling import Request, Session
from tether.serving.app import create_app
from tether.serving.connection import protocol_with
from tether.serving.log import set_up
from tether.serving.service import Drawing, Service
from tether.serving.settings import Settings
from tether.serving.store import JobStore

__all__ = ["check", "listening", "serve", "uvicorn_server"]

CONNECTIONS = 1000
"""Open connections; one more is answered with 503."""


class _Server(uvicorn.Server):
    """uvicorn's, which tells the service first that it ends: streams of events would hold it up."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        service: Service = self.config.app.state.service  # type: ignore[union-attr]
        service.drain()
        await super().shutdown(sockets)


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        TetherError: when the address is not one of this machine, or is in use.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        made = socket.create_server((host.strip("[]"), port), family=family, backlog=128)
    except OSError as error:
        raise TetherError(f"cannot listen at {host}:{port}: {error.strerror or error}; choose another --port") from None
    made.set_inheritable(True)
    return made


def serve(
    settings: Settings, log_level: str = "info", drawing: Callable[[Settings, JobStore], Drawing] | None = None
) -> None:
    """Serves until SIGTERM or Ctrl-C.

    Args:
        settings: of the server.
        log_level: debug, info, warning or error.
        drawing: who draws, where it is not this process; see `Service`.

    Raises:
        TetherError: when a folder cannot be used, or the address is taken.
    """
    set_up(log_level)
    warnings.filterwarnings("ignore", module="PIL")  # about odd metadata of uploads
    app = create_app(settings, drawing)
    with listening(settings.host, settings.port) as made:
        host, port = made.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        print(f"http://{shown}:{port}", flush=True)
        uvicorn_server(app, settings).run(sockets=[made])


def uvicorn_server(app: Any, settings: Settings) -> uvicorn.Server:
    """A server of the app, to be run on a socket of `listening`."""
    return _Server(
        uvicorn.Config(
            app,
            http=protocol_with(settings.limits.idle),
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="on",
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=max(1, round(settings.grace)),
        )
    )


def check(settings: Settings) -> list[str]:
    """Tries what a start needs, and draws one image; a line about each.

    Raises:
        TetherError: for the first thing that does not work.
    """
    lines = []
    listening(settings.host, settings.port).close()
    lines.append(f"address {settings.host}:{settings.port} is free")
    service = Service(settings)
    try:
        wrong = service.store.check()
        if wrong is not None:
            raise TetherError(f"the database of jobs is damaged: {wrong}")
        counts = {state: number for state, number in service.store.counts().items() if number}
        lines.append(f"{settings.data} is writable; jobs: {counts or 'none'}")
        for what in ("bases", "controls", "vaes", "loras", "embeddings"):
            lines.append(f"{what}: {', '.join(service.catalog.entries(what)) or 'none'}")
        started = time.perf_counter()
        session = Session(locate=service.catalog.locate)
        session.run(
            Request(
                prompt="",
                steps=1,
                guidance_scale=1.0,
                base=settings.base,
                device=settings.device,
                dtype=settings.dtype,
                engine=settings.engine,
            )
        )
        lines.append(f"{settings.base} draws on {settings.device} ({time.perf_counter() - started:.1f} s)")
    finally:
        service.close()
    return lines
