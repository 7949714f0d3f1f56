"""The pages over real sockets: what they answer, what they refuse, and what a stranger cannot do to the process behind them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import SettingsError
from penstock.serving import app, connections
from penstock.telemetry import Metrics, export
from penstock.telemetry.health import Verdict


class Worker:
    """What stands behind the pages: good or not, as the test wants it."""

    def __init__(self) -> None:
        self.good = True

    async def alive(self) -> Verdict:
        return Verdict(self.good, {"alive": self.good})

    async def ready(self) -> Verdict:
        return Verdict(self.good, {"ready": self.good})

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        return export.encode(export.registry(Metrics()), accept)


@dataclass(frozen=True)
class Client:
    """Speaks to the pages at this place."""

    place: Any

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        unix = isinstance(self.place, str)
        reader, writer = await (asyncio.open_unix_connection(self.place) if unix else asyncio.open_connection(*self.place[:2]))
        try:
            yield reader, writer
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def exchange(self, data: bytes) -> bytes:
        """Sends the bytes, and reads until the connection is closed."""
        async with asyncio.timeout(10), self.connection() as (reader, writer):
            writer.write(data)
            return await reader.read()


def served(test: Callable[[Worker, Client], Coroutine[None, None, None]], address: str = "127.0.0.1:0") -> None:
    """Runs the test while the pages of a worker are served."""

    async def main() -> None:
        bound, worker = app.listen(address), Worker()
        client = Client(bound.getsockname())
        async with app.serving(bound, worker):
            await test(worker, client)

    asyncio.run(main())


def request(path: str, method: str = "GET", *headers: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", *headers, "", ""]).encode()


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:0", "unix:{folder}/pages.sock"])
def test_pages_answer(address: str, tmp_path: Path) -> None:
    async def test(worker: Worker, client: Client) -> None:
        healthy = await client.exchange(request("/healthz"))
        assert healthy.startswith(b"HTTP/1.1 200 ")
        assert b"content-type: application/json" in healthy
        assert healthy.endswith(b'\r\n\r\n{\n  "alive": true\n}\n')
        assert (await client.exchange(request("/metrics"))).count(b"\npenstock_records_in_total 0.0\n") == 1
        worker.good = False
        for path in ("/healthz", "/readyz"):
            assert (await client.exchange(request(path))).startswith(b"HTTP/1.1 503 ")

    served(test, address.format(folder=tmp_path))


def test_format_follows_the_accept_header() -> None:
    async def test(worker: Worker, client: Client) -> None:
        plain = await client.exchange(request("/metrics"))
        assert b"content-type: text/plain; version=0.0.4; charset=utf-8\r\n" in plain
        openmetrics = await client.exchange(request("/metrics", "GET", "Accept: application/openmetrics-text; version=1.0.0"))
        assert b"content-type: application/openmetrics-text; version=1.0.0" in openmetrics
        assert openmetrics.endswith(b"# EOF\n")

    served(test)


def test_what_is_refused() -> None:
    async def test(worker: Worker, client: Client) -> None:
        async def status(data: bytes) -> int:
            return int((await client.exchange(data)).split(b" ", 2)[1])

        assert await status(request("/metrics", "HEAD")) == 200
        assert await status(request("/metrics", "POST")) == 405
        assert await status(request("/metrics", "DELETE")) == 405
        assert await status(request("/topics")) == 404
        assert b'{"error": "there is no / here", "code": "not-there"}' in await client.exchange(request("/"))
        assert await status(request("/metrics", "GET", "Content-Length: 1000000")) == 413
        assert await status(request("/metrics", "GET", "Transfer-Encoding: chunked")) == 413
        assert await status(b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 20_000) == 400
        assert await status(b"\x16\x03\x01\x00\r\n\r\n") == 400
        assert await status(request("/healthz")) == 200, "nothing of this has harmed it"

    served(test)


def test_connection_that_drips_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """uvicorn alone waits for the rest of a request's head for ever; `exchange` returns when the connection is closed."""
    monkeypatch.setattr(connections, "LIFETIME", 0.2)

    async def test(worker: Worker, client: Client) -> None:
        assert await client.exchange(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ") == b""
        assert await client.exchange(b"") == b""

    served(test)


def test_many_connections_leave_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe is answered however many connections are silent: the oldest of them are closed, and the process holds no more of them."""
    monkeypatch.setattr(connections, "CONNECTIONS", 4)

    async def test(worker: Worker, client: Client) -> None:
        async with AsyncExitStack() as stack:
            silent = [await stack.enter_async_context(client.connection()) for _ in range(9)]
            assert (await client.exchange(request("/healthz"))).startswith(b"HTTP/1.1 200 ")
            first, last = silent[0][0], silent[-1][0]
            with suppress(ConnectionResetError):
                assert await first.read() == b""
            assert not last.at_eof()
            silent[-1][1].write(request("/readyz"))
            assert (await last.read()).startswith(b"HTTP/1.1 200 ")

    served(test)


@pytest.mark.parametrize(
    "address", ["9100", "127.0.0.1", "127.0.0.1:port", "127.0.0.1:70000", "http://127.0.0.1:9100", "::1:9100", "unix:"]
)
def test_no_address(address: str) -> None:
    with pytest.raises(SettingsError, match="is not an address; write HOST:PORT"):
        app.listen(address)


@pytest.mark.parametrize("address", ["a..b:9100", "unix:/tmp/\0"])
def test_address_that_cannot_be(address: str) -> None:
    with pytest.raises(SettingsError, match="cannot listen on"):
        app.listen(address)


def test_address_in_use(tmp_path: Path) -> None:
    with app.listen("127.0.0.1:0") as bound:
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(SettingsError, match=re.escape(f"http: cannot listen on {address}: Address already in use; choose another")):
            app.listen(address)
    with app.listen(f"unix:{tmp_path}/a.sock"), pytest.raises(SettingsError, match="Address already in use"):
        app.listen(f"unix:{tmp_path}/a.sock")


def test_socket_that_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    app.listen(f"unix:{tmp_path}/a.sock").close()
    assert (tmp_path / "a.sock").exists()
    app.listen(f"unix:{tmp_path}/a.sock").close()


def test_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SettingsError, match="Address already in use"):
        app.listen(f"unix:{tmp_path}/notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"
