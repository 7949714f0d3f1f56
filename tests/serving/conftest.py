"""`penstock serve` over the flights of the examples, as a process of its own, called over its ports."""

from __future__ import annotations

import gzip
import http.client
import json
import re
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
START = 60.0  # seconds; a busy machine
PORTS = re.compile(r"serving \S+ on (http|grpc)://\S*:(\d+)")


@dataclass
class Answer:
    """An HTTP answer, read to its end."""

    status_code: int
    headers: dict[str, str]
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode()

    def json(self) -> Any:
        return json.loads(self.content)


def ask(
    port: int, method: str, path: str, content: bytes | str = b"", headers: dict[str, str] | None = None, tls: ssl.SSLContext | None = None
) -> Answer:
    """Sends one request on a connection of its own."""
    if tls is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    else:
        connection = http.client.HTTPSConnection("localhost", port, timeout=30, context=tls)
    try:
        connection.request(method, path, content, headers or {})
        found = connection.getresponse()
        return Answer(found.status, {name.lower(): value for name, value in found.getheaders()}, found.read())
    finally:
        connection.close()


@dataclass
class Service:
    """A running service: its ports by door, its process, and the file of its log."""

    ports: dict[str, int]
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['http']}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.ports['grpc']}"

    def post(self, path: str, content: bytes | str = b"", **headers: str) -> Answer:
        return ask(self.ports["http"], "POST", path, content, {name.replace("_", "-"): value for name, value in headers.items()})

    def get(self, path: str) -> Answer:
        return ask(self.ports["http"], "GET", path)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(START)


@contextmanager
def served(topology: str | Path, *flags: str, doors: tuple[str, ...] = ("http", "grpc"), ready: bool = True) -> Iterator[Service]:
    """Runs a service until the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        command = [
            sys.executable,
            "-m",
            "penstock",
            "serve",
            str(topology),
            *(part for door in doors for part in (f"--{door}", "127.0.0.1:0")),
        ]
        with log.open("wb") as written:
            process = subprocess.Popen([*command, *flags], cwd=ROOT, stderr=written, stdout=written)
        service = Service({}, process, log)
        try:
            wait_for(service, lambda text: len({*PORTS.findall(text)}) >= len(doors) and (not ready or "ready: " in text))
            service.ports = {door: int(port) for door, port in PORTS.findall(log.read_text())}
            yield service
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(START)


def wait_for(service: Service, found: Callable[[str], bool]) -> None:
    """Waits until the log is as it should be."""
    end = time.monotonic() + START
    while not found(service.log.read_text()):
        assert service.process.poll() is None, f"the service has ended: {service.log.read_text()}"
        assert time.monotonic() < end, f"not within {START:g} s: {service.log.read_text()}"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """The flights, for all tests that only ask."""
    with served("topologies/flights.yaml") as found:
        yield found


@pytest.fixture(scope="session")
def flights() -> list[dict[str, Any]]:
    """Real events."""
    with gzip.open(ROOT / "examples/flights/sample/departures.ndjson.gz", "rt") as lines:
        return [json.loads(line) for _, line in zip(range(300), lines, strict=False)]
