"""`python -m benchmarks.serving_soak`: the service for half an hour at 80 % of its load, while its models are swapped.

A real Kafka, `penstock serve` on one core, callers over HTTP (events) on another. First the most requests per second are measured, with 16
callers; then events come at 80 % of that at random times, and every EVERY seconds `deploy` swaps the trees between two versions. Memory,
threads and files of the service are noted meanwhile. Ends with 1 when they grow, when a release fails, or when an answer is neither 200 nor
a refusal for too much load.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import click
import psutil

import penstock
from benchmarks.contender import Running
from benchmarks.serving import CONNECTIONS, OURS, SERVERS, free_ports
from benchmarks.serving_load import Http, Work, connect, measured, pace, requests
from penstock.control.messages import timestamp
from penstock.control.trust import SigningKey
from penstock.testing import Broker, create_release_topics
from penstock.testing.broker import open_broker

EVERY = 15.0  # seconds between two swaps
SHARE = 0.8  # of the most requests per second
GROWTH = 1.05
POOL = min(32, (os.cpu_count() or 1) + 4)  # threads that asyncio starts one by one, when others of it are busy, and keeps
OVERLOADED = ("429", "503", "504")


class Noting(Http):
    """A caller that counts the statuses of its answers."""

    statuses: ClassVar[Counter[str]] = Counter()

    def data_received(self, data: bytes) -> None:
        if not self._rest:
            self.statuses[data[9:12].decode()] += 1
        super().data_received(data)


@contextmanager
def service(broker: Broker, folder: Path) -> Iterator[tuple[Running, int, dict[str, Any]]]:
    """Starts the service; yields it, its port, and the settings of an operator."""
    key = SigningKey.new("operator")
    key.save(folder / "operator.pem")
    (folder / "trust.toml").write_text(f'[keys.operator]\npublic = "{key.public}"\ntopologies = ["flights"]\ntrusted = {timestamp(0)}\n')
    create_release_topics(broker, "soak", "flights")
    common = {"brokers": broker.bootstrap, "application": "soak", "trust": str(folder / "trust.toml"), "cache": str(folder / "cache")}
    environment = ["env", *(f"PENSTOCK_{name.upper()}={value}" for name, value in common.items())]
    port, _ = free_ports()
    line = [sys.executable, "-m", "penstock", "serve", "topologies/flights.yaml", "--http", f"127.0.0.1:{port}"]
    started = Running([*environment, "taskset", "-c", "0", *line], folder / "service.log")
    try:
        yield started, port, {**common, "signing_key": str(folder / "operator.pem")}
    finally:
        started.stop()
        if started.process.returncode:
            print(started.log.read_text()[-3000:], file=sys.stderr)


async def soak(started: Running, port: int, settings: dict[str, Any], minutes: float) -> dict[str, Any]:
    path, process = SERVERS[OURS].path, psutil.Process(started.process.pid)
    peak = await measured(port, path, started, 16, 0, 10.0)
    rate = int(peak["req_s"] * SHARE)
    print(f"most: {peak['req_s']:,.0f} requests/s; from now on {rate:,} for {minutes:g} minutes", flush=True)
    work = Work(requests(path))
    work.free += [await connect(work, port, path, Noting) for _ in range(CONNECTIONS)]
    load = asyncio.create_task(pace(work.free, rate))
    releases = penstock.connect(**settings)
    seen: list[dict[str, float]] = []
    latencies: list[float] = []
    end, swaps = time.monotonic() + minutes * 60, 0
    while time.monotonic() < end and not load.done():
        paced = asyncio.create_task(asyncio.sleep(EVERY))
        version = 1 + (swaps + 1) % 2
        await asyncio.to_thread(releases.deploy, "flights", trees=f"flight-trees@{version}")
        swaps += 1
        await paced
        taken_now = sorted(work.taken)
        work.taken.clear()
        work.kept.clear()
        latencies.append(taken_now[int(len(taken_now) * 0.99)] * 1000)
        with process.oneshot():
            seen.append({"rss": process.memory_info().rss / 1e6, "threads": process.num_threads(), "files": process.num_fds()})
    load.cancel()
    fifth = max(len(seen) // 5, 1)
    first, last = (
        {key: statistics.median(one[key] for one in part) for key in seen[0]} for part in (seen[fifth : 2 * fifth], seen[-fifth:])
    )
    return {
        "rate": rate, "seconds": minutes * 60, "swaps": swaps, "answers": dict(Noting.statuses), "first": first, "last": last,
        "p99_ms": [statistics.median(latencies[fifth : 2 * fifth]), statistics.median(latencies[-fifth:])],
    }  # fmt: skip


@click.command()
@click.option("--minutes", default=30.0, show_default=True, help="How long.")
def main(minutes: float) -> None:
    """Soak the service."""
    psutil.Process().cpu_affinity([1])
    with TemporaryDirectory() as folder, open_broker(None) as broker, service(broker, Path(folder)) as (started, port, settings):
        found = asyncio.run(soak(started, port, settings, minutes))
    print(json.dumps(found))
    first, last = found["first"], found["last"]
    wrong = [status for status in found["answers"] if status != "200" and status not in OVERLOADED]
    most = {key: value * GROWTH for key, value in first.items()} | {"threads": first["threads"] + POOL}
    grown = [key for key in most if last[key] > most[key]]
    sys.exit(f"grown: {grown}, answers: {wrong}" if grown or wrong else 0)


if __name__ == "__main__":
    main()
