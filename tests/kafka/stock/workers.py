"""The two implementations as worker processes: stock Faust (`app.py`), and `penstock run` with a topology that does the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import psutil

from penstock.testing.broker import Broker
from penstock.testing.topics import create_release_topics, create_topics, unique
from tests.kafka.stock.probe import register, write_topology

__all__ = ["IMPLEMENTATIONS", "Implementation", "Lane", "Slow", "Worker", "make_lane"]

Slow = Literal["at once", "some seconds", "for ever"]
COMMIT_INTERVAL = 0.5


@dataclass(frozen=True, slots=True)
class Lane:
    """A source topic, the sink and the dead letters behind it, a folder, and the group's name: one scenario's own."""

    broker: Broker
    folder: Path
    name: str
    partitions: int

    @property
    def sink(self) -> str:
        return f"{self.name}.answers"

    @property
    def dead(self) -> str:
        return f"{self.name}.dead-letter"


def make_lane(broker: Broker, folder: Path, partitions: int = 1, *, answer_bytes: int = 1_048_588) -> Lane:
    """Makes the topics; an answer may have `answer_bytes` bytes at most."""
    made = Lane(broker, folder, unique("lane"), partitions)
    create_topics(broker, {made.name: partitions, made.dead: partitions})
    create_topics(broker, {made.sink: partitions}, {"max.message.bytes": str(answer_bytes)})
    create_release_topics(broker, made.name, "probe")
    return made


class Worker:
    """A worker process; `name` is the client id by which the group's coordinator knows it."""

    def __init__(self, lane: Lane, name: str, command: list[str], environment: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.dismissed = False  # its end was asked for
        self._log = lane.folder / f"{unique(name)}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=lane.folder, env={**os.environ, **(environment or {})}
            )
        self._usage = psutil.Process(self._process.pid)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def memory(self) -> int:
        """Resident bytes."""
        return int(self._usage.memory_info().rss)

    @property
    def computed(self) -> float:
        """Seconds of processor time used so far."""
        return float(sum(self._usage.cpu_times()[:2]))

    def kill(self) -> None:
        """SIGKILL, and nothing is left of it."""
        self.dismissed = True
        self._process.kill()
        self._process.wait()

    def stop(self, timeout: float) -> int:
        """SIGTERM; the exit code."""
        self.dismissed = True
        self._process.terminate()
        return self._process.wait(timeout)


class Implementation(Protocol):
    """How a worker is started, and what its group is called."""

    name: str

    def group(self, lane: Lane) -> str:
        """The consumer group of the lane's workers."""

    def start(self, lane: Lane, name: str, *, slow: Slow = "at once", rekeyed: bool = False, **faust: Any) -> Worker:
        """A worker. `slow` is how long events of that fate take, `rekeyed` sends answers to partitions of their own.

        `faust` are settings that only stock Faust has: those under which it shows the hazard.
        """

    def is_busy(self, worker: Worker, since: float) -> bool:
        """Whether the worker is at an event of the fate `slow`; `since` is what it had computed when the event was sent."""


class StockFaust:
    """Faust as it is installed."""

    name = "stock"

    def group(self, lane: Lane) -> str:
        return lane.name

    def start(self, lane: Lane, name: str, *, slow: Slow = "at once", rekeyed: bool = False, **faust: Any) -> Worker:
        options = {
            "brokers": lane.broker.bootstrap,
            "source": lane.name,
            "sink": lane.sink,
            "group": lane.name,
            "name": name,
            "folder": str(lane.folder / name),
            "slow_s": {"at once": 0, "some seconds": 5, "for ever": 3600}[slow],
            "commit_interval": COMMIT_INTERVAL,
            **faust,
        }
        return Worker(lane, name, [sys.executable, str(Path(__file__).with_name("app.py")), json.dumps(options)])

    def is_busy(self, worker: Worker, since: float) -> bool:
        return "slow event under work" in worker.log


class Penstock:
    """`penstock run`."""

    name = "penstock"

    def group(self, lane: Lane) -> str:
        return f"{lane.name}.probe"

    def start(self, lane: Lane, name: str, *, slow: Slow = "at once", rekeyed: bool = False, **faust: Any) -> Worker:
        if not (lane.folder / "models").exists():
            register(lane.folder / "models")
        version = {"at once": "1", "some seconds": "2", "for ever": "3"}[slow]
        topology = write_topology(
            lane.folder, source=lane.name, sink=lane.sink, dead=lane.dead, version=version, key="text" if rekeyed else None
        )
        settings = {
            "BROKERS": lane.broker.bootstrap,
            "APPLICATION": lane.name,
            "CLIENT_ID": name,
            "SESSION_TIMEOUT": "3",
            "COMMIT_INTERVAL": str(COMMIT_INTERVAL),
        }
        environment = {f"PENSTOCK_{setting}": value for setting, value in settings.items()}
        return Worker(lane, name, [sys.executable, "-m", "penstock", "run", str(topology)], environment)

    def is_busy(self, worker: Worker, since: float) -> bool:
        return worker.computed > since + 0.5  # the model turns its loop


IMPLEMENTATIONS: Mapping[str, Implementation] = {"stock": StockFaust(), "penstock": Penstock()}
