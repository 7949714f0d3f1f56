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
from confluent_kafka import Producer

from penstock.errors import DeliveryFailed
from penstock.parcel import Parcel
from penstock.record import Record
from penstock.testing import Broker, create_topics, read_all, unique, wait_for
from penstock.transports.kafka.dispatch import Dispatcher, Turn
from penstock.transports.kafka.encode import RecordBatch
from penstock.transports.kafka.producer import when_delivered

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
    futures: list[Turn | asyncio.Future[Any]] = field(default_factory=list)

    async def send(self, partition: int, value: bytes, *, aside: bool = False) -> None:
        batch = RecordBatch(1 << 20)
        batch.add(Parcel(self.topic, partition, [Record(self.topic, value, b"key", timestamp=int(time.time() * 1000))], [value]))
        await self.dispatcher.room(self.topic, partition)
        future = None if aside else self.dispatcher.offer(batch, self.topic, partition)
        if future is None:
            self.long += 1
            future = await self.producer.send_batch(batch, self.topic, partition=partition)
        else:
            self.short += 1
        self.futures.append(future)

    async def arrived(self) -> None:
        """Waits until all that was sent is acknowledged. Raises what the broker had against it."""
        self.dispatcher.push()
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def then(refused: DeliveryFailed | None) -> None:
            if refused is None:
                answer.set_result(None)
            else:
                answer.set_exception(refused)

        when_delivered(self.futures, then)
        await answer


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
            await one.arrived()
        assert (one.short, one.long) == (5 * PARTITIONS, 0)

    assert run(broker, scenario) == [[b"%d" % number for number in range(5)]] * PARTITIONS


def test_order_holds_when_batches_go_both_ways(broker: Broker) -> None:
    """Whoever does not wait for answers meets requests under way, and batches that wait for those: here and at the sender."""

    async def scenario(one: Way) -> None:
        for number in range(200):
            for partition in range(PARTITIONS):
                await one.send(partition, b"%d" % number, aside=number % 5 == partition)
            one.dispatcher.push()
            if number % 7 == 0:
                await one.arrived()
        await one.arrived()
        assert one.short > PARTITIONS
        assert one.long > 200 // 5 * PARTITIONS  # also when nobody asked for it

    assert run(broker, scenario) == [[b"%d" % number for number in range(200)]] * PARTITIONS


@pytest.mark.broker("topic_config")
def test_a_refusal_is_seen(broker: Broker) -> None:
    async def scenario(one: Way) -> None:
        await one.send(0, b"x" * 2000)
        with pytest.raises(DeliveryFailed) as refused:
            await one.arrived()
        assert isinstance(refused.value.__cause__, MessageSizeTooLargeError)
        assert one.short == 1

    assert run(broker, scenario, **{"max.message.bytes": "1000"})[0] == []


@pytest.mark.broker("restart")
def test_what_meets_a_dead_broker_arrives_once_and_in_order(broker: Broker) -> None:
    async def scenario(one: Way) -> None:
        await one.send(0, b"before")
        await one.arrived()
        await asyncio.to_thread(broker.kill)
        sending = [asyncio.create_task(one.send(0, b"%d" % number)) for number in range(3)]
        await asyncio.to_thread(broker.restart)
        await asyncio.gather(*sending)
        await one.arrived()
        assert one.short > 1

    assert run(broker, scenario)[0] == [b"before", b"0", b"1", b"2"]


def leaders(cluster: Producer, topic: str) -> set[int]:
    """The brokers that lead the topic's partitions; the topic is made by the question."""
    wait_for(lambda: bool(cluster.list_topics(topic, timeout=10).topics[topic].partitions), f"{topic}'s partitions")
    return {partition.leader for partition in cluster.list_topics(topic, timeout=10).topics[topic].partitions.values()}


def test_each_leader_gets_a_request_of_its_own() -> None:
    """On librdkafka's mock cluster, whose topics have four partitions that it deals out to its brokers by chance."""
    cluster = Producer({"test.mock.num.brokers": 3, "log_level": 2})
    try:
        brokers = cluster.list_topics(timeout=10).brokers.values()
        broker = Broker(",".join(f"{one.host}:{one.port}" for one in brokers))
        topic = next(name for name in iter(lambda: unique("dispatch"), "") if len(leaders(cluster, name)) > 1)

        async def scenario() -> None:
            async with way(broker, topic) as one:
                for number in range(20):
                    for partition in range(4):
                        await one.send(partition, b"%d" % number)
                    await one.arrived()
                assert (one.short, one.long) == (80, 0)

        asyncio.run(scenario())
    finally:
        cluster.close()
