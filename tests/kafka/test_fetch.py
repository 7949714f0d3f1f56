"""How much a worker asks the brokers for at a time: at once what is there, and after little of it what comes within the linger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from penstock.record import Record
from penstock.testing import Broker, create_topics, produce, unique
from penstock.transports.kafka.fetch import RawFetcher

pytestmark = pytest.mark.broker

LINGER = 2.0  # seconds; so long that no machine takes it for an accident
AT_ONCE = LINGER * 0.8


class Reader:
    """Takes what one partition has, from its beginning."""

    def __init__(self, consumer: AIOKafkaConsumer, topic: str) -> None:
        self._raw = RawFetcher(consumer, linger_ms=LINGER * 1000)
        self._topic = topic
        self._next = 0

    async def take(self) -> tuple[int, float]:
        """Waits for records; how many there were, and the seconds that it took."""
        loop = asyncio.get_running_loop()
        began, rows = loop.time(), 0
        while not rows:
            await self._raw.wait(30.0)
            for fetched in self._raw.take(lambda partition: self._next, lambda *_: pytest.fail("the position has moved")):
                self._next = fetched.end
                rows += len(fetched.records)
        return rows, loop.time() - began


@asynccontextmanager
async def reading(broker: Broker, topic: str) -> AsyncIterator[Reader]:
    consumer = AIOKafkaConsumer(bootstrap_servers=broker.bootstrap, isolation_level="read_committed", auto_offset_reset="none")
    await consumer.start()
    try:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        consumer.seek(partition, 0)
        yield Reader(consumer, topic)
    finally:
        await consumer.stop()


def topic_with(broker: Broker, count: int) -> str:
    topic = unique("fetch")
    create_topics(broker, {topic: 1})
    send(broker, topic, count)
    return topic


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
