"""Record batches on their short way to the broker: in order, each once, and every refusal seen, whatever is in the way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import NotEnoughReplicasError
from aiokafka.protocol.produce import ProduceResponse_v7
from aiokafka.structs import TopicPartition
from confluent_kafka import Producer

from penstock.parcel import Parcel
from penstock.record import Record
from penstock.testing import Broker, create_topics, read_all, unique, wait_for
from penstock.transports.base import Lapsed, Sent
from penstock.transports.kafka.direct import Line
from penstock.transports.kafka.dispatch import Dispatcher, _Offer
from penstock.transports.kafka.encode import RecordBatch
from penstock.transports.kafka.wire import Api
from penstock.transports.tracker import Span, Tracker

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
    sent: Sent = field(default_factory=Sent)

    async def send(self, partition: int, *values: bytes, aside: bool = False, under: Span | None = None) -> None:
        batch = RecordBatch(1 << 20)
        stamp = int(time.time() * 1000)
        batch.add(Parcel(self.topic, partition, [Record(self.topic, value, b"key", timestamp=stamp) for value in values], values))
        await self.dispatcher.room(self.topic, partition, under)
        if not aside and self.dispatcher.offer(batch, self.topic, partition, self.sent, under):
            self.short += 1
        else:
            self.long += 1
            future = await self.producer.send_batch(batch, self.topic, partition=partition)
            self.sent.add()
            future.add_done_callback(self.sent.settle_with)

    async def arrived(self) -> None:
        """Waits until all that was sent is acknowledged. Raises what the broker had against it."""
        self.dispatcher.push()
        if not self.sent.done():
            await self.sent.settled()
        elif error := self.sent.exception():
            raise error


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


class Owned:
    """One assignment with a lease, and a span of it to send under."""

    def __init__(self) -> None:
        self.holds = True
        self.tracker = Tracker()
        self.tracker.lease = lambda: self.holds
        self.tracker.assign({("input", 0): 0})
        self.span = self.tracker.take(("input", 0), 0, 1)


@pytest.mark.parametrize("way_of", ["here", "the sender"])
@pytest.mark.parametrize("outcome", ["renewed", "ended"])
def test_what_waits_to_be_sent_waits_for_the_lease_and_is_dropped_with_its_assignment(broker: Broker, way_of: str, outcome: str) -> None:
    """The second batch waits for the answer to the first when the lease ends: in our queue, or in aiokafka's buffers."""
    owned = Owned()

    async def scenario(one: Way) -> None:
        await one.send(0, b"before")
        await one.arrived()
        await one.send(0, b"first", under=owned.span)
        one.dispatcher.push()
        if way_of == "here":
            await one.send(0, b"second", under=owned.span)
            owned.holds = False
        else:
            owned.holds = False
            one.dispatcher._offers[TopicPartition(one.topic, 0)] = _Offer(batch(one.topic, b"second"), one.sent, owned.span)
            one.sent.add()
            one.dispatcher._leave(TopicPartition(one.topic, 0))
        waiting = asyncio.ensure_future(one.arrived())
        await asyncio.to_thread(wait_for, lambda: len(read_all(broker, one.topic)) > 1, "the first")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.3)
        if outcome == "renewed":
            owned.holds = True
            await waiting
        else:
            owned.tracker.revoke()
            with pytest.raises(Lapsed):
                await waiting
        owned.holds = True
        await one.send(0, b"other")  # the numbers of the batches go on
        one.sent = Sent()
        await one.dispatcher.flush()

    values = [b"before", b"first", *([b"second"] if outcome == "renewed" else []), b"other"]
    assert run(broker, scenario) == [values, [], []]


def batch(topic: str, value: bytes) -> RecordBatch:
    made = RecordBatch(1 << 20)
    made.add(Parcel(topic, 0, [Record(topic, value, b"key", timestamp=int(time.time() * 1000))], [value]))
    return made


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
        assert one.long == 200 // 5 * PARTITIONS  # those that were sent aside

    assert run(broker, scenario) == [[b"%d" % number for number in range(200)]] * PARTITIONS


@pytest.mark.parametrize("known", [False, True])
def test_a_batch_that_is_refused_for_now_is_not_overtaken(broker: Broker, monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    """Too few replicas for the first, while the second waits for its answer. `known`: the producer has written to the partition before."""
    topic = unique("dispatch")
    create_topics(broker, {topic: 2})

    async def main() -> None:
        async with way(broker, topic) as one:
            await one.send(0 if known else 1, b"before")
            await one.arrived()
            refuse_once(monkeypatch, topic)
            for value in (b"first", b"second"):
                await one.send(0, value)
                one.dispatcher.push()
            await one.arrived()

    asyncio.run(main())
    assert [one.value for one in read_all(broker, topic) if one.partition == 0] == [b"before"] * known + [b"first", b"second"]


def refuse_once(monkeypatch: pytest.MonkeyPatch, topic: str) -> None:
    """The next produce request, of the topic's partition 0, does not reach the broker; it is answered as by one that lacks replicas."""
    call = Line.call
    refusal = ProduceResponse_v7([(topic, [(0, NotEnoughReplicasError.errno, -1, -1, -1)])], 0).encode()

    def refused(self: Line, api: Api, body: Sequence[bytes | bytearray], answered: Callable[[bytes, int], None], lost: Any) -> None:
        monkeypatch.setattr(Line, "call", call)
        asyncio.get_running_loop().call_later(0.05, answered, refusal, 0)

    monkeypatch.setattr(Line, "call", refused)


def test_a_partition_that_does_not_exist_is_refused_at_once(broker: Broker) -> None:
    async def scenario(one: Way) -> None:
        await one.send(0, b"0")
        await one.arrived()
        with pytest.raises(AssertionError, match="partition"):  # aiokafka's, which `Producer` puts into words
            await one.send(PARTITIONS, b"1")

    assert run(broker, scenario) == [[b"0"], [], []]


@pytest.mark.broker("topic_config")
@pytest.mark.parametrize("begun", [False, True])
def test_an_output_that_its_topic_refuses_is_found_and_its_neighbours_are_written_in_order(broker: Broker, begun: bool) -> None:
    """With the first batch of a connection, which aiokafka's sender sends, and with a later one."""
    values = [b"%d" % number for number in range(20)]
    values[3] = values[17] = b"x" * 2000

    async def scenario(one: Way) -> None:
        if begun:
            await one.send(0, b"first")
            await one.arrived()
        await one.send(0, *values)
        await one.send(0, b"behind")
        await one.send(1, b"beside")
        await one.arrived()
        assert [[*refused.parcel.values] for refused in one.sent.refused] == [[values[3]], [values[17]]]
        assert all("MESSAGE_TOO_LARGE" in refused.reason for refused in one.sent.refused)
        await one.send(0, b"later")
        await one.arrived()

    found = run(broker, scenario, **{"max.message.bytes": "1000"})
    kept = [value for value in values if len(value) < 1000]
    assert found[:2] == [[*([b"first"] if begun else []), *kept, b"behind", b"later"], [b"beside"]]


def test_what_the_sender_has_is_not_starved(broker: Broker) -> None:
    """Another writer to the same broker always has a batch waiting; the one that lies with aiokafka's sender still has its turn."""

    async def scenario(one: Way) -> None:
        await one.send(0, b"0")
        await one.send(1, b"0")
        await one.arrived()
        aside: asyncio.Future[Any] | None = None
        for number in range(1, 200):
            await one.send(0, b"%d" % number)
            one.dispatcher.push()
            if number == 3:  # a request is under way, and a batch waits for it
                batch = RecordBatch(1 << 20)
                batch.add(Parcel(one.topic, 1, [Record(one.topic, b"aside", b"key", timestamp=1)], [b"aside"]))
                aside = await one.producer.send_batch(batch, one.topic, partition=1)
            if aside is not None and aside.done():
                break
        assert number < 20
        await one.arrived()

    assert run(broker, scenario)[1] == [b"0", b"aside"]


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
