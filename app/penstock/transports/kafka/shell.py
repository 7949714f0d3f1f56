"""What Faust asks of a consumer and our loop has no use for, so that `consumer` holds the loop alone.

Faust's own answers keep offsets record by record, in ways that lose events; here they are answered by the tracker, by
the client, or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.structs import TopicPartition
from faust.transport import consumer as base
from faust.types import TP, ConsumerMessage

from penstock.errors import TransportError
from penstock.transports.kafka.options import FAUST_LOGGER
from penstock.transports.kafka.tracker import Partition, Tracker

__all__ = ["Shell"]


class Shell(base.Consumer):
    """Faust's consumer without its bookkeeping: the client and the tracker of whoever fills it."""

    logger = FAUST_LOGGER
    consumer_stopped_errors = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tracker = Tracker()
        self._client: AIOKafkaConsumer | None = None
        self._listener = Listener(self)

    @property
    def client(self) -> AIOKafkaConsumer:
        if self._client is None:
            raise RuntimeError("the consumer has not been started")
        return self._client

    def close(self) -> None:
        """Faust calls this when a rebalance meets a stopping app; `on_stop` closes the client."""

    async def subscribe(self, topics: Iterable[str]) -> None:
        self.client.subscribe(topics=sorted(topics), listener=self._listener)

    def assignment(self) -> set[TP]:
        return {TP(tp.topic, tp.partition) for tp in self._client.assignment()} if self._client is not None else set()

    def track_message(self, message: Any) -> None:
        """Nothing: spans track."""

    def ack(self, message: Any) -> bool:
        """Nothing: `finish` acknowledges, when the outputs have been."""
        return False

    async def verify_all_partitions_active(self) -> None:
        """Nothing: `_watch_broker` watches."""

    def on_buffer_full(self, tp: TP) -> None:
        """Nothing: `_room` bounds what is in flight, by batches and bytes."""

    on_buffer_drop = on_buffer_full

    def highwater(self, tp: TP) -> int:
        return self.end_of((tp.topic, tp.partition)) or 0

    def end_of(self, partition: Partition) -> int | None:
        """The last stable offset as the partition's last fetch gave it: what is behind it cannot be read yet.

        None before the first answer, or when the partition is not assigned (any more).
        """
        asked = TopicPartition(*partition)
        if self._client is None or asked not in self._client.assignment():
            return None
        end = self._client.last_stable_offset(asked)
        return None if end is None or end < 0 else int(end)

    def heard_of(self, partition: Partition) -> float | None:
        """When a fetch of the partition was answered last, in seconds since the epoch; None as for `end_of`."""
        asked = TopicPartition(*partition)
        if self._client is None or asked not in self._client.assignment():
            return None
        at = self._client.last_poll_timestamp(asked)
        return None if at is None else at / 1000

    def topic_partitions(self, topic: str) -> int | None:
        partitions = self._client.partitions_for_topic(topic) if self._client is not None else None
        return len(partitions) if partitions else None

    def key_partition(self, topic: str, key: bytes | None, partition: int | None = None) -> int | None:
        return partition

    async def position(self, tp: TP) -> int | None:
        return self.tracker.expected((tp.topic, tp.partition))

    async def seek_to_committed(self) -> Mapping[TP, int]:
        await self.perform_seek()
        return {TP(*partition): self.tracker.expected(partition) or 0 for partition in self.tracker.partitions}

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        return cast(Mapping[TP, int], await self.client.beginning_offsets(partitions))

    async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:
        return cast(Mapping[TP, int], await self.client.end_offsets(partitions))

    async def create_topic(self, topic: str, *args: Any, **kwargs: Any) -> None:
        raise TransportError(f"topic {topic!r} is not created by a worker: run `penstock topics create`")

    def _new_topicpartition(self, topic: str, partition: int) -> TP:
        return TP(topic, partition)

    # Tables, transactions and per-record fetching are Faust features that this transport does not carry.

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        raise TransportError("offsets are committed by spans")

    async def _getmany(self, active_partitions: Any, timeout: float) -> Any:
        raise TransportError("records are fetched by batches")

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        raise TransportError("records are fetched by batches")

    async def _seek(self, partition: TP, offset: int) -> None:
        raise TransportError("positions are kept by the tracker")

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        raise TransportError("positions are kept by the tracker")


class Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is untyped
    """Passes aiokafka's rebalance callbacks on to Faust, in the same loop."""

    def __init__(self, consumer: Shell) -> None:
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self._consumer.app.on_rebalance_start()
        await self._consumer.on_partitions_revoked({TP(tp.topic, tp.partition) for tp in revoked})

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        consumer = self._consumer
        generation = consumer.client._coordinator.generation
        consumer.app.consumer_generation_id = generation
        await consumer.on_partitions_assigned({TP(tp.topic, tp.partition) for tp in assigned}, generation)
