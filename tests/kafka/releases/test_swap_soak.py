"""One worker swaps models over and over, and is after the last swap as it was when it was warm: in memory, threads, files, children.

A worker collects what refers to itself every ten seconds, a session that was replaced too. So it is warm after the first collection, and
swaps have a pace, by which no later collection finds more than the first. `make soak` makes 1,000 swaps after that. As one test among
many it makes 40: enough to see whether sessions stay.
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

WARM_S = 13.0  # of swapping, after which nothing may grow any more
PACE_S = 0.4  # from one swap to the next, at least
AROUND = 10  # swaps whose median is the memory at a time
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


async def swap_over_and_over(job: Job, times: int, process: psutil.Process) -> tuple[int, list[Swap]]:
    """Swaps until the worker is warm, and then so many times; the number of the former, and all swaps.

    Each swap is to a version that was never loaded. It is one of two models under a new manifest, so only two are tried in a child.
    """
    registry = registry_of(job)
    first = {node: bind(registry, ModelRef(f"flight-{node}", "1")) for node in ("features", "logistic", "trees", "stack")}

    async def swap(swapper: Swapper, number: int) -> Swap:
        version = push(job, "flight-trees", 0.5 + 0.1 * (number % 2), number=number)
        times = await swapper.swap({**first, "trees": bind(registry, ModelRef(version.name, version.version))})
        return Swap(*times, Footprint.of(process))

    warm, swaps, began = 0, list[Swap](), 0.0
    async with Swapper.open(job, first) as swapper:
        while not warm or len(swaps) < warm + times:
            paced = asyncio.create_task(asyncio.sleep(PACE_S))
            swaps.append(await swap(swapper, len(swaps)))
            await paced
            if len(swaps) == AROUND:  # the first ones are slow
                began = time.monotonic()
            elif began and not warm and time.monotonic() > began + WARM_S:
                warm = len(swaps)
    return warm, swaps


def memory(swaps: Sequence[Swap], number: int) -> float:
    """RSS after so many swaps, in bytes."""
    return statistics.median(one.after.rss for one in swaps[number - AROUND : number])


def told(swaps: Sequence[Swap], warm: int) -> str:
    marks = [warm, *(one for one in (250, 500) if warm < one < len(swaps)), len(swaps)]
    grown = ", ".join(f"{memory(swaps, one) / 1e6:.1f} MB after {one}" for one in marks)
    ready, switched = (statistics.median(times) * 1000 for times in zip(*((one.ready, one.switched) for one in swaps), strict=True))
    return f"{len(swaps)} swaps, {ready:.0f} ms to ready and {switched:.0f} ms to the switch (medians): {grown}; {swaps[-1].after}"


def test_a_worker_is_after_many_swaps_as_it_was_after_few(broker: Broker, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Each swap loads a model anew and gives one back, while events flow."""
    times = request.config.getoption("--soak")
    job = make_flights(broker, tmp_path, partitions=2)
    departures = Departures(job, 200)
    with job.run(proof_rows="50") as worker:
        worker.wait_until_assigned()
        with departures.flowing():
            warm, swaps = asyncio.run(swap_over_and_over(job, times, psutil.Process(worker.process.pid)))
        wait_until_done(job, departures.sent)
        assert worker.stop() == 0, worker.log
    figures = told(swaps, warm)
    print(figures)
    before, last = swaps[warm - 1].after, swaps[-1].after
    assert memory(swaps, len(swaps)) <= GROWTH * memory(swaps, warm), figures
    assert (last.files, last.children) == (before.files, before.children), figures
    assert last.threads <= before.threads + POOL, figures
    check(job, gather(job, departures.sent))
