"""SIGTERM at many moments of a worker's life: it always ends with 0, in order, and nothing is lost.

Each moment is a line of the log to wait for, and then a time, by a seed, that ends somewhere in what the worker does next.
More of them by hand: `pytest tests/kafka/test_sigterm.py --rounds 20`.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from penstock.testing import Broker, committed, end_offsets, wait_for
from tests.kafka.running import Job, Running, make_job

pytestmark = pytest.mark.broker

NOISE = ("Traceback", "This is a bug", "error:", "Crashed", "was never retrieved", "Unclosed", "Thread 0x")
LINES = ("", "assigned ", "is live", "")  # of the log; the empty one is there from the beginning
EVENTS = 500  # per round


def told_at(worker: Running, seed: int, lines: tuple[str, ...] = LINES) -> str:
    """Sends SIGTERM at a moment, and returns it in words."""
    line, after = lines[seed % len(lines)], random.Random(seed).uniform(0, 1.5)
    wait_for(lambda: handles_sigterm(worker.process.pid), "the first line of the worker's program", 60, 0.001)
    wait_for(lambda: line in worker.log or worker.process.poll() is not None, lambda: f"{line!r} in\n{worker.log}", 60, 0.01)
    time.sleep(after)
    worker.process.terminate()
    return f"{after:.3f} s after {line!r}"


def handles_sigterm(pid: int) -> bool:
    """Python takes some 0.1 s before it runs a program's first line. Until then no program can handle a signal."""
    if sys.platform != "linux":
        time.sleep(0.5)
        return True
    caught = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> signal.SIGTERM - 1 & 1)


def in_order(worker: Running, moment: str) -> None:
    assert worker.wait() == 0, f"{moment}\n{worker.log}"
    assert not any(sign in worker.log for sign in NOISE), f"{moment}\n{worker.log}"


def nothing_is_lost(job: Job, total: int) -> None:
    with job.run() as worker:
        job.wait_until_committed(total, worker)
        worker.wait_until_assigned()
        assert worker.stop() == 0, worker.log
    assert committed(job.broker, job.group, job.source) == end_offsets(job.broker, job.source)
    assert job.ids() == Counter(map(str, range(total))), "each once: what was in flight was finished and committed"


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> int:
    return request.config.getoption("--rounds") or 4


def test_one_worker(broker: Broker, tmp_path: Path, rounds: int) -> None:
    job = make_job(broker, tmp_path)
    for seed in range(rounds):
        job.send(range(seed * EVENTS, (seed + 1) * EVENTS))
        with job.run() as worker:
            in_order(worker, told_at(worker, seed))
    nothing_is_lost(job, rounds * EVENTS)


def test_a_worker_beside_another_while_the_group_rebalances(broker: Broker, tmp_path: Path, rounds: int) -> None:
    """The other one has the partitions, so each round is a rebalance for both."""
    job = make_job(broker, tmp_path)
    with job.run() as other:
        other.wait_until_assigned()
        for seed in range(rounds):
            job.send(range(seed * EVENTS, (seed + 1) * EVENTS))
            with job.run() as worker:
                in_order(worker, told_at(worker, seed, ("is live", "running ", "assigned ")))
        assert other.stop() == 0, other.log
        assert not any(sign in other.log for sign in NOISE), other.log
    nothing_is_lost(job, rounds * EVENTS)


def test_a_fleet(broker: Broker, tmp_path: Path, rounds: int) -> None:
    job = make_job(broker, tmp_path)
    for seed in range(rounds):
        job.send(range(seed * EVENTS, (seed + 1) * EVENTS))
        with job.run("--workers", "2") as fleet:
            in_order(fleet, told_at(fleet, seed, ("", "worker 1 is process", "is live", "assigned ")))
    nothing_is_lost(job, rounds * EVENTS)


def test_one_of_a_fleet_that_is_stopped_from_elsewhere_is_started_again(broker: Broker, tmp_path: Path) -> None:
    job = make_job(broker, tmp_path)
    with job.run("--workers", "2") as fleet:
        wait_for(lambda: fleet.log.count("assigned ") >= 2, lambda: f"two workers\n{fleet.log}", 60)
        os.kill(int(fleet.log.split("worker 2 is process ")[1].split()[0]), signal.SIGTERM)
        wait_for(lambda: fleet.log.count("worker 2 is process ") == 2, lambda: f"the second worker again\n{fleet.log}", 60)
        assert "worker 2 was stopped by a SIGTERM from elsewhere and is started again" in fleet.log
        assert fleet.stop() == 0, fleet.log
