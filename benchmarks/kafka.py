"""The harness's access to Kafka: creates, fills, watches and reads the topics of a run, with a client that no contender uses."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # missing in its stubs

from benchmarks.workload import key
from penstock.errors import TransportUnavailable
from penstock.testing.broker import Broker
from penstock.testing.topics import create_topics, unique

PARTITIONS = 4
QUIET = 2  # a broker that is stopped after use is not an error


class Seen(NamedTuple):
    """A record read back; `at` is its timestamp in ms: the broker's append time if the topic is configured for it."""

    key: bytes
    value: bytes
    at: int


class Cluster:
    """A broker and the topics made on it, which `close` deletes. Raises TransportUnavailable when it does not answer."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self._made: list[str] = []
        self._admin = AdminClient({"bootstrap.servers": broker.bootstrap, "log_level": QUIET})
        try:
            self._admin.list_topics(timeout=10)
        except KafkaException as error:
            next_thing = "start it, or leave --bootstrap out to have one started"
            raise TransportUnavailable(f"Kafka at {broker.bootstrap} does not answer ({error.args[0].str()}); next: {next_thing}") from None

    def topic(self, name: str, *, append_time: bool = False) -> str:
        """A new topic; with `append_time` the broker's clock stamps its records."""
        made = unique(f"bench-{name}")
        config = {"message.timestamp.type": "LogAppendTime"} if append_time else {}
        create_topics(self.broker, {made: PARTITIONS}, config)
        self._made += [made, f"{made}.dead-letter"]
        return made

    def close(self) -> None:
        """Deletes the created topics, including dead-letter topics."""
        there = self._admin.list_topics(timeout=10).topics
        if mine := [name for name in self._made if name in there]:
            for future in self._admin.delete_topics(mine).values():
                future.result()
        self._made.clear()

    def producer(self, linger_ms: int) -> Producer:
        return Producer(
            {
                "bootstrap.servers": self.broker.bootstrap,
                "linger.ms": linger_ms,
                "queue.buffering.max.messages": 1_000_000,
                # With the default, a million, records wait one by one in the socket of a busy broker instead of gathering in a batch.
                "max.in.flight.requests.per.connection": 5,
                "log_level": QUIET,
            }
        )

    def fill(self, topic: str, values: Iterable[bytes]) -> Iterator[int]:
        """Sends the values as events 0, 1, 2, ... spread evenly; yields their number from time to time."""
        producer = self.producer(20)
        at = 0
        for at, value in enumerate(values):
            while True:
                try:
                    producer.produce(topic, value, key(at), at % PARTITIONS)
                    break
                except BufferError:
                    producer.poll(0.05)
            if at % 5000 == 0:
                producer.poll(0)
                yield at
        if producer.flush(60):
            raise KafkaException(KafkaError(KafkaError._MSG_TIMED_OUT))
        yield at + 1

    def ends(self, topic: str) -> int:
        """Returns the number of records in a topic."""
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        asked = {TopicPartition(topic, partition): latest for partition in range(PARTITIONS)}
        return sum(future.result().offset for future in self._admin.list_offsets(asked, request_timeout=10).values())

    def read(self, topic: str) -> Iterator[Seen]:
        """Yields all current records of a topic."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.broker.bootstrap,
                "group.id": f"bench-reader-{uuid.uuid4().hex[:8]}",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "log_level": QUIET,
                "queued.max.messages.kbytes": 65536,
            }
        )
        unread = set(range(PARTITIONS))
        consumer.assign([TopicPartition(topic, partition, 0) for partition in unread])
        deadline = time.monotonic() + 60
        try:
            while unread:
                messages = consumer.consume(20_000, 1.0)
                if not messages and time.monotonic() > deadline:
                    raise TimeoutError(f"the end of {topic} was not reached within 60 s")
                for message in messages:
                    yield from _seen(message, unread)
        finally:
            consumer.close()


def _seen(message: Message, unread: set[int]) -> Iterator[Seen]:
    error = message.error()
    if error is None:
        yield Seen(message.key() or b"", message.value() or b"", message.timestamp()[1])
    elif error.code() == KafkaError._PARTITION_EOF:
        unread.discard(message.partition() or 0)
    else:
        raise KafkaException(error)
