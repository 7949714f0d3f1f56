"""The sink on Kafka: record batches built here, sent as they are, acknowledged by every replica.

A record costs 0.3 µs in a batch against 7.6 µs through aiokafka's `send`. The idempotent producer stays on, so a retry neither
doubles nor reorders. Nothing is swallowed: `Sent` holds the broker's refusal, and offsets are committed after that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, KafkaTimeoutError
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.structs import TopicPartition

from penstock.errors import DeliveryFailed, TransportError, TransportUnavailable
from penstock.parcel import Parcel
from penstock.settings import Settings
from penstock.transports.base import Abilities, Lapsed, Sent
from penstock.transports.kafka.connection import DEFAULT_LIMIT, TopicInfo, aiokafka_arguments
from penstock.transports.kafka.dispatch import Dispatcher
from penstock.transports.kafka.encode import Full, RecordBatch
from penstock.transports.kafka.metadata import steady
from penstock.transports.tracker import Span

__all__ = ["KafkaSink"]

logger = logging.getLogger(__name__)

CLOSE = 5.0  # seconds
BATCH_BYTES = 1_000_000  # a batch is not made larger; an output that is larger is a batch by itself


class KafkaSink:
    """Sends whole partitions' worth of records. `topics` describes those that are written."""

    abilities: Final = Abilities(replay=True)

    def __init__(self, settings: Settings, topics: Mapping[str, TopicInfo]) -> None:
        self.settings = settings
        self._topics = topics
        self._limits = {name: info.max_message_bytes or DEFAULT_LIMIT for name, info in topics.items()}
        self._partition = DefaultPartitioner()
        self._client: AIOKafkaProducer | None = None
        self._dispatcher: Dispatcher

    async def start(self) -> None:
        """Connects, and gets the partitions of the topics to write: they must be known before the first key gets one."""
        settings = self.settings
        client = steady(
            AIOKafkaProducer(
                **aiokafka_arguments(settings),
                acks="all",
                enable_idempotence=True,
                linger_ms=0,
                max_batch_size=BATCH_BYTES,
                max_request_size=max(BATCH_BYTES * 4, *self._limits.values(), DEFAULT_LIMIT) + BATCH_BYTES,
                compression_type=None if settings.compression == "none" else settings.compression,
                request_timeout_ms=int(settings.broker_timeout * 1000),
            )
        )
        try:
            await client.start()
        except BaseException:  # a client whose start has failed still holds tasks and sockets
            await client.stop()
            raise
        self._dispatcher = Dispatcher(client)
        self._client = client
        await asyncio.gather(*(client.partitions_for(topic) for topic in self._topics))

    async def stop(self) -> None:
        """Waits a moment for what is queued, then closes the connections.

        The loop has waited for its outputs, as long as that was of use: without the brokers, aiokafka would wait for them without end.
        """
        if self._client is not None:
            try:
                await asyncio.wait_for(self._flush_and_close(self._client), CLOSE)
            except TimeoutError:
                logger.warning("outputs were not acknowledged, and will be made again")

    async def _flush_and_close(self, client: AIOKafkaProducer) -> None:
        await self._dispatcher.flush()
        await client.stop()

    @property
    def client(self) -> AIOKafkaProducer:
        if self._client is None:
            raise RuntimeError("the sink has not been started")
        return self._client

    async def flush(self) -> None:
        """Waits for what was sent; `Sent` holds whether it arrived."""
        if self._client is not None:
            await self._dispatcher.flush()
            await self._client.flush()

    def limit(self, topic: str) -> int:
        """See `Sink.limit`: the topic's max.message.bytes."""
        return self._limits.get(topic, DEFAULT_LIMIT)

    def fits(self, parcel: Parcel) -> bool:
        """See `Sink.fits`."""
        try:
            RecordBatch(self.limit(parcel.topic), self.settings.compression).add(parcel)
        except Full:
            return False
        return True

    def partition_for(self, topic: str, key: bytes | None) -> int:
        """Returns the partition of a key, as the Java clients choose it (murmur2)."""
        partitions = sorted(self.client.client.cluster.partitions_for_topic(topic) or ())
        return int(self._partition(key, partitions, partitions))

    async def send(self, parcels: Sequence[Parcel], under: Span | None = None) -> Sent:
        """See `Sink.send`. Waits until a partition's previous batch was sent, which is the back-pressure.

        Raises DeliveryFailed for an output that its topic cannot take, which the loop never sends on purpose, and when the producer can
        no longer send.
        """
        addressed: dict[tuple[str, int], list[Parcel]] = {}
        for parcel in parcels:
            partition = parcel.partition
            if parcel.dead and (known := self._topics.get(parcel.topic)):
                partition %= known.partitions  # a dead-letter topic may have fewer partitions than its source
            addressed.setdefault((parcel.topic, partition), []).append(parcel)
        sent = _Sent(1)  # the last part is that all are handed over
        for (topic, partition), those in addressed.items():
            await self._queue(topic, partition, those, sent, under)
        self._dispatcher.push()
        sent.settle(None if under is None or under.current else Lapsed())
        return sent

    async def _queue(self, topic: str, partition: int, parcels: Sequence[Parcel], sent: Sent, under: Span | None) -> None:
        batches = pack(topic, parcels, self.limit(topic), self.settings.compression)
        client = self.client
        try:
            if client.client.cluster.leader_for_partition(TopicPartition(topic, partition)) is None:
                await client.client.force_metadata_update()  # it may have been added a moment ago
            for batch in batches:  # one after the other: their order is the outputs' order
                await self._dispatcher.room(topic, partition, under)
                if under is not None and not under.current:
                    return
                if not self._dispatcher.offer(batch, topic, partition, sent, under):
                    future = await client.send_batch(batch, topic, partition=partition)
                    sent.add()
                    future.add_done_callback(sent.settle_with)
        except KafkaError as error:
            raise _not_sent(error, f"{topic}/{partition}: ") from error
        except AssertionError as error:  # what aiokafka raises when the partition does not exist: one was added to the source alone
            raise DeliveryFailed(f"{topic} has no partition {partition}; give it as many as the topics whose outputs it takes") from error


class _Sent(Sent):
    """Outputs on their way to Kafka, whose errors are ours."""

    __slots__ = ()

    def settle(self, error: BaseException | None = None) -> None:
        super().settle(_not_sent(error) if isinstance(error, KafkaError) else error)


def _not_sent(error: KafkaError, where: str = "") -> TransportError:
    """Returns the error for outputs that the producer gave up on: TransportUnavailable when the brokers did not take them in time."""
    if error.retriable or isinstance(error, KafkaTimeoutError):
        return TransportUnavailable(
            f"{where}outputs could not be written for --broker-timeout seconds ({error!r}). What was not committed will be processed "
            "again. Has every partition a leader, and enough replicas in sync (min.insync.replicas)?"
        )
    return DeliveryFailed(f"{where}the broker refused a batch of outputs: {error!r}")


def pack(topic: str, parcels: Sequence[Parcel], limit: int, compression: str) -> list[RecordBatch]:
    """The parcels in as few batches as their size allows. Raises DeliveryFailed for an output that no batch takes."""
    batches: list[RecordBatch] = []
    todo = list(reversed(parcels))
    while todo:
        parcel = todo.pop()
        if batches:
            try:
                batches[-1].add(parcel)
                continue
            except Full:
                pass
        fresh = RecordBatch(limit if len(parcel) == 1 else min(limit, BATCH_BYTES), compression)
        try:
            fresh.add(parcel)
        except Full:
            if len(parcel) == 1:
                raise DeliveryFailed(f"the output is larger than {topic} takes ({limit} bytes: its max.message.bytes)") from None
            todo += reversed(parcel.halves())
        else:
            batches.append(fresh)
    return batches
