"""The HTTP app: `/healthz`, `/readyz` and `/metrics`, in the event loop of the process that they describe, and of a service its routes.

The three pages show no payloads, so they may be served to other hosts. Because untrusted clients may reach them, they are bounded: GET
and HEAD only, no request bodies, at most 16 KiB of an incomplete request head, at most 64 connections at a time,
each closed after 30 seconds.
A further connection takes the place of the one that has been silent for longest: a client that opens many and sends nothing must not
keep a probe from its answer, since a worker whose probe fails is killed.

The routes of a service (`rest`) stand before the pages. Its connections last, and are as many as the setting max_connections; one that
does not send a request, or does not read its answer, is closed after the setting idle_timeout.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import re
import socket
import ssl
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from penstock.errors import SettingsError
from penstock.serving.connections import CONNECTIONS, HEAD_BYTES, PageConnection, Server, connection, sweep
from penstock.serving.handlers import Service
from penstock.serving.rest import Rest
from penstock.telemetry.health import Pages, Verdict

__all__ = ["answering", "listen", "make_app", "reserve", "serving"]

logger = logging.getLogger(__name__)

IDLE: Final = 5  # seconds of silence between two requests
BACKLOG: Final = 64  # connections that wait to be accepted
SERVICE_BACKLOG: Final = 2048
LAST: Final = 0.5  # seconds of a stop in which requests are still taken from open connections, which their answers end
_ADDRESS: Final = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^:\[\]/]*):(?P<port>\d{1,5})")

Endpoint = Callable[[Request], Awaitable[Response]]


def listen(address: str, *, name: str = "http", shared: bool = False, backlog: int | None = BACKLOG) -> socket.socket:
    """Returns a socket bound to `HOST:PORT` (an empty host: every interface; port 0: any free one) or to `unix:PATH`.

    `name` is the setting. Other processes may bind a `shared` port, too: the kernel gives each connection to one of them.

    Raises SettingsError when the address is invalid or cannot be bound.
    """
    kind, _, path = address.partition(":")
    try:
        return _listen_unix(path) if kind == "unix" else _listen_tcp(address, name, shared, backlog)
    except (OSError, ValueError) as error:  # ValueError: a name that no host can have, a NUL in a path
        why = error.strerror or error if isinstance(error, OSError) else error
        raise SettingsError(f"{name}: cannot listen on {address}: {why}; choose another address, or free this one") from error


def reserve(address: str, name: str) -> tuple[socket.socket, str]:
    """Returns a socket that keeps `HOST:PORT` for processes of this program that share it, and the address with its port.

    It does not listen: the kernel would give it connections. Raises SettingsError for an address that others use.
    """
    listen(address, name=name).close()  # alone: a shared port could be bound beside a stranger's
    bound = listen(address, name=name, shared=True, backlog=None)
    host, _, _ = address.rpartition(":")
    return bound, f"{host}:{bound.getsockname()[1]}"


def _listen_tcp(address: str, name: str, shared: bool, backlog: int | None) -> socket.socket:
    found = _ADDRESS.fullmatch(address)
    if found is None or int(found["port"]) > 65535:
        raise SettingsError(f"{name}: {address!r} is not an address; write HOST:PORT, like 127.0.0.1:9100, or unix:PATH")
    host = found["host"].strip("[]")
    family, kind, protocol, _, place = socket.getaddrinfo(host or "0.0.0.0", int(found["port"]), type=socket.SOCK_STREAM)[0]  # noqa: S104  as asked
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a restart need not wait until the system drops the old connections
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(place)
        if backlog is not None:
            made.listen(backlog)
    except OSError:
        made.close()
        raise
    return made


def _listen_unix(path: str) -> socket.socket:
    """Replaces a socket file that a dead process left. Its folder is private, and a socket in use would accept a connection."""
    if not path:  # the kernel would choose a name
        raise SettingsError("http: 'unix:' is not an address; write HOST:PORT, like 127.0.0.1:9100, or unix:PATH")
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.stat(path).st_mode) and not _answers(path):
                os.unlink(path)
        made.bind(path)
        made.listen(BACKLOG)
    except (OSError, ValueError):
        made.close()
        raise
    return made


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(path) == 0


def make_app(pages: Pages) -> Starlette:
    """Returns the app that serves these pages."""

    def page(answer: Callable[[], Awaitable[Verdict]]) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            good, body = await answer()
            text = json.dumps(body, indent=2, ensure_ascii=False) + "\n"
            return Response(text, 200 if good else 503, media_type="application/json")

        return endpoint

    async def metrics(request: Request) -> Response:
        text, content_type = await pages.metrics(request.headers.get("accept", ""))
        return Response(text, headers={"content-type": content_type})

    async def refused(request: Request, error: Exception) -> Response:
        """As JSON, as all errors of the other routes; Starlette's own is plain text."""
        status, headers = getattr(error, "status_code", 500), getattr(error, "headers", None)
        why = f"there is no {request.url.path} here" if status == 404 else "the method here is GET"
        text = json.dumps({"error": why, "code": "not-there" if status == 404 else "method-not-allowed"})
        return Response(text, status, headers, media_type="application/json")

    return Starlette(
        exception_handlers={404: refused, 405: refused},
        routes=[
            Route("/healthz", _bodiless(page(pages.alive)), methods=["GET"]),
            Route("/readyz", _bodiless(page(pages.ready)), methods=["GET"]),
            Route("/metrics", _bodiless(metrics), methods=["GET"]),
        ],
    )


def _bodiless(endpoint: Endpoint) -> Endpoint:
    """Rejects a request with a body without reading it, and closes the connection."""

    async def answer(request: Request) -> Response:
        if request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers:
            return Response("this page accepts no body\n", 413, headers={"connection": "close"}, media_type="text/plain")
        response = await endpoint(request)
        response.headers["cache-control"] = "no-store"
        return response

    return answer


@contextlib.asynccontextmanager
async def serving(bound: socket.socket, pages: Pages) -> AsyncIterator[None]:
    """Serves the pages on a bound socket while the block runs, in this event loop. Closes the socket."""
    config = uvicorn.Config(
        make_app(pages), http=PageConnection, ws="none", lifespan="off", interface="asgi3", log_config=None, log_level=logging.ERROR,
        access_log=False, server_header=False, date_header=False, proxy_headers=False, limit_concurrency=CONNECTIONS,
        timeout_keep_alive=IDLE, timeout_graceful_shutdown=1, h11_max_incomplete_event_size=HEAD_BYTES,
    )  # fmt: skip
    server = Server(config)
    task = asyncio.create_task(server.serve(sockets=[bound]))
    logger.info("serving /healthz, /readyz and /metrics on %s", _shown(bound))
    try:
        yield
    finally:
        server.should_exit = True
        await asyncio.wait({task}, timeout=3.0)
        task.cancel()
        bound.close()


@contextlib.asynccontextmanager
async def answering(bound: socket.socket, pages: Pages, service: Service, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[None]:
    """Serves the routes of the service and the pages on a bound socket while the block runs, with TLS where given. Closes the socket.

    At the end, requests under way are answered first, within the setting drain_timeout.
    """
    settings = service.settings
    rest = Rest(service, make_app(pages))
    bound.listen(SERVICE_BACKLOG)
    config = uvicorn.Config(
        rest, http=connection(rest), ws="none", lifespan="off", interface="asgi3", log_config=None,
        log_level=logging.ERROR, access_log=False, server_header=False, date_header=False, proxy_headers=False,
        timeout_keep_alive=math.ceil(settings.idle_timeout), h11_max_incomplete_event_size=HEAD_BYTES,
    )  # fmt: skip
    config.load()
    config.ssl = tls
    server = Server(config)
    task = asyncio.create_task(server.serve(sockets=[bound]))
    sweeper = asyncio.create_task(sweep(server, settings.max_connections, settings.idle_timeout))
    logger.info("serving %s on %s", service.name, _shown(bound))
    try:
        yield
    finally:
        for listening in getattr(server, "servers", ()):
            listening.close()
        # A connection that is closed in silence has often a request on its way, which would be lost.
        await asyncio.wait({task}, timeout=LAST)
        server.should_exit = True
        await asyncio.wait({task}, timeout=settings.drain_timeout)
        if late := [*server.server_state.tasks]:  # each ends its answer with the reason; uvicorn would log a traceback per request
            logger.warning("drain_timeout (%g s) is over: requests that end with an error: %d", settings.drain_timeout, len(late))
            for one in late:
                one.cancel()
            await asyncio.wait(late, timeout=IDLE)
        server.force_exit = True
        await asyncio.wait({task}, timeout=1.0)
        task.cancel()
        sweeper.cancel()
        bound.close()


def _shown(bound: socket.socket) -> str:
    if bound.family == socket.AF_UNIX:
        return f"unix:{bound.getsockname()}"
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
