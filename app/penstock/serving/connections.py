"""Connections: those of the pages, which are short, and those of a service, which last, each with its bounds."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, Final, Protocol

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

__all__ = ["CLOSE", "CONNECTIONS", "HEAD_BYTES", "Door", "PageConnection", "Reply", "Server", "connection", "sweep"]

HEAD_BYTES: Final = 16 * 1024  # of an incomplete request head
AHEAD: Final = 16  # requests of one connection that wait for the answers of earlier ones
CONNECTIONS: Final = 64
LIFETIME: Final = 30.0  # seconds of a connection; a scraper opens a new one
HANDSHAKE: Final = 5.0  # seconds until a connection with TLS has to be established
WHOLE: Final = 64 * 1024  # bytes of a body that is waited for in one piece
TOGETHER: Final = 0.005  # seconds that it may take
SWEEP: Final = 1.0  # seconds between two looks at the connections of a service
CLOSE: Final = (b"connection", b"close")
_PLAIN: Final = re.compile(rb"/(?!/)[!-\"$&-~]{0,8191}")  # a path, and a query, that mean what they are: not encoded, no fragment

Reply = Callable[[int, Sequence[tuple[bytes, bytes]], bytes], None]  # status, headers, and body of an answer


class Door(Protocol):
    """What answers requests that have come whole."""

    def take(self, url: bytes, scope: MutableMapping[str, Any], body: bytes, reply: Reply) -> bool:
        """Takes a POST request, and calls `reply` with its answer in a later turn of the loop. False: it is not one of these.

        `scope` is that of ASGI, without what a method and a URL add; the path and the query of the URL are as they are.
        """


class Server(uvicorn.Server):
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


class PageConnection(H11Protocol):
    """A connection that ends after LIFETIME: uvicorn would wait without end for the rest of a request head.

    Beyond CONNECTIONS, where uvicorn would answer 503, the oldest one is closed: of those without a request under way, if there is any.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        super().connection_made(transport)
        self._began = self.loop.time()
        self._end = self.loop.call_later(LIFETIME, transport.close)
        others = [one for one in self.connections if isinstance(one, PageConnection) and one is not self and not one.transport.is_closing()]
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


def connection(door: Door) -> type[asyncio.Protocol]:
    """Returns the class of the connections of a service."""
    try:
        from uvicorn.protocols.http import httptools_impl as httptools
    except ImportError:  # the extra `serve` has it
        return type("Connection", (_Lasting, H11Protocol), {})
    return type("Connection", (_Lasting, _Bounded, _Short, httptools.HttpToolsProtocol), {"door": door, "status": httptools.STATUS_LINE})


class _Short:
    """A request that has come whole, as nearly all do, is offered to `door` as what it is; the others, and what it does not take, are
    uvicorn's: a scope, a task and messages to and fro cost twice as much as everything else that a request of one row takes.

    uvicorn sees such a request as its `cycle`, so that all that it does between two requests holds for these, too.
    """

    door: Door
    status: Mapping[int, bytes]
    _parts: list[bytes] | None = None  # of the body of a request that may come whole
    _later: asyncio.TimerHandle | None = None  # until when the rest of it has to be there

    def data_received(self: Any, data: bytes) -> None:
        super().data_received(data)  # type: ignore[misc]  # of uvicorn's protocol, which the other base is
        if self._parts is None or self.transport.is_closing():
            return
        if sum(map(len, self._parts)) > WHOLE:
            self._pass_on()
        elif self._later is None:  # many clients send the head and the body one after the other
            self._later = self.loop.call_later(TOGETHER, self._pass_on)

    def shutdown(self: Any) -> None:
        if self._parts is not None:  # or uvicorn would see no request on its way, and close
            self._pass_on()
        super().shutdown()  # type: ignore[misc]

    def connection_lost(self: Any, exc: Exception | None) -> None:
        self._let_go()
        super().connection_lost(exc)  # type: ignore[misc]

    def on_headers_complete(self: Any) -> None:
        alone = self.cycle is None or self.cycle.response_complete
        parser = self.parser
        if (
            alone and not self.expect_100_continue and parser.get_method() == b"POST" and parser.get_http_version() == "1.1"
            and not self.flow.write_paused and _PLAIN.fullmatch(self.url)
        ):  # fmt: skip
            self._parts = []
            return
        super().on_headers_complete()  # type: ignore[misc]

    def on_body(self: Any, body: bytes) -> None:
        if self._parts is None:
            super().on_body(body)  # type: ignore[misc]
        else:
            self._parts.append(body)

    def on_message_complete(self: Any) -> None:
        if self._parts is not None:
            before, self.cycle = self.cycle, _Cycle(self, keep_alive=self.parser.should_keep_alive())
            if self.door.take(self.url, self.scope, b"".join(self._parts), self.cycle):
                self._let_go()
                return
            self.cycle = before
            self._pass_on()
        super().on_message_complete()  # type: ignore[misc]

    def _pass_on(self: Any) -> None:
        """Makes the request one of uvicorn's, with what has come of its body."""
        parts = self._let_go()
        super().on_headers_complete()  # type: ignore[misc]
        for one in parts:
            super().on_body(one)  # type: ignore[misc]

    def _let_go(self) -> list[bytes]:
        parts, self._parts = self._parts or [], None
        if self._later is not None:
            self._later.cancel()
            self._later = None
        return parts


class _Cycle:
    """A request of `_Short`, with the attributes that uvicorn uses of its cycles."""

    __slots__ = ("_connection", "disconnected", "keep_alive", "response_complete")
    more_body = False

    def __init__(self, connection: Any, *, keep_alive: bool) -> None:
        self._connection = connection
        self.keep_alive = keep_alive  # uvicorn's stop clears it
        self.disconnected = self.response_complete = False

    @property
    def message_event(self) -> _Cycle:
        """What uvicorn sets when the connection is lost."""
        return self

    def set(self) -> None:
        """The body is complete: nothing waits for more of it."""

    def __call__(self, status: int, head: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        """Sends the answer, unless the connection is lost."""
        connection = self._connection
        transport = connection.transport
        if self.disconnected or transport.is_closing():
            return
        last = CLOSE in head
        if not (self.keep_alive or last):
            head, last = (*head, CLOSE), True
        parts = [connection.status[status]]
        for name, value in head:
            parts += (name, b": ", value, b"\r\n")
        parts += (b"content-length: %d\r\n\r\n" % len(body), body)
        transport.write(b"".join(parts))
        self.response_complete = True
        if last:
            transport.close()
        connection.on_response_complete()


class _Bounded:
    """What httptools does not bound by itself: the head of a request and the trailers behind its body, and requests sent ahead of answers.

    Such a connection is ended without an answer, which could be taken for that of an earlier request. So is one with what is no request
    behind a request that waits for its answer.
    """

    _unread = 0  # bytes in the reads since the last head was complete, or a part of a body came: httptools keeps them
    _data = b""  # that is being read
    _again = b""  # the head of a request that asks for another protocol, without that
    headers: list[tuple[bytes, bytes]]
    _running: Any = None  # what uvicorn answers, while `cycle` is the last request that has come

    def data_received(self, data: bytes) -> None:
        self._unread += len(data)
        self._data = data
        super().data_received(data)  # type: ignore[misc]  # of uvicorn's protocol, which the other base is
        self._data = b""
        if self._unread > HEAD_BYTES:
            self.transport.abort()  # type: ignore[attr-defined]

    def connection_lost(self, exc: Exception | None) -> None:
        if self._running is not None:  # its answer would be an error in the log: uvicorn reports only the last request
            self._running.disconnected = True
        super().connection_lost(exc)  # type: ignore[misc]

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)  # type: ignore[misc]

    def _unsupported_upgrade_warning(self) -> None:
        """Reads a request again that asks for another protocol, which there is not: httptools has ended it behind its head.

        Its body would be the next request otherwise: one that a proxy before this service has not seen.
        """
        error = sys.exc_info()[1]
        if self._again and error is not None:
            self._data, self._again = self._again + self._data[error.args[0] :], b""
            super().data_received(self._data)  # type: ignore[misc]

    def send_400_response(self, msg: str) -> None:
        cycle: Any = self.cycle  # type: ignore[attr-defined]
        if self.pipeline or (_busy(self) and (not cycle.more_body or cycle.response_started)):  # type: ignore[attr-defined]
            self.transport.abort()  # type: ignore[attr-defined]
        else:
            super().send_400_response(msg)  # type: ignore[misc]

    def on_headers_complete(self: Any) -> None:
        self._unread = 0
        if self.parser.should_upgrade() and (method := self.parser.get_method()) != b"CONNECT":
            lines = [b"%s %s HTTP/%s" % (method, self.url, self.parser.get_http_version().encode())]
            lines += [b"%s: %s" % one for one in self.headers if one[0] != b"upgrade"]
            self._again = b"\r\n".join((*lines, b"", b""))
            return
        if len(self.pipeline) >= AHEAD:
            self.transport.abort()
            raise ValueError("too many requests ahead of their answers")  # which ends the parser, too
        super().on_headers_complete()  # type: ignore[misc]
        self.headers = []  # for trailers, which are no headers: a proxy has not looked at them

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)  # type: ignore[misc]

    def on_message_complete(self) -> None:
        if not self._again:
            super().on_message_complete()  # type: ignore[misc]


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
        # The scope of each request has these, for `Rest`.
        self.app_state = {"cut": self.cut, "certificate": None if secure is None else secure.getpeercert(binary_form=True)}

    def cut(self: Any) -> None:
        """Ends the connection within an answer. uvicorn does not report this."""
        running = getattr(self, "_running", None) or self.cycle
        running.disconnected = True
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self.heard = self.loop.time()  # type: ignore[attr-defined]
        super().data_received(data)  # type: ignore[misc]

    def on_response_complete(self) -> None:
        self.quiet, self.new = self.loop.time(), False  # type: ignore[attr-defined]
        super().on_response_complete()  # type: ignore[misc]


async def sweep(server: uvicorn.Server, most: int, idle: float) -> None:
    """Closes the connections of a service that have been silent for too long, and beyond `most` those silent for longest.

    Also those whose request is on its way: its body, or a stream of lines, may come for as long as its client likes. A connection that has
    come since the last sweep stays: its request may be about to be read; so does one whose request may come whole, for TOGETHER.
    """
    loop = asyncio.get_running_loop()
    swept = loop.time()
    while True:
        await asyncio.sleep(min(SWEEP, idle / 2))
        before, swept = swept, loop.time()
        connections: Any = server.server_state.connections
        still = [one for one in connections if getattr(one, "_parts", None) is None]
        waiting = [one for one in still if (not _busy(one) or one.cycle.more_body) and not (one.new and one.quiet > before)]
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
