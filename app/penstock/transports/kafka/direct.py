"""Requests on aiokafka's connections, without its tasks: a request is written at once, its answer is passed to a plain function.

aiokafka gives every request a timer, a future and a task that waits for it, and every connection a task that reads it
through a stream. Each takes a separate turn of the event loop, and at low rates they cost more than the models do. Here
a request is bytes that are written when it is made, and its answer is passed to a function when it arrives at the socket.
aiokafka still opens a connection, sets up TLS, logs in, closes a connection that is idle or broken, and handles errors.

Private parts of aiokafka 0.14.0 that are touched, all of them in this file: `AIOKafkaClient._conns`; `AIOKafkaConnection._reader`,
`._writer`, `._protocol`, `._requests`, `._versions`, `._client_id`, `._request_timeout`, `._last_action`, `._next_correlation_id`
and `._handle_frame`; `StreamReader._buffer`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import cast

from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError, KafkaError

from penstock.transports.kafka.wire import FETCH, PRODUCE, Api, frame

__all__ = ["Direct", "Line"]

logger = logging.getLogger(__name__)

Answered = Callable[[bytes, int], None]  # the bytes of an answer, and where its body begins in them
Lost = Callable[[KafkaError], None]


class _Call:
    """A request under way, in the form that aiokafka keeps. Like a future, it fails when the connection closes."""

    __slots__ = ("answered", "lost", "sent")

    def __init__(self, answered: Answered, lost: Lost) -> None:
        self.answered = answered
        self.lost = lost
        self.sent = time.monotonic()

    def done(self) -> bool:
        return False

    def set_exception(self, error: KafkaError) -> None:
        self.lost(error)


def _nothing() -> None:
    """The hook that no caller has set."""


class Direct:
    """The direct way to the brokers that a started client has connections to."""

    def __init__(self, client: AIOKafkaClient) -> None:
        self._client = client
        self._lines: dict[int, Line] = {}

    def line(self, node: int, api: Api) -> Line | None:
        """Returns the open connection to a broker, which must support `api`. Without one, None: aiokafka has to send the request."""
        conn = self._client._conns.get((node, ConnectionGroup.DEFAULT))
        if conn is None or not conn.connected():
            return None
        line = self._lines.get(node)
        if line is None or line.conn is not conn:
            if not Line.possible(conn):
                return None
            line = self._lines[node] = Line(conn)
        return line if api in line.apis else None

    def deaf(self, node: int, api: Api) -> bool:
        """Returns whether the broker is known not to support `api`."""
        line = self._lines.get(node)
        return line is not None and api not in line.apis


class Line(asyncio.Protocol):
    """Reads a connection in place of aiokafka's task, and passes aiokafka the answers to its requests."""

    def __init__(self, conn: AIOKafkaConnection) -> None:
        self.conn = conn
        versions = conn._versions
        self.apis = {api for api in (FETCH, PRODUCE) if api.key in versions and versions[api.key][0] <= api.version <= versions[api.key][1]}
        self._behind = cast(asyncio.Protocol, conn._protocol)  # gets the callbacks that carry no data
        self._parts: list[bytes] = []  # of a frame that is not complete yet
        self._have = self._need = 0
        self._watch: asyncio.TimerHandle | None = None
        self.full = False  # the broker takes bytes more slowly than they are written
        self.drained: Callable[[], None] = _nothing  # called once when it is full no longer, or the connection has ended
        conn._writer.transport.set_protocol(self)

    @staticmethod
    def possible(conn: AIOKafkaConnection) -> bool:
        """Returns whether no answer is partly read: only then is it known where the next frame begins."""
        return not conn._requests and not conn._reader._buffer

    def call(self, api: Api, body: Sequence[bytes | bytearray], answered: Answered, lost: Lost) -> None:
        """Sends a request. Calls either `answered` or `lost`, once, after this has returned; neither may raise.

        While the line is `full`, a caller whose requests are large waits until `drained` is called.
        """
        conn = self.conn
        number = conn._next_correlation_id()
        conn._writer.write(frame(api, number, conn._client_id, body))
        conn._requests.append((number, None, _Call(answered, lost)))
        if self._watch is None:
            self._look_again(conn._request_timeout)

    # -- what the transport calls ----------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._parts:
            self._parts.append(data)
            self._have += len(data)
            if self._have < self._need:
                return
            data = b"".join(self._parts)
            self._parts.clear()
        at, end = 0, len(data)
        while end - at >= 4:
            stop = at + 4 + int.from_bytes(data[at : at + 4])
            if stop > end:
                break
            if not self._frame(data if stop == end and not at else data[at:stop]):
                return
            at = stop
        if at < end:
            self._parts.append(data[at:] if at else data)
            self._have = end - at
            self._need = 4 + int.from_bytes(data[at : at + 4]) if self._have >= 4 else 4

    def _frame(self, data: bytes) -> bool:
        """Passes one answer to its request. Returns False when the connection has been closed because of it."""
        conn = self.conn
        try:
            number, _, call = conn._requests[0]
            if type(call) is not _Call:
                conn._handle_frame(data[4:])
                return conn._reader is not None
            if int.from_bytes(data[4:8]) != number:
                raise KafkaConnectionError(f"an answer to request {int.from_bytes(data[4:8])} where one to {number} was due")
            conn._requests.popleft()
            conn._last_action = time.monotonic()
            call.answered(data, 8)
        except Exception as error:  # after any error it is not known where the next answer begins
            logger.exception("an answer from %s:%s could not be parsed", conn.host, conn.port)
            conn.close(reason=CloseReason.OUT_OF_SYNC, exc=error)
            return False
        return True

    def eof_received(self) -> bool | None:
        return self._behind.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._behind.connection_lost(exc)
        self._drain()

    def pause_writing(self) -> None:
        self.full = True
        self._behind.pause_writing()

    def resume_writing(self) -> None:
        self._behind.resume_writing()
        self._drain()

    def _drain(self) -> None:
        self.full = False
        drained, self.drained = self.drained, _nothing
        drained()

    # -- time-outs -------------------------------------------------------------------------------------------------

    def _look_again(self, seconds: float) -> None:
        self._watch = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        """Closes the connection when its oldest request is overdue, which fails all requests; aiokafka times out its own."""
        self._watch = None
        conn = self.conn
        if not conn._requests or not conn.connected():
            return
        left: float = conn._request_timeout
        # A request of aiokafka's may be before ours whose caller no longer waits, so that no other timeout covers it.
        ours = next((call for _, _, call in conn._requests if type(call) is _Call), None)
        if ours is not None:
            left += ours.sent - time.monotonic()
        if left > 0:
            self._look_again(left)
        else:
            conn.close(reason=CloseReason.CONNECTION_TIMEOUT)
