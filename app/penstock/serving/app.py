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
import functools
import json
import logging
import math
import os
import re
import socket
import ssl
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from penstock.errors import SettingsError
from penstock.serving.handlers import Service
from penstock.serving.rest import Rest
from penstock.telemetry.health import Pages, Verdict

__all__ = ["answering", "listen", "make_app", "reserve", "serving"]

logger = logging.getLogger(__name__)

HEAD_BYTES: Final = 16 * 1024  # of an incomplete request head
AHEAD: Final = 16  # requests of one connection that wait for the answers of earlier ones
CONNECTIONS: Final = 64
LIFETIME: Final = 30.0  # seconds of a connection; a scraper opens a new one
HANDSHAKE: Final = 5.0  # seconds until a connection with TLS has to be established
IDLE: Final = 5  # seconds of silence between two requests
BACKLOG: Final = 64  # connections that wait to be accepted
SERVICE_BACKLOG: Final = 2048
LAST: Final = 0.5  # seconds of a stop in which requests are still taken from open connections, which their answers end
SWEEP: Final = 1.0  # seconds between two looks at the connections of a service
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
        make_app(pages), http=_Connection, ws="none", lifespan="off", interface="asgi3", log_config=None, log_level=logging.ERROR,
        access_log=False, server_header=False, date_header=False, proxy_headers=False, limit_concurrency=CONNECTIONS,
        timeout_keep_alive=IDLE, timeout_graceful_shutdown=1, h11_max_incomplete_event_size=HEAD_BYTES,
    )  # fmt: skip
    server = _Server(config)
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
    bound.listen(SERVICE_BACKLOG)
    config = uvicorn.Config(
        Rest(service, make_app(pages)), http=_protocol(), ws="none", lifespan="off", interface="asgi3", log_config=None,
        log_level=logging.ERROR, access_log=False, server_header=False, date_header=False, proxy_headers=False,
        timeout_keep_alive=math.ceil(settings.idle_timeout), timeout_graceful_shutdown=math.ceil(settings.drain_timeout),
        h11_max_incomplete_event_size=HEAD_BYTES,
    )  # fmt: skip
    config.load()
    config.ssl = tls
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[bound]))
    sweeper = asyncio.create_task(_sweep(server, settings.max_connections, settings.idle_timeout))
    logger.info("serving %s on %s", service.name, _shown(bound))
    try:
        yield
    finally:
        for listening in getattr(server, "servers", ()):
            listening.close()
        # A connection that is closed in silence has often a request on its way, which would be lost.
        await asyncio.wait({task}, timeout=LAST)
        server.should_exit = True
        await asyncio.wait({task}, timeout=settings.drain_timeout + IDLE)
        task.cancel()
        sweeper.cancel()
        bound.close()


def _protocol() -> type[asyncio.Protocol]:
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    except ImportError:  # the extra `serve` has it
        return type("Connection", (_Lasting, H11Protocol), {})
    return type("Connection", (_Lasting, _Bounded, HttpToolsProtocol), {})


class _Bounded:
    """What httptools does not bound by itself: the head of a request and the trailers behind its body, and requests sent ahead of answers.

    Such a connection is ended without an answer, which could be taken for that of an earlier request.
    """

    _unread = 0  # bytes in the reads since the last head was complete, or a part of a body came: httptools keeps them

    def data_received(self, data: bytes) -> None:
        self._unread += len(data)
        super().data_received(data)  # type: ignore[misc]  # of uvicorn's protocol, which the other base is
        if self._unread > HEAD_BYTES:
            self.transport.abort()  # type: ignore[attr-defined]

    def on_headers_complete(self) -> None:
        self._unread = 0
        if len(self.pipeline) >= AHEAD:  # type: ignore[attr-defined]
            self.transport.abort()  # type: ignore[attr-defined]
            raise ValueError("too many requests ahead of their answers")  # which ends the parser, too
        super().on_headers_complete()  # type: ignore[misc]

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)  # type: ignore[misc]


class _Lasting:
    """What both kinds of connections of a service have: since when they have been without a request, when bytes came last, and whether
    they have had no answer yet.
    """

    quiet = heard = 0.0
    new = True

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)  # type: ignore[misc]  # of uvicorn's protocol, which the other base is
        self.quiet = self.heard = self.loop.time()  # type: ignore[attr-defined]
        secure = transport.get_extra_info("ssl_object")
        if secure is not None:  # the scope of each request has it, for `Rest`
            self.app_state = {"certificate": secure.getpeercert(binary_form=True)}

    def data_received(self, data: bytes) -> None:
        self.heard = self.loop.time()  # type: ignore[attr-defined]
        super().data_received(data)  # type: ignore[misc]

    def on_response_complete(self) -> None:
        self.quiet, self.new = self.loop.time(), False  # type: ignore[attr-defined]
        super().on_response_complete()  # type: ignore[misc]


async def _sweep(server: uvicorn.Server, most: int, idle: float) -> None:
    """Closes the connections of a service that have been silent for too long, and beyond `most` those silent for longest.

    Also those whose request is on its way: its body, or a stream of lines, may come for as long as its client likes. A connection that has
    come since the last sweep stays: its request may be about to be read.
    """
    loop = asyncio.get_running_loop()
    swept = loop.time()
    while True:
        await asyncio.sleep(min(SWEEP, idle / 2))
        before, swept = swept, loop.time()
        connections: Any = server.server_state.connections
        waiting = [one for one in connections if (not _busy(one) or one.cycle.more_body) and not (one.new and one.quiet > before)]
        waiting.sort(key=lambda one: one.heard)
        excess = len(connections) - most
        for at, one in enumerate(waiting):
            if at < excess or (swept - one.quiet > idle and not _busy(one)):
                transport = one.transport
                if transport.is_closing() or transport.get_write_buffer_size():
                    transport.abort()  # its client does not read: it would never be closed otherwise
                else:
                    transport.close()


def _busy(connection: Any) -> bool:
    if connection.transport.is_closing():  # the answer was given up, and what is left of it waits for a client that does not read
        return False
    cycle = getattr(connection, "cycle", None)
    return cycle is not None and not cycle.response_complete


def _shown(bound: socket.socket) -> str:
    if bound.family == socket.AF_UNIX:
        return f"unix:{bound.getsockname()}"
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, because the process has its own; and a client has HANDSHAKE seconds for that of TLS."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        if self.config.ssl is None:
            await super().startup(sockets)
            return
        # asyncio's default is 60 s, in which such connections are in no list that could be swept; uvicorn passes no other value on.
        loop.create_server = functools.partial(loop.create_server, ssl_handshake_timeout=HANDSHAKE)  # type: ignore[method-assign]
        try:
            await super().startup(sockets)
        finally:
            del loop.create_server  # what the class has

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Connection(H11Protocol):
    """A connection that ends after LIFETIME: uvicorn would wait without end for the rest of a request head.

    Beyond CONNECTIONS, where uvicorn would answer 503, the oldest one is closed: of those without a request under way, if there is any.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        super().connection_made(transport)
        self._began = self.loop.time()
        self._end = self.loop.call_later(LIFETIME, transport.close)
        others = [one for one in self.connections if isinstance(one, _Connection) and one is not self and not one.transport.is_closing()]
        if len(others) + 1 >= CONNECTIONS:
            min(others, key=lambda one: (one.busy, one._began)).transport.abort()

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def connection_lost(self, exc: Exception | None) -> None:
        self._end.cancel()
        super().connection_lost(exc)
