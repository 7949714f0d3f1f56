"""`python -m benchmarks.serving_workers`: how many events a service answers with one process, and with two on one port.

Requests have 1,000 events each, so that the load takes a small part of the two cores. One process and two take turns; the ratio of the
medians is what a second core brings.
"""

from __future__ import annotations

import http.client
import json
import statistics
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from benchmarks.contender import Running
from benchmarks.results import machine
from benchmarks.serving import free_ports
from benchmarks.serving_load import PATIENCE, flights

CALLERS = 8
WARM = 2.0  # seconds
PATH = "/v1/topologies/flights:score"


def rate(workers: int, seconds: float, body: bytes, rows: int) -> float:
    """Returns the events per second that are answered."""
    port, _ = free_ports()
    command = [sys.executable, "-m", "penstock", "serve", "topologies/flights.yaml", "--http", f"127.0.0.1:{port}"]
    with TemporaryDirectory() as folder:
        service = Running([*command, "--workers", str(workers)], Path(folder) / "log")
        try:
            _until_ready(port)
            began = time.monotonic() + WARM
            counts = [0] * CALLERS

            def call(caller: int) -> None:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
                while (now := time.monotonic()) < began + seconds:
                    connection.request("POST", PATH, body)
                    answer = connection.getresponse()
                    answer.read()
                    assert answer.status == 200, answer.status
                    counts[caller] += now >= began

            callers = [threading.Thread(target=call, args=(caller,)) for caller in range(CALLERS)]
            for one in callers:
                one.start()
            for one in callers:
                one.join()
            return sum(counts) * rows / seconds
        finally:
            service.stop()


def _until_ready(port: int) -> None:
    """Returns when the process that all workers answer by is ready: a connection is that of any of them, so several in a row are asked."""
    end, good = time.monotonic() + PATIENCE, 0
    while good < CALLERS:
        assert time.monotonic() < end, f"the service was not ready within {PATIENCE:g} s"
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/v2/health/ready")
            good = good + 1 if connection.getresponse().status == 200 else 0
        except OSError:
            good = 0
            time.sleep(0.1)
        finally:
            connection.close()


@click.command()
@click.option("--seconds", default=6.0, show_default=True, help="Seconds of a run.")
@click.option("--repeat", default=3, show_default=True, type=click.IntRange(min=1), help="Rounds; figures are medians.")
def main(seconds: float, repeat: int) -> None:
    """Measure a service of one process and of two, in turns."""
    events = flights()
    body = b"[" + b",".join(events) + b"]"
    found: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(repeat):
        for workers, rates in found.items():
            rates.append(rate(workers, seconds, body, len(events)))
    one, two = (statistics.median(rates) for rates in found.values())
    print(f"one process: {one:,.0f} events/s; two: {two:,.0f} events/s, {two / one:.2f} times as many")
    print(json.dumps(machine()))


if __name__ == "__main__":
    main()
