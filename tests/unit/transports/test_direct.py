"""Requests on a connection of aiokafka's, against a broker that answers as it is told: in pieces, late, wrongly or not at all."""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.errors import KafkaError
from aiokafka.protocol.admin import ApiVersionRequest_v0, ApiVersionResponse_v0
from aiokafka.protocol.metadata import MetadataRequest, MetadataResponse_v0
from hypothesis import given
from hypothesis import strategies as st

from penstock.transports.kafka.direct import Line
from penstock.transports.kafka.wire import FETCH, PRODUCE

VERSIONS = [(0, 0, 9), (1, 4, 17), (3, 0, 0), (18, 0, 0)]
PATIENCE = 0.3  # seconds, as the request time-out

Answer = Callable[[asyncio.StreamWriter, list[tuple[int, int, bytes]]], Awaitable[None]]


def framed(number: int, body: bytes) -> bytes:
    return struct.pack(">ii", len(body) + 4, number) + body


async def echo(writer: asyncio.StreamWriter, requests: list[tuple[int, int, bytes]]) -> None:
    """Answers each request with its own body."""
    _, number, body = requests[-1]
    writer.write(framed(number, body))


@asynccontextmanager
async def connected(answer: Answer, versions: list[tuple[int, int, int]] = VERSIONS) -> AsyncIterator[AIOKafkaConnection]:
    """A connection to a broker that is asked for its versions, and then answers as `answer` does to (api, number, body)."""

    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests: list[tuple[int, int, bytes]] = []
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                request = await reader.readexactly(int.from_bytes(await reader.readexactly(4)))
                api, _, number, client = struct.unpack(">hhih", request[:10])
                if api == ApiVersionRequest_v0.API_KEY:
                    writer.write(framed(number, ApiVersionResponse_v0(0, versions).encode()))
                else:
                    requests.append((api, number, request[10 + client :]))
                    await answer(writer, requests)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        over.set()

    server = await asyncio.start_server(serve, "127.0.0.1")
    try:
        conn = await create_conn("127.0.0.1", server.sockets[0].getsockname()[1], request_timeout_ms=int(PATIENCE * 1000))
        try:
            yield conn
        finally:
            await conn.close()
            await over.wait()
    finally:
        server.close()
        await server.wait_closed()


class Calls:
    """Requests on a line, and what became of each."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._outcomes: list[asyncio.Future[bytes]] = []

    def send(self, body: bytes) -> None:
        outcome: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._outcomes.append(outcome)
        self._line.call(FETCH, [body], lambda data, at: outcome.set_result(data[at:]), outcome.set_exception)

    async def outcomes(self) -> list[bytes | BaseException]:
        async with asyncio.timeout(30):
            return await asyncio.gather(*self._outcomes, return_exceptions=True)


def run(scenario: Callable[[], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        return await scenario()

    return asyncio.run(main())


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=5), st.lists(st.integers(1, 25), min_size=1, max_size=8))
def test_answers_come_in_order_however_the_bytes_are_cut(bodies: list[bytes], cuts: list[int]) -> None:
    async def cut_up(writer: asyncio.StreamWriter, requests: list[tuple[int, int, bytes]]) -> None:
        if len(requests) < len(bodies):
            return
        data, step = b"".join(framed(number, body) for _, number, body in requests), 0
        while data:
            size = cuts[step % len(cuts)]
            writer.write(data[:size])
            await writer.drain()
            await asyncio.sleep(0)  # the next piece is another segment
            data, step = data[size:], step + 1

    async def scenario() -> Any:
        async with connected(cut_up) as conn:
            calls = Calls(Line(conn))
            for body in bodies:
                calls.send(body)
            return await calls.outcomes()

    assert run(scenario) == bodies


def test_aiokafkas_own_requests_share_the_connection() -> None:
    async def answer(writer: asyncio.StreamWriter, requests: list[tuple[int, int, bytes]]) -> None:
        api, number, body = requests[-1]
        writer.write(framed(number, MetadataResponse_v0([(1, "host", 9092)], []).encode() if api == 3 else body))

    async def scenario() -> None:
        async with connected(answer) as conn:
            calls = Calls(Line(conn))
            calls.send(b"before")
            told = asyncio.ensure_future(conn.send(MetadataRequest([])))
            calls.send(b"after")
            assert await calls.outcomes() == [b"before", b"after"]
            assert (await told).brokers == [(1, "host", 9092)]

    run(scenario)


def test_a_line_is_only_made_when_nothing_is_on_its_way() -> None:
    async def scenario() -> None:
        async with connected(echo) as conn:
            assert Line.possible(conn)
            told = asyncio.ensure_future(conn.send(MetadataRequest([])))
            assert not Line.possible(conn)
            told.cancel()

    run(scenario)


def test_what_a_broker_does_not_speak_is_not_asked_of_it() -> None:
    async def scenario() -> None:
        async with connected(echo) as conn:
            assert Line(conn).apis == {FETCH, PRODUCE}
        async with connected(echo, [(0, 0, 6), (1, 12, 17), (18, 0, 0)]) as conn:
            assert Line(conn).apis == set()

    run(scenario)


def test_a_silent_broker_fails_all_requests_and_loses_its_connection() -> None:
    async def silent(writer: asyncio.StreamWriter, requests: list[tuple[int, int, bytes]]) -> None:
        if len(requests) == 1:
            await echo(writer, requests)

    async def scenario() -> None:
        async with connected(silent) as conn:
            calls = Calls(Line(conn))
            for body in (b"first", b"second", b"third"):
                calls.send(body)
            first, *others = await calls.outcomes()
            assert first == b"first"
            assert all(isinstance(error, KafkaError) and error.retriable for error in others)
            assert not conn.connected()

    run(scenario)


def test_a_request_of_aiokafkas_that_nobody_waits_for_does_not_shield_a_silent_broker() -> None:
    async def silent(writer: asyncio.StreamWriter, requests: list[tuple[int, int, bytes]]) -> None:
        pass

    async def scenario() -> None:
        async with connected(silent) as conn:
            calls = Calls(Line(conn))
            given_up = asyncio.ensure_future(conn.send(MetadataRequest([])))
            await asyncio.sleep(0)  # until it is sent
            given_up.cancel()
            calls.send(b"1")
            (error,) = await calls.outcomes()
            assert isinstance(error, KafkaError)
            assert not conn.connected()

    run(scenario)


def test_a_slow_broker_is_given_its_time() -> None:
    """Each answer comes in time, all together do not."""

    async def slow(writer: asyncio.StreamWriter, requests: list[tuple[int, int, bytes]]) -> None:
        await asyncio.sleep(PATIENCE * 0.6)  # as long as the broker takes
        await echo(writer, requests)

    async def scenario() -> None:
        async with connected(slow) as conn:
            line = Line(conn)
            for number in range(4):
                calls = Calls(line)
                calls.send(b"%d" % number)
                assert await calls.outcomes() == [b"%d" % number]

    run(scenario)


async def fails_and_closes(answer: Answer) -> None:
    async with connected(answer) as conn:
        calls = Calls(Line(conn))
        calls.send(b"1")
        (error,) = await calls.outcomes()
        assert isinstance(error, KafkaError)
        assert not conn.connected()


def test_a_broker_that_hangs_up_fails_all_requests() -> None:
    async def hang_up(writer: asyncio.StreamWriter, requests: list[tuple[int, int, bytes]]) -> None:
        writer.write(framed(requests[-1][1], b"whole")[:-1])
        writer.close()

    run(lambda: fails_and_closes(hang_up))


def test_an_answer_to_another_request_closes_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    async def confused(writer: asyncio.StreamWriter, requests: list[tuple[int, int, bytes]]) -> None:
        writer.write(framed(requests[-1][1] + 7, b"?"))

    with caplog.at_level(logging.ERROR):
        run(lambda: fails_and_closes(confused))
    assert "could not be parsed" in caplog.text


def test_an_answer_that_nobody_asked_for_closes_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    async def twice(writer: asyncio.StreamWriter, requests: list[tuple[int, int, bytes]]) -> None:
        writer.write(framed(requests[-1][1], b"once") * 2)

    async def scenario() -> None:
        async with connected(twice) as conn:
            calls = Calls(Line(conn))
            calls.send(b"1")
            assert await calls.outcomes() == [b"once"]
            async with asyncio.timeout(30):
                await conn._closed_fut
            assert not conn.connected()

    with caplog.at_level(logging.ERROR):
        run(scenario)
    assert "could not be parsed" in caplog.text


def test_a_line_is_full_while_the_broker_reads_too_slowly_and_says_when_it_is_not() -> None:
    """Whoever sends large requests waits until then, so that they do not pile up in memory."""
    reads = asyncio.Event()

    async def slow(writer: asyncio.StreamWriter, requests: list[tuple[int, int, bytes]]) -> None:
        await reads.wait()  # the request that comes after this one is not read before
        await echo(writer, requests)

    async def scenario() -> None:
        async with connected(slow) as conn:
            line = Line(conn)
            calls = Calls(line)
            drained = asyncio.Event()
            while not line.full:
                calls.send(b"x" * (1 << 20))
            line.drained = drained.set
            assert not drained.is_set()
            reads.set()
            await asyncio.wait_for(drained.wait(), 30)
            assert all(isinstance(one, bytes) for one in await calls.outcomes())

    run(scenario)


def test_a_full_line_that_ends_says_so_too() -> None:
    async def silent(*_: Any) -> None:
        await asyncio.sleep(PATIENCE * 2)

    async def scenario() -> None:
        async with connected(silent) as conn:
            line = Line(conn)
            calls = Calls(line)
            drained = asyncio.Event()
            while not line.full:
                calls.send(b"x" * (1 << 20))
            line.drained = drained.set
            await asyncio.wait_for(drained.wait(), 30)
            assert all(isinstance(one, KafkaError) for one in await calls.outcomes())

    run(scenario)
