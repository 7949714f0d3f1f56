"""Record batches on their short way to the broker: in order, each once, and every refusal seen, whatever is in the way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError
from aiokafka.structs import TopicPartition
from confluent_kafka import Producer

from penstock.parcel import Parcel
from penstock.record import Record
from penstock.testing import Broker, create_topics, read_all, unique
from penstock.transports.kafka.dispatch import Dispatcher
from penstock.transports.kafka.encode import RecordBatch

pytestmark = pytest.mark.broker

PARTITIONS = 3


@dataclass
class Way:
    """A producer and its dispatcher, as `Producer` uses them; `short` and `long` count which way batches went."""

    producer: AIOKafkaProducer
    dispatcher: Dispatcher
    topic: str
    short: int = 0
    long: int = 0
    futures: list[asyncio.Future[Any]] = field(default_factory=list)

    async def send(self, partition: int, value: bytes) -> None:
        batch = RecordBatch(1 << 20)
        batch.add(Parcel(self.topic, partition, [Record(self.topic, value, b"key", timestamp=int(time.time() * 1000))], [value]))
        future = self.dispatcher.offer(batch, self.topic, partition)
        if future is None:
            self.long += 1
            future = await self.producer.send_batch(batch, self.topic, partition=partition)
        else:
            self.short += 1
        self.futures.append(future)


@asynccontextmanager
async def way(broker: Broker, topic: str) -> AsyncIterator[Way]:
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, enable_idempotence=True, acks="all")
    await producer.start()
    try:
        await producer.partitions_for(topic)
        yield Way(producer, Dispatcher(producer), topic)
    finally:
        await producer.stop()


def run(broker: Broker, scenario: Callable[[Way], Coroutine[Any, Any, None]], **config: str) -> list[list[bytes | None]]:
    """What each partition of a new topic holds after the scenario."""
    topic = unique("dispatch")
    create_topics(broker, {topic: PARTITIONS}, config)

    async def main() -> None:
        async with way(broker, topic) as one:
            await scenario(one)

    asyncio.run(main())
    records = read_all(broker, topic)
    return [[record.value for record in records if record.partition == partition] for partition in range(PARTITIONS)]


def test_batches_offered_together_go_the_short_way(broker: Broker) -> None:
    async def scenario(one: Way) -> None:
        for number in range(5):
            for partition in range(PARTITIONS):
                await one.send(partition, b"%d" % number)
            assert {answer.offset for answer in await asyncio.gather(*one.futures[-PARTITIONS:])} == {number}
        assert (one.short, one.long) == (5 * PARTITIONS, 0)

    assert run(broker, scenario) == [[b"%d" % number for number in range(5)]] * PARTITIONS


def test_order_holds_when_batches_go_both_ways(broker: Broker) -> None:
    """Whoever does not wait for answers meets requests under way, and batches that wait for those."""

    async def scenario(one: Way) -> None:
        for number in range(200):
            for partition in range(PARTITIONS):
                await one.send(partition, b"%d" % number)
            if number % 7 == 0:
                await asyncio.gather(*one.futures)
        await asyncio.gather(*one.futures)
        assert one.short > PARTITIONS
        assert one.long > PARTITIONS

    assert run(broker, scenario) == [[b"%d" % number for number in range(200)]] * PARTITIONS


@pytest.mark.broker("topic_config")
def test_a_refusal_is_seen(broker: Broker) -> None:
    async def scenario(one: Way) -> None:
        await one.send(0, b"x" * 2000)
        with pytest.raises(MessageSizeTooLargeError):
            await one.futures[-1]
        assert one.short == 1

    assert run(broker, scenario, **{"max.message.bytes": "1000"})[0] == []


@pytest.mark.broker("restart")
def test_what_meets_a_dead_broker_arrives_once_and_in_order(broker: Broker) -> None:
    async def scenario(one: Way) -> None:
        await one.send(0, b"before")
        await one.futures[-1]
        await asyncio.to_thread(broker.kill)
        sending = [asyncio.create_task(one.send(0, b"%d" % number)) for number in range(3)]
        await asyncio.to_thread(broker.restart)
        await asyncio.gather(*sending)
        await asyncio.gather(*one.futures)
        assert one.short > 1

    assert run(broker, scenario)[0] == [b"before", b"0", b"1", b"2"]


def test_each_leader_gets_a_request_of_its_own() -> None:
    """On librdkafka's mock cluster, whose topics have four partitions that it spreads over its brokers."""
    cluster = Producer({"test.mock.num.brokers": 3, "log_level": 2})
    try:
        brokers = cluster.list_topics(timeout=10).brokers.values()
        broker, topic = Broker(",".join(f"{one.host}:{one.port}" for one in brokers)), unique("dispatch")

        async def scenario() -> set[int]:
            async with way(broker, topic) as one:
                for number in range(20):
                    for partition in range(4):
                        await one.send(partition, b"%d" % number)
                    assert {answer.offset for answer in await asyncio.gather(*one.futures[-4:])} == {number}
                assert (one.short, one.long) == (80, 0)
                return {one.producer.client.cluster.leader_for_partition(TopicPartition(topic, partition)) for partition in range(4)}

        assert len(asyncio.run(scenario())) > 1
    finally:
        cluster.close()
