"""Topics and groups for tests on any broker: create, fill and read topics, and read what a group has committed."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from penstock.control.topics import CONTROL_CONFIG, STATUS_CONFIG, Topics
from penstock.errors import DeliveryFailed
from penstock.record import Header, Record
from penstock.testing.broker import Broker

__all__ = ["committed", "create_release_topics", "create_topics", "end_offsets", "produce", "read_all", "unique", "wait_for"]

Isolation = Literal["read_committed", "read_uncommitted"]
TIMEOUT_S = 30.0


def unique(name: str) -> str:
    """Returns a unique name for a topic or a group: tests share one broker and do not clean up."""
    return f"{name}-{uuid.uuid4().hex[:8]}"


def create_topics(broker: Broker, topics: Mapping[str, int], config: Mapping[str, str] | None = None) -> None:
    """Creates each topic with its number of partitions and the brokers' default of copies, and `config` for all.

    Returns when every partition has a leader.
    Raises KafkaException when a topic exists already, or on a broker that cannot create topics.
    """
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    # A broker that was paused answers for a moment that there is no controller, and a client that hears this does not ask again for long.
    wait_for(lambda: admin.list_topics(timeout=TIMEOUT_S).controller_id >= 0, "a controller")
    wanted = [NewTopic(name, num_partitions=count, config=dict(config or {})) for name, count in topics.items()]
    for future in admin.create_topics(wanted).values():
        future.result(TIMEOUT_S)
    wait_for(lambda: all(_led(admin, name, count) for name, count in topics.items()), f"leaders for {', '.join(topics)}")


def create_release_topics(broker: Broker, application: str, topology: str) -> Topics:
    """Creates the control log and the status topic of a topology, as `penstock topics create` does, and returns their names."""
    topics = Topics.of(application, topology)
    create_topics(broker, {topics.control: 1}, CONTROL_CONFIG)
    create_topics(broker, {topics.status: 1}, STATUS_CONFIG)
    return topics


def produce(broker: Broker, records: Iterable[Record]) -> None:
    """Sends each record to its partition, and returns when the broker has all records.

    Timestamps of 0 are set by the client; offsets are ignored. Raises DeliveryFailed with the first error.
    """
    refused: list[KafkaError] = []
    # Without retries no record is sent twice; without idempotence the first record does not wait half a second for a producer id.
    options = {"bootstrap.servers": broker.bootstrap, "retries": 0, "linger.ms": 5, "queue.buffering.max.messages": 0, "log_level": 3}
    producer = Producer(options)

    def delivered(error: KafkaError | None, _: object) -> None:
        if error is not None:
            refused.append(error)

    for record in records:
        headers: list[tuple[str, str | bytes | None]] = [*record.headers]
        producer.produce(record.topic, record.value, record.key, record.partition, delivered, timestamp=record.timestamp, headers=headers)
        producer.poll(0)
    producer.flush()
    producer.close()
    if refused:
        raise DeliveryFailed(f"{len(refused)} records were refused, the first because: {refused[0]}")


def read_all(broker: Broker, topic: str, isolation: Isolation = "read_committed") -> list[Record]:
    """Returns every record of a topic from its beginning to its current end, in order of partition and offset."""
    consumer = Consumer(
        {
            "bootstrap.servers": broker.bootstrap,
            "group.id": unique("reader"),
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 10,  # the end of a partition is reported at once
            "isolation.level": isolation,
        }
    )
    try:
        unread = set(_partitions(consumer, topic))
        consumer.assign([TopicPartition(topic, partition, 0) for partition in sorted(unread)])
        return sorted(_drain(consumer, unread), key=lambda record: (record.partition, record.offset))
    finally:
        consumer.close()


def end_offsets(broker: Broker, topic: str) -> dict[int, int]:
    """Returns the offset that the next record of each partition would get (transaction markers count)."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": unique("reader"), "isolation.level": "read_uncommitted"})
    try:
        return {partition: _end(consumer, TopicPartition(topic, partition)) for partition in _partitions(consumer, topic)}
    finally:
        consumer.close()


def _end(consumer: Consumer, partition: TopicPartition) -> int:
    """Returns the end of a partition; while its leader is being elected, after a broker was paused for example, it asks again."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return int(consumer.get_watermark_offsets(partition, TIMEOUT_S)[1])
        except KafkaException as error:
            if error.args[0].code() != KafkaError.NOT_LEADER_FOR_PARTITION or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def committed(broker: Broker, group: str, topic: str) -> dict[int, int]:
    """Returns the committed offset of a group for each partition; 0 without a commit. The call does not join the group."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": group, "log_level": 2})
    try:
        asked = [TopicPartition(topic, partition) for partition in _partitions(consumer, topic)]
        return {found.partition: max(found.offset, 0) for found in consumer.committed(asked, TIMEOUT_S)}
    finally:
        consumer.close()


def wait_for(condition: Callable[[], bool], what: str | Callable[[], str], timeout: float = TIMEOUT_S, interval: float = 0.05) -> None:
    """Polls until `condition()` is true.

    Raises AssertionError that names `what`, as it is then, when it is not within `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what if isinstance(what, str) else what()}: not within {timeout:g} s")
        time.sleep(interval)


def _drain(consumer: Consumer, unread: set[int]) -> Iterable[Record]:
    while unread:
        message = consumer.poll(TIMEOUT_S)
        if message is None:
            raise AssertionError(f"no record and no end of partitions {sorted(unread)} within {TIMEOUT_S:g} s")
        error = message.error()
        if error is None:
            yield _record(message)
        elif error.code() == KafkaError._PARTITION_EOF:
            unread.discard(message.partition() or 0)
        else:
            raise KafkaException(error)


def _record(message: Message) -> Record:
    return Record(
        topic=message.topic() or "",
        value=message.value(),
        key=message.key(),
        headers=tuple(cast("list[Header]", message.headers() or [])),  # neither a dict nor text, which only `produce` accepts
        timestamp=message.timestamp()[1],
        partition=message.partition() or 0,
        offset=message.offset() or 0,
    )


def _partitions(consumer: Consumer, topic: str) -> list[int]:
    found = consumer.list_topics(topic, TIMEOUT_S).topics[topic]
    if found.error is not None:
        raise KafkaException(found.error)
    return sorted(found.partitions)


def _led(admin: AdminClient, topic: str, count: int) -> bool:
    found = admin.list_topics(timeout=TIMEOUT_S).topics.get(topic)
    return found is not None and len(found.partitions) == count and all(p.leader >= 0 for p in found.partitions.values())
