"""The HTTP app: `/healthz`, `/readyz` and `/metrics`, in the event loop of the process that they describe.

The three pages show no payloads, so they may be served to other hosts. Because untrusted clients may reach them, they are bounded: GET
and HEAD only, no request bodies, at most 16 KiB of an incomplete request head, at most 64 connections at a time,
each closed after 30 seconds.
A further connection takes the place of the one that has been silent for longest: a client that opens many and sends nothing must not
keep a probe from its answer, since a worker whose probe fails is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from penstock.errors import SettingsError
from penstock.telemetry.health import Pages, Verdict

__all__ = ["listen", "make_app", "serving"]

logger = logging.getLogger(__name__)

HEAD_BYTES: Final = 16 * 1024  # of an incomplete request head
CONNECTIONS: Final = 64
LIFETIME: Final = 30.0  # seconds of a connection; a scraper opens a new one
IDLE: Final = 5  # seconds of silence between two requests
BACKLOG: Final = 64  # connections that wait to be accepted
_ADDRESS: Final = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^:\[\]/]*):(?P<port>\d{1,5})")

Endpoint = Callable[[Request], Awaitable[Response]]


def listen(address: str) -> socket.socket:
    """Returns a socket bound to `HOST:PORT` (an empty host: every interface; port 0: any free one) or to `unix:PATH`.

    Raises SettingsError when the address is invalid or cannot be bound.
    """
    kind, _, path = address.partition(":")
    try:
        return _listen_unix(path) if kind == "unix" else _listen_tcp(address)
    except (OSError, ValueError) as error:  # ValueError: a name that no host can have, a NUL in a path
        why = error.strerror or error if isinstance(error, OSError) else error
        raise SettingsError(f"http: cannot listen on {address}: {why}; choose another address, or free this one") from error


def _listen_tcp(address: str) -> socket.socket:
    found = _ADDRESS.fullmatch(address)
    if found is None or int(found["port"]) > 65535:
        raise SettingsError(f"http: {address!r} is not an address; write HOST:PORT, like 127.0.0.1:9100, or unix:PATH")
    host = found["host"].strip("[]")
    family, kind, protocol, _, place = socket.getaddrinfo(host or "0.0.0.0", int(found["port"]), type=socket.SOCK_STREAM)[0]  # noqa: S104  as asked
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a restart need not wait until the system drops the old connections
        made.bind(place)
        made.listen(BACKLOG)
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

    return Starlette(
        routes=[
            Route("/healthz", _bodiless(page(pages.alive)), methods=["GET"]),
            Route("/readyz", _bodiless(page(pages.ready)), methods=["GET"]),
            Route("/metrics", _bodiless(metrics), methods=["GET"]),
        ]
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


def _shown(bound: socket.socket) -> str:
    if bound.family == socket.AF_UNIX:
        return f"unix:{bound.getsockname()}"
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, because the process has its own."""

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
