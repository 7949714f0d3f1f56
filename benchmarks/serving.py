"""`python -m benchmarks.serving`: our service beside FastAPI by hand, on the same models, events and core.

Both score one flight per request: the models of topologies/flights.yaml, JSON in and out, on one core; the load is on another. Runs
alternate, and figures are medians. `--python` is an interpreter with fastapi, uvicorn[standard] and onnxruntime for the peer.

closed   C callers, each with a connection, send the next event when they have their answer
open     RATE events per second at random times over 64 connections; latency counts from when a request was due

`cpu_us` is the user and system time of the server's processes per answer. `client` is the use of the load's own core: near 1.0 the load was
the limit, and requests per second are a lower bound.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import click
import psutil
from rich.table import Table

from benchmarks.workload import ROOT
from penstock.cli.output import out

OURS = "penstock"
PEER = "fastapi"
CONNECTIONS = 64  # of the open loop
WARM = 1.0  # seconds
SEED = 7


@dataclass
class Caller(asyncio.Protocol):
    """A connection that sends prepared requests and notes how long their answers take."""

    requests: Iterator[bytes]
    taken: list[float]
    again: bool  # send the next request after an answer
    due: float = 0.0
    busy: bool = False
    bad: int = 0
    free: list[Caller] | None = None
    _rest: bytes = b""
    _transport: Any = None
    _gone: asyncio.Event = field(default_factory=asyncio.Event)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def send(self, due: float) -> None:
        self.busy, self.due = True, due
        self._transport.write(next(self.requests))

    def data_received(self, data: bytes) -> None:
        self._rest += data
        head, found, body = self._rest.partition(b"\r\n\r\n")
        if not found:
            return
        lower = head.lower()
        at = lower.find(b"content-length:")
        if len(body) < int(lower[at + 15 :].split(b"\r\n", 1)[0]):
            return
        now = time.perf_counter()
        self.taken.append(now - self.due)
        self.bad += not head.startswith(b"HTTP/1.1 200")
        self._rest, self.busy = b"", False
        if self.again:
            self.send(now)
        elif self.free is not None:
            self.free.append(self)

    def close(self) -> None:
        self.again = False
        self._transport.close()


def request(path: str, event: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(event)}\r\n\r\n"
    return head.encode() + event


def flights() -> list[bytes]:
    with gzip.open(ROOT / "examples/flights/sample/departures.ndjson.gz", "rb") as lines:
        return [line.strip() for line, _ in zip(lines, range(1000), strict=False)]


@contextmanager
def server(name: str, python: str, port: int, core: int) -> Iterator[psutil.Process]:
    """Starts one on its core, and waits until it answers."""
    if name == OURS:
        command = [sys.executable, "-m", "penstock", "serve", "topologies/flights.yaml", "--http", f"127.0.0.1:{port}"]
    else:
        command = [python, "benchmarks/serving_peer.py", str(port)]
    process = subprocess.Popen(
        ["taskset", "-c", str(core), *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )  # fmt: skip
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(30)


def cpu(process: psutil.Process) -> float:
    family = [process, *process.children(recursive=True)]
    return sum(sum(one.cpu_times()[:2]) for one in family)


async def connect(port: int, kind: type[Caller] = Caller, /, **given: Any) -> Caller:
    loop = asyncio.get_running_loop()
    end = time.monotonic() + 60
    while True:
        try:
            _, made = await loop.create_connection(lambda: kind(**given), "127.0.0.1", port)
        except OSError:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.1)
        else:
            return made


async def measured(port: int, path: str, process: psutil.Process, callers: int, rate: int, seconds: float) -> dict[str, float]:
    """Returns the figures of one run: closed with so many callers, or open at the rate."""
    requests = cycle(request(path, event) for event in flights())
    taken: list[float] = []
    free: list[Caller] = []
    many = [await connect(port, requests=requests, taken=taken, again=False) for _ in range(callers)]
    first = many[0]
    while not taken:  # until it is ready
        first.send(time.perf_counter())
        while first.busy:
            await asyncio.sleep(0.01)
        if first.bad:
            first.bad = 0
            taken.clear()
            await asyncio.sleep(0.1)
    free[:] = many
    for one in many:
        one.again, one.free = not rate, free
        if not rate:
            one.send(time.perf_counter())
    paced = asyncio.create_task(pace(free, rate)) if rate else None
    await asyncio.sleep(WARM)
    taken.clear()
    began, spent, own = time.perf_counter(), cpu(process), time.process_time()
    await asyncio.sleep(seconds)
    wall, used, mine = time.perf_counter() - began, cpu(process) - spent, time.process_time() - own
    answers = sorted(taken)
    if paced is not None:
        paced.cancel()
    for one in many:
        one.close()
    assert not any(one.bad for one in many), "an answer was not 200"
    return {
        "req_s": len(answers) / wall,
        "p50_ms": answers[len(answers) // 2] * 1000,
        "p99_ms": answers[int(len(answers) * 0.99)] * 1000,
        "cpu_us": used / len(answers) * 1e6,
        "rss_mb": process.memory_info().rss / 1e6,
        "client": mine / wall,
    }


async def pace(free: list[Caller], rate: int) -> None:
    chance = random.Random(SEED)
    due = time.perf_counter()
    while True:
        due += chance.expovariate(rate)
        if (left := due - time.perf_counter()) > 0:
            await asyncio.sleep(left)
        while not free:
            await asyncio.sleep(0.0005)
        free.pop().send(due)


PATHS = {OURS: "/v1/topologies/flights:score", PEER: "/score"}


def run(names: Sequence[str], python: str, callers: Sequence[int], rate: int, seconds: float, repeat: int, cores: tuple[int, int]) -> None:
    os.sched_setaffinity(0, {cores[1]})
    figures: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    port = 18_200
    for _ in range(repeat):
        for name in names:
            port += 1
            with server(name, python, port, cores[0]) as process:
                for label, count, paced in [*((f"{c} callers", c, 0) for c in callers), (f"{rate} req/s", CONNECTIONS, rate)]:
                    figures[label, name].append(asyncio.run(measured(port, PATHS[name], process, count, paced, seconds)))
    table = Table("load", "server", "req/s", "p50 ms", "p99 ms", "CPU us", "RSS MB", "load's core")
    for (label, name), runs in figures.items():
        median = {key: statistics.median(one[key] for one in runs) for key in runs[0]}
        table.add_row(
            label, name, f"{median['req_s']:,.0f}", f"{median['p50_ms']:.2f}", f"{median['p99_ms']:.2f}", f"{median['cpu_us']:.0f}",
            f"{median['rss_mb']:.0f}", f"{median['client']:.2f}",
        )  # fmt: skip
    out.print(table)
    print(json.dumps([{"load": label, "server": name, "runs": runs} for (label, name), runs in figures.items()]))


@click.command()
@click.option("--python", default=sys.executable, help="An interpreter with fastapi for the peer.")
@click.option("--callers", multiple=True, type=click.IntRange(1), default=(1, 8, 64), show_default=True)
@click.option("--rate", default=500, show_default=True, help="Requests per second of the open loop.")
@click.option("--seconds", default=5.0, show_default=True, help="Seconds of a run.")
@click.option("--repeat", default=3, show_default=True, help="Rounds; figures are medians.")
@click.option("--only", type=click.Choice((OURS, PEER)), help="Only this one.")
@click.option("--cores", nargs=2, type=int, default=(0, 1), show_default=True, help="Of the server and of the load.")
def main(
    python: str, callers: tuple[int, ...], rate: int, seconds: float, repeat: int, only: str | None, cores: tuple[int, int]
) -> None:  # fmt: skip
    """Measure our service and FastAPI by hand in turns."""
    peer = Path(python)
    run([only] if only else [OURS, PEER], str(peer), callers, rate, seconds, repeat, cores)


if __name__ == "__main__":
    main()
