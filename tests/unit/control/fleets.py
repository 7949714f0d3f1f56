"""Workers and their words, made up for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from penstock.control.fleet import Worker
from penstock.control.messages import NEWEST
from penstock.control.status import Place, Progress, Status, WorkerStatus, encode, key_of
from penstock.transports.kafka.journal import Entry


def status(
    name: str = "a", *, generation: int = 0, releases: Sequence[Progress] = (), models: Mapping[str, str] | None = None,
    reads: int = NEWEST, partitions: Mapping[str, Place] | None = None,
) -> WorkerStatus:  # fmt: skip
    return WorkerStatus(
        worker=name, topology="payments", host="here", pid=1, started="", time="", generation=generation, wanted=generation, ready=True,
        releases=list(releases), models=dict(models or {}), reads=reads,
        partitions=dict(partitions or {}),
    )  # fmt: skip


def worker(
    name: str = "a", *, generation: int = 0, live: bool = True, releases: Sequence[Progress] = (), models: Mapping[str, str] | None = None
) -> Worker:
    return Worker(status(name, generation=generation, releases=releases, models=models), 0, 0, live)


def word(said: Status, at_ms: int, offset: int = 0) -> Entry:
    """The record of it."""
    return Entry(offset, at_ms, True, key_of(said), encode(said))
