"""How much a worker asks the brokers for at a time: at once what is there, and after little of it what comes within the linger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import confluent_kafka
import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.structs import TopicPartition
from confluent_kafka.admin import AdminClient

from penstock.record import Record
from penstock.testing import Broker, create_topics, produce, unique
from penstock.transports.kafka.fetch import RawFetcher

pytestmark = pytest.mark.broker

LINGER = 2.0  # seconds; so long that no machine takes it for an accident
AT_ONCE = LINGER * 0.8


class Reader:
    """Takes what one partition has, from its beginning."""

    def __init__(self, consumer: AIOKafkaConsumer, topic: str, linger: float = LINGER) -> None:
        self._raw = RawFetcher(consumer, linger_ms=linger * 1000)
        self._topic = topic
        self._next = 0
        self.lost: list[tuple[int, int | None]] = []

    async def take(self) -> tuple[int, float]:
        """Waits for records; how many there were, and the seconds that it took."""
        loop = asyncio.get_running_loop()
        began, rows = loop.time(), 0
        while not rows and not self.lost:
            await self._raw.wait(30.0)
            for fetched in self._raw.take(lambda _: self._next, lambda _, expected, found: self.lost.append((expected, found))):
                self._next = fetched.end
                rows += len(fetched.records)
        return rows, loop.time() - began


@asynccontextmanager
async def reading(broker: Broker, topic: str, linger: float = LINGER) -> AsyncIterator[Reader]:
    consumer = AIOKafkaConsumer(bootstrap_servers=broker.bootstrap, isolation_level="read_committed", auto_offset_reset="none")
    await consumer.start()
    try:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        consumer.seek(partition, 0)
        yield Reader(consumer, topic, linger)
    finally:
        await consumer.stop()


def topic_with(broker: Broker, count: int) -> str:
    topic = unique("fetch")
    create_topics(broker, {topic: 1})
    send(broker, topic, count)
    return topic


def delete(broker: Broker, topic: str, before: int) -> None:
    """Deletes the records before the offset."""
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    for answer in admin.delete_records([confluent_kafka.TopicPartition(topic, 0, before)]).values():
        answer.result()


def send(broker: Broker, topic: str, count: int) -> None:
    produce(broker, [Record(topic, b"value", partition=0) for _ in range(count)])


def test_what_comes_after_a_small_fetch_is_gathered(broker: Broker) -> None:
    topic = topic_with(broker, 1)

    async def scenario() -> None:
        async with reading(broker, topic) as reader:
            assert (await reader.take())[0] == 1
            for _ in range(3):  # three requests of the producer, one after the other
                await asyncio.to_thread(send, broker, topic, 1)
            assert (await reader.take())[0] == 3

    asyncio.run(scenario())


def test_an_event_after_a_silence_does_not_wait_for_company(broker: Broker) -> None:
    """A gathering fetch that brings nothing is followed by one that is answered with the first event."""
    topic = topic_with(broker, 1)

    async def scenario() -> None:
        async with reading(broker, topic) as reader:
            await reader.take()
            silence = asyncio.create_task(reader.take())
            await asyncio.sleep(LINGER * 1.5)
            sent = asyncio.get_running_loop().time()
            await asyncio.to_thread(send, broker, topic, 1)
            assert (await silence)[0] == 1
            assert asyncio.get_running_loop().time() - sent < AT_ONCE

    asyncio.run(scenario())


def test_rare_events_do_not_wait_for_each_other(broker: Broker) -> None:
    topic = topic_with(broker, 1)

    async def scenario() -> None:
        async with reading(broker, topic) as reader:
            await reader.take()
            await asyncio.sleep(LINGER * 2.5)
            for _ in range(2):
                await asyncio.to_thread(send, broker, topic, 1)
                rows, seconds = await reader.take()
                assert rows == 1
                assert seconds < AT_ONCE

    asyncio.run(scenario())


def test_a_backlog_is_never_waited_for(broker: Broker) -> None:
    topic = topic_with(broker, RawFetcher.SMALL)

    async def scenario() -> None:
        async with reading(broker, topic) as reader:
            assert (await reader.take())[0] == RawFetcher.SMALL
            await asyncio.to_thread(send, broker, topic, 1)
            rows, seconds = await reader.take()
            assert rows == 1
            assert seconds < AT_ONCE

    asyncio.run(scenario())


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one for each fetch that aiokafka makes itself."""
    made: list[int] = []
    process = Fetcher._proc_fetch_request

    async def counted(self: Fetcher, assignment: Any, node: int, request: Any) -> Any:
        made.append(node)
        return await process(self, assignment, node, request)

    monkeypatch.setattr(Fetcher, "_proc_fetch_request", counted)
    return made


def test_only_the_first_fetch_is_aiokafkas(broker: Broker, theirs: list[int]) -> None:
    topic = topic_with(broker, 1)

    async def scenario() -> None:
        async with reading(broker, topic, linger=0.001) as reader:
            assert (await reader.take())[0] == 1
            for _ in range(20):
                await asyncio.to_thread(send, broker, topic, 1)
                assert (await reader.take())[0] == 1
        assert len(theirs) == 1

    asyncio.run(scenario())


@pytest.mark.broker("topic_config")
def test_an_answer_with_an_error_is_left_to_aiokafka(broker: Broker, theirs: list[int]) -> None:
    """The records that will be asked for next are deleted; what aiokafka makes of that is passed on."""
    topic = topic_with(broker, 1)

    async def scenario() -> None:
        async with reading(broker, topic, linger=0.001) as reader:
            assert (await reader.take())[0] == 1
            await asyncio.to_thread(send, broker, topic, 1)
            assert (await reader.take())[0] == 1
            assert len(theirs) == 1
            for _ in range(5):
                send(broker, topic, 1)  # the first is the answer, and the others are gone before it is read: the event loop is held up
            delete(broker, topic, 7)
            async with asyncio.timeout(60):
                while not reader.lost:
                    await reader.take()
            ((_, found),) = reader.lost
            assert found is None
            assert len(theirs) == 2

    asyncio.run(scenario())


@pytest.mark.broker("restart")
def test_reading_goes_on_when_the_broker_comes_back(broker: Broker, theirs: list[int]) -> None:
    topic = topic_with(broker, 1)

    async def scenario() -> None:
        async with reading(broker, topic, linger=0.001) as reader:
            assert (await reader.take())[0] == 1
            await asyncio.to_thread(broker.restart)
            await asyncio.to_thread(send, broker, topic, 1)
            assert (await reader.take())[0] == 1
        assert len(theirs) > 1

    asyncio.run(scenario())


@pytest.mark.parametrize("limits", [(2500, 2500), (500, 1 << 20)], ids=["a full answer", "batches larger than fetch_bytes"])
def test_a_backlog_larger_than_an_answer_leaves_no_partition_behind(broker: Broker, limits: tuple[int, int]) -> None:
    """The broker fills an answer in the order of the question, and a batch that is too large it gives to the first partition alone."""
    each, whole = limits
    topic, partitions = unique("fetch"), 4
    create_topics(broker, {topic: partitions})
    for _ in range(20):  # batches of their own
        produce(broker, [Record(topic, b"x" * 1000, partition=partition) for partition in range(partitions)])

    async def scenario() -> list[int]:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=broker.bootstrap, auto_offset_reset="none", fetch_max_bytes=whole, max_partition_fetch_bytes=each
        )
        await consumer.start()
        try:
            consumer.assign([TopicPartition(topic, partition) for partition in range(partitions)])
            for tp in consumer.assignment():
                consumer.seek(tp, 0)
            raw, at = RawFetcher(consumer), dict.fromkeys(range(partitions), 0)
            served: list[int] = []
            while len(served) < partitions * 4:
                await raw.wait(30.0)
                for fetched in raw.take(lambda one: at[one[1]], lambda *_: pytest.fail("the position has moved")):
                    at[fetched.partition[1]] = fetched.end
                    served.append(fetched.partition[1])
            return served
        finally:
            await consumer.stop()

    served = asyncio.run(scenario())[partitions:]  # aiokafka asks for the first ones, in any order
    assert all(set(served[at : at + partitions]) == set(range(partitions)) for at in range(0, len(served) - partitions, partitions)), served
