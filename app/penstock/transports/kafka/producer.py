"""The producer that Faust is given: record batches built here, sent as they are, each with a future that tells the truth.

A record costs 0.3 µs in a batch against 7.6 µs through `send`. The idempotent producer stays on, so a retry neither
doubles nor reorders. Nothing is swallowed: whoever sends awaits the futures, and offsets are committed after that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.partitioner import DefaultPartitioner
from faust.transport import producer as base

from penstock.errors import DeliveryFailed
from penstock.parcel import Parcel
from penstock.record import RecordLike
from penstock.transports.kafka.dispatch import Dispatcher, Turn
from penstock.transports.kafka.encode import Full, RecordBatch
from penstock.transports.kafka.options import FAUST_LOGGER, options_of

__all__ = ["Producer", "RecordTooLarge", "when_delivered"]

DEFAULT_LIMIT = 1_048_588  # max.message.bytes of a topic that says nothing, as brokers have it


class RecordTooLarge(DeliveryFailed):
    """The outputs to `inputs` are each larger than their topic takes. Nothing of the call was sent."""

    def __init__(self, topic: str, inputs: Sequence[RecordLike], limit: int) -> None:
        super().__init__(f"the output is larger than {topic} takes ({limit} bytes: its max.message.bytes, or our own limit for a batch)")
        self.inputs = inputs


class Producer(base.Producer):
    """Sends whole partitions' worth of records. `limits` gives max.message.bytes of each topic that it writes."""

    logger = FAUST_LOGGER

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.options = options_of(self.app)
        self.limits: Mapping[str, int] = self.options.limits
        self._partition = DefaultPartitioner()
        self._client: AIOKafkaProducer | None = None
        self._dispatcher: Dispatcher

    async def on_start(self) -> None:
        options = self.options
        self._client = AIOKafkaProducer(
            **options.connection,
            acks="all",
            enable_idempotence=True,
            linger_ms=0,
            max_batch_size=options.batch_bytes,
            max_request_size=options.batch_bytes * 4,
            compression_type=None if options.compression == "none" else options.compression,
            request_timeout_ms=int(options.broker_timeout * 1000),
        )
        await self._client.start()
        self._dispatcher = Dispatcher(self._client)
        # The partitions of what will be written must be known before the first key is given one.
        await asyncio.gather(*(self._client.partitions_for(topic) for topic in options.writes))

    async def on_stop(self) -> None:
        if self._client is not None:
            await self._dispatcher.flush()
            await self._client.stop()

    @property
    def client(self) -> AIOKafkaProducer:
        if self._client is None:
            raise RuntimeError("the producer has not been started")
        return self._client

    async def flush(self) -> None:
        """Waits for what was sent; the futures tell whether it arrived."""
        if self._client is not None:
            await self._dispatcher.flush()
            await self._client.flush()

    def partition_for(self, topic: str, key: bytes | None) -> int:
        """The partition of a key, as the Java clients choose it (murmur2)."""
        partitions = sorted(self.client.client.cluster.partitions_for_topic(topic) or ())
        return int(self._partition(key, partitions, partitions))

    async def send_parcels(self, topic: str, partition: int, parcels: Sequence[Parcel]) -> list[Turn | asyncio.Future[Any]]:
        """Queues the parcels, all of one partition, in order; returns futures that are done when all of them are acknowledged.

        `push` puts them on the wire. Waits while the partition's previous batch has not been put there, which is the
        back-pressure. Raises RecordTooLarge before anything is sent, and DeliveryFailed when the producer can no longer send.
        """
        limit = min(self.limits.get(topic, DEFAULT_LIMIT), self.options.batch_bytes)
        batches = _pack(topic, parcels, limit, self.options.compression)
        client = self.client
        futures: list[Turn | asyncio.Future[Any]] = []
        try:
            for batch in batches:  # one after the other: their order is the outputs' order
                await self._dispatcher.room(topic, partition)
                future = self._dispatcher.offer(batch, topic, partition)
                futures += (future or await client.send_batch(batch, topic, partition=partition),)
        except KafkaError as error:
            raise DeliveryFailed(f"{topic}/{partition}: {error!r}") from error
        except AssertionError as error:  # how aiokafka says that the partition does not exist: one was added to the source alone
            raise DeliveryFailed(f"{topic} has no partition {partition}; give it as many as the topics whose outputs it takes") from error
        return futures

    def push(self) -> None:
        """Puts on the wire what was queued, as soon as nothing is in its way."""
        self._dispatcher.push()


def _pack(topic: str, parcels: Sequence[Parcel], limit: int, compression: str) -> list[RecordBatch]:
    """The parcels in as few batches as their size allows. Raises RecordTooLarge with all outputs that no batch takes."""
    batches: list[RecordBatch] = []
    large: list[RecordLike] = []
    todo = list(reversed(parcels))
    while todo:
        parcel = todo.pop()
        if batches:
            try:
                batches[-1].add(parcel)
                continue
            except Full:
                pass
        fresh = RecordBatch(limit, compression)
        try:
            fresh.add(parcel)
        except Full:
            if len(parcel) == 1:
                large += parcel.inputs
            else:
                todo += reversed(parcel.halves())
        else:
            batches.append(fresh)
    if large:
        raise RecordTooLarge(topic, large, limit)
    return batches


def when_delivered(futures: Iterable[Turn | asyncio.Future[Any]], then: Callable[[DeliveryFailed | None], None]) -> None:
    """Calls `then` once all these futures of `send_parcels` are done, with the broker's reason if it refused a batch. It must not raise."""
    left = set(futures)
    if not left:
        then(None)
        return
    refused: list[DeliveryFailed] = []

    def settled(future: Turn | asyncio.Future[Any]) -> None:
        left.discard(future)
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        if error is not None:
            refused.append(DeliveryFailed(f"the broker refused a batch of outputs: {error!r}"))
            refused[-1].__cause__ = error
        if not left:
            then(refused[0] if refused else None)

    for future in tuple(left):
        future.add_done_callback(settled)
