"""One worker swaps models over and over, and is after the last swap as it was after the fiftieth: in memory, threads, files, children.

A swap takes some 50 ms, of which 20 are the pause between two words of a worker (`Reporter`) and the rest is loading. `make soak` makes
1,000 of them; as one test among many it makes 100.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import psutil
import pytest

from penstock.binding import Binding
from penstock.control.lifecycle import State
from penstock.control.messages import Activate, Release, new_id, timestamp
from penstock.control.proposal import bind
from penstock.control.status import WorkerStatus, parse
from penstock.control.trust import SigningKey, seal
from penstock.testing import Broker
from penstock.topology.spec import ModelRef
from penstock.transports.kafka.connection import Admin, aiokafka_arguments
from penstock.transports.kafka.journal import Reader, Writer
from tests.kafka.evidence import check, gather, wait_until_done
from tests.kafka.flights import KEY, Departures, make_flights, push, registry_of, settings_of
from tests.kafka.running import Job

pytestmark = pytest.mark.broker

WARM = 50  # swaps after which nothing may grow any more
AROUND = 10  # swaps whose median is the memory at a time: Python's collector runs every ten seconds
GROWTH = 1.05
PATIENCE_S = 30.0
POOL = min(32, (os.cpu_count() or 1) + 4)  # threads that asyncio starts one by one, when others of it are busy, and keeps


class Footprint(NamedTuple):
    """What a process holds. `rss` in bytes."""

    rss: int
    threads: int
    files: int
    children: int

    @classmethod
    def of(cls, process: psutil.Process) -> Self:
        with process.oneshot():
            return cls(process.memory_info().rss, process.num_threads(), process.num_fds(), len(process.children(recursive=True)))


class Swap(NamedTuple):
    """One swap, in seconds as its operator sees it: from the release to `ready`, from the activation to the worker's word of the switch."""

    ready: float
    switched: float
    after: Footprint


class Swapper:
    """Swaps by writing on the control topic itself; every worker that speaks must follow."""

    def __init__(self, job: Job, writer: Writer, status: Reader, baseline: Mapping[str, Binding]) -> None:
        self._job, self._writer, self._status, self._baseline = job, writer, status, baseline
        self._key = SigningKey.load(job.folder / KEY)
        self._cluster = Admin(settings_of(job)).cluster_id()
        self._generation = 0

    @classmethod
    @asynccontextmanager
    async def open(cls, job: Job, baseline: Mapping[str, Binding]) -> AsyncIterator[Self]:
        """`baseline` is what generation 0 binds."""
        arguments = aiokafka_arguments(settings_of(job))
        async with Writer(arguments, patience=PATIENCE_S) as writer, Reader(arguments, job.releases.status, patience=PATIENCE_S) as status:
            yield cls(job, writer, status, baseline)

    async def swap(self, bindings: Mapping[str, Binding]) -> tuple[float, float]:
        """Returns when the worker says that it scores with these: the seconds to `ready`, and those to the switch."""
        where = {"topology": "flights", "cluster": self._cluster, "control_topic": self._job.releases.control}
        opening: dict[str, Any] = {"id": new_id(), **where, "author": self._key.name}
        async with asyncio.timeout(PATIENCE_S):
            began = time.monotonic()
            baseline = {} if self._generation else dict(self._baseline)
            await self._say(Release(**opening, time=timestamp(), base=self._generation, bindings=dict(bindings), baseline=baseline))
            while not any(one.id == opening["id"] and one.state == State.READY for said in await self._heard() for one in said.releases):
                pass
            ready = time.monotonic()
            await self._say(Activate(**opening, time=timestamp()))
            self._generation += 1
            while not any(said.generation == self._generation for said in await self._heard()):
                pass
            return ready - began, time.monotonic() - ready

    async def _say(self, message: Release | Activate) -> None:
        await self._writer.write(self._job.releases.control, message.id.encode(), seal(message, self._key))

    async def _heard(self) -> list[WorkerStatus]:
        said = [parse(one.value) for one in await self._status.take() if one.value]
        heard = [one for one in said if isinstance(one, WorkerStatus)]
        for failed in (release for one in heard for release in one.releases if release.state == State.FAILED):
            raise AssertionError(failed.detail)
        return heard


async def swap_over_and_over(job: Job, times: int, process: psutil.Process) -> list[Swap]:
    """Of the four versions two are loaded at a time, and it is never one of these."""
    registry = registry_of(job)
    versions = [push(job, "flight-trees", 0.5 + 0.1 * number) for number in range(4)]
    first = {node: bind(registry, ModelRef(f"flight-{node}", "1")) for node in ("features", "logistic", "trees", "stack")}
    turns = [{**first, "trees": bind(registry, ModelRef(one.name, one.version))} for one in versions]
    async with Swapper.open(job, first) as swapper:
        return [Swap(*await swapper.swap(turns[number % len(turns)]), Footprint.of(process)) for number in range(times)]


def memory(swaps: Sequence[Swap], number: int) -> float:
    """RSS after so many swaps, in bytes."""
    return statistics.median(one.after.rss for one in swaps[number - AROUND : number])


def told(swaps: Sequence[Swap]) -> str:
    marks = [*(one for one in (WARM, 250, 500) if one < len(swaps)), len(swaps)]
    grown = ", ".join(f"{memory(swaps, one) / 1e6:.1f} MB after {one}" for one in marks)
    ready, switched = (statistics.median(times) * 1000 for times in zip(*((one.ready, one.switched) for one in swaps), strict=True))
    return f"{len(swaps)} swaps, {ready:.0f} ms to ready and {switched:.0f} ms to the switch (medians): {grown}; {swaps[-1].after}"


def test_a_worker_is_after_many_swaps_as_it_was_after_few(broker: Broker, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Each swap loads a model anew and gives one back, while events flow."""
    times = request.config.getoption("--soak")
    job = make_flights(broker, tmp_path, partitions=2)
    departures = Departures(job, 200, 0)
    with job.run() as worker:
        worker.wait_until_assigned()
        with departures.flowing():
            swaps = asyncio.run(swap_over_and_over(job, times, psutil.Process(worker.process.pid)))
        wait_until_done(job, departures.sent)
        assert worker.stop() == 0, worker.log
    figures = told(swaps)
    print(figures)
    warm, last = swaps[WARM - 1].after, swaps[-1].after
    assert memory(swaps, times) <= GROWTH * memory(swaps, WARM), figures
    assert (last.files, last.children) == (warm.files, warm.children), figures
    assert last.threads <= warm.threads + POOL, figures
    check(job, gather(job, departures.sent))
