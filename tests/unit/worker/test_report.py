"""What a worker says on the status topic is said, also when it is stopped while it says it."""

from __future__ import annotations

import asyncio
from typing import cast

from penstock.control.messages import timestamp
from penstock.control.status import Boundary, WorkerStatus, parse
from penstock.control.trust.member import Identity
from penstock.errors import TransportUnavailable
from penstock.transports.kafka.journal import Writer
from penstock.worker.report import Reporter


class Topic:
    """The edge: keeps what is acknowledged. A broker that is away acknowledges nothing, one that is slow waits for `answers`."""

    def __init__(self) -> None:
        self.kept: list[tuple[bytes, bytes | None]] = []
        self.away = False
        self.asked = asyncio.Event()
        self.answers = asyncio.Event()
        self.answers.set()

    async def write(self, topic: str, key: bytes, value: bytes | None, signature: bytes = b"") -> int:
        self.asked.set()
        await self.answers.wait()
        if self.away:
            raise TransportUnavailable("the brokers are away")
        self.kept.append((key, value))
        return len(self.kept)

    def offsets(self) -> list[int]:
        said = [parse(value) for _, value in self.kept if value]
        return [one.offset for one in said if isinstance(one, Boundary)]


def describe() -> WorkerStatus:
    return WorkerStatus(
        worker="a", topology="t", host="h", pid=1, started=timestamp(), time=timestamp(), generation=1, wanted=1, ready=True
    )  # fmt: skip


def reporter(topic: Topic) -> Reporter:
    return Reporter(cast(Writer, topic), "status", Identity.new("a"), describe, interval=0.01)


def test_boundary_is_said_once_for_each_generation_and_again_after_an_assignment() -> None:
    async def act() -> None:
        topic = Topic()
        told = reporter(topic)
        for offset, generation in ((0, 0), (10, 0), (20, 1), (30, 1)):
            told.scores(("t", 0), offset, generation)
        told.assigned()
        told.scores(("t", 0), 40, 1)
        await told.close()
        assert topic.offsets() == [0, 20, 40]
        assert topic.kept[-1] == (b"worker/a", None)

    asyncio.run(act())


def test_boundary_that_was_being_said_when_the_worker_was_stopped_is_not_lost() -> None:
    async def act() -> None:
        topic = Topic()
        told = reporter(topic)
        told.scores(("t", 0), 7, 1)
        topic.answers.clear()
        running = asyncio.create_task(told.run())
        await topic.asked.wait()
        running.cancel()
        await asyncio.wait({running})
        topic.answers.set()
        await told.close()
        assert topic.offsets() == [7]

    asyncio.run(act())


def test_boundary_is_said_again_until_the_brokers_have_it() -> None:
    async def act() -> None:
        topic = Topic()
        topic.away = True
        told = reporter(topic)
        told.scores(("t", 0), 7, 1)
        await told.close()
        assert topic.offsets() == []
        topic.away = False
        await told.close()
        assert topic.offsets() == [7]

    asyncio.run(act())


def test_stop_is_obeyed_also_in_the_moment_of_a_change() -> None:
    """`asyncio.wait_for` of Python 3.11 swallows such a cancellation, and whoever waits for the task waits for ever."""

    async def act() -> None:
        topic = Topic()
        told = Reporter(cast(Writer, topic), "status", Identity.new("a"), describe, interval=60.0)
        running = asyncio.create_task(told.run())
        while not topic.kept or not told._changed._waiters:  # noqa: ASYNC110  until it waits for a change
            await asyncio.sleep(0.001)
        told.changed()
        running.cancel()
        done, _ = await asyncio.wait({running}, timeout=5)
        assert done

    asyncio.run(act())
