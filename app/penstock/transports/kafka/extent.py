"""A piece of a topic as a bounded source: each partition from one position to another, read without a group. Nothing is committed.

The end is determined when the source starts: records that arrive later are not part of it. Only committed records are read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from penstock.errors import RecordMissing, TopicMissing, TransportUnavailable
from penstock.settings import Settings
from penstock.transports.base import Abilities, size_of
from penstock.transports.checkpoint import Checkpoint
from penstock.transports.kafka.connection import aiokafka_arguments
from penstock.transports.tracker import Partition, Span, Tracker

__all__ = ["Bound", "KafkaExtent"]

Bound = int | datetime | None  # an offset of each partition, a time (the first record that is not older), or the edge of what there is

LOOK_MS = 500


class KafkaExtent:
    """The records of `topic` from `start` (inclusive) to `stop` (exclusive), at most `limit` of them; `begin` connects, `close` ends it.

    With a checkpoint, records that an earlier run finished are skipped.
    """

    abilities: Final = Abilities(replay=True, bounded=True)

    def __init__(
        self,
        settings: Settings,
        topic: str,
        *,
        start: Bound = None,
        stop: Bound = None,
        limit: int | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.positions = Tracker()
        self.total = 0
        self._settings, self._topic = settings, topic
        self._from, self._to = start, stop
        self._checkpoint = checkpoint or Checkpoint()
        self._limit = limit
        self._taken = 0  # records, of all runs together
        self._ends: dict[Partition, int] = {}
        self._begins: dict[Partition, int] = {}
        self._open = asyncio.Event()
        self._open.set()
        self._client: AIOKafkaConsumer

    @property
    def done(self) -> int:
        """Returns how many of the `total` offsets have been taken."""
        return sum((self.positions.expected(one) or begin) - begin for one, begin in self._begins.items())

    async def begin(self) -> None:
        """Connects and finds both edges.

        Raises TransportUnavailable, TopicMissing, and RecordMissing when `start` is an offset whose record was deleted.
        """
        patience = self._settings.broker_timeout
        self._client = AIOKafkaConsumer(
            **aiokafka_arguments(self._settings),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            max_partition_fetch_bytes=self._settings.fetch_bytes,
        )
        try:
            async with asyncio.timeout(max(patience, 1.0)):
                await self._client.start()
                await self._find_edges()
        except BaseException as error:  # also a start that was cancelled leaves a client to stop
            await self._client.stop()
            if isinstance(error, KafkaError | OSError | TimeoutError):
                raise TransportUnavailable(f"{self._topic} cannot be read: {error!r}") from error
            raise

    async def _find_edges(self) -> None:
        client, topic = self._client, self._topic
        partitions = sorted((await client._client.fetch_all_metadata()).partitions_for_topic(topic) or ())
        if not partitions:
            raise TopicMissing(f"there is no topic {topic}")
        places = [TopicPartition(topic, number) for number in partitions]
        client.assign(places)
        first, last = await client.beginning_offsets(places), await client.end_offsets(places)
        starts, stops = await self._edge(self._from, first, last, early=True), await self._edge(self._to, first, last, early=False)
        for place in places:
            partition = (topic, place.partition)
            kept = self._checkpoint.start(partition)
            begin = starts[place] if kept is None else kept
            if begin < first[place]:
                raise RecordMissing(f"{topic}/{place.partition}: offset {begin} was deleted (retention); the first one is {first[place]}")
            end = self._checkpoint.end(partition, max(min(stops[place], last[place]), begin))
            self._begins[partition], self._ends[partition] = begin, end
            client.seek(place, begin)
        self.total = sum(self._ends[one] - begin for one, begin in self._begins.items())
        self.positions.assign(self._begins)
        self._taken = self._checkpoint.rows

    async def _edge(self, bound: Bound, first: Mapping[Any, int], last: Mapping[Any, int], *, early: bool) -> dict[Any, int]:
        if bound is None:
            return dict(first if early else last)
        if isinstance(bound, int):
            return {place: min(bound, end) for place, end in last.items()}
        stamp = int(bound.timestamp() * 1000)
        found = await self._client.offsets_for_times(dict.fromkeys(last, stamp))
        return {place: last[place] if at is None else at.offset for place, at in found.items()}

    async def close(self) -> None:
        await self._client.stop()

    async def take(self, rows: int) -> Sequence[Span]:
        """See `Source.take`."""
        await self._open.wait()
        for (topic, partition), offset in self.positions.rewound().items():
            self._client.seek(TopicPartition(topic, partition), offset)
        while True:
            open_ones = [one for one, end in self._ends.items() if (self.positions.expected(one) or 0) < end]
            left = None if self._limit is None else self._limit - self._taken
            if not open_ones or left == 0:
                return ()
            rows = rows if left is None else min(rows, left)
            try:
                found = await self._client.getmany(*(TopicPartition(*one) for one in open_ones), timeout_ms=LOOK_MS, max_records=rows)
                spans = [span for one in open_ones if (span := await self._span(one, found.get(TopicPartition(*one), ()))) is not None]
            except KafkaError as error:
                raise TransportUnavailable(f"{self._topic} cannot be read: {error!r}") from error
            if spans:
                self._taken += sum(len(span.records) for span in spans)
                return spans

    async def _span(self, partition: Partition, found: Sequence[Any]) -> Span | None:
        """Returns the records read from a partition, up to its end; None when there are only transaction markers."""
        start, end = self.positions.expected(partition) or 0, self._ends[partition]
        records = [record for record in found if record.offset < end]
        reached = min(await self._client.position(TopicPartition(*partition)), end)
        reached = end if len(records) < len(found) else reached
        if records:
            reached = max(reached, records[-1].offset + 1)
            self._checkpoint.took(partition, start, reached, len(records))
            return self.positions.take(partition, start, reached, records, size_of(records))
        if reached > start:
            self._checkpoint.took(partition, start, reached, 0)
            self.positions.skip(partition, start, reached)
        return None

    def pause(self) -> None:
        """See `Source.pause`."""
        self._open.clear()

    def resume(self) -> None:
        """See `Source.resume`."""
        self._open.set()

    async def store(self, offsets: Mapping[Partition, int]) -> bool:
        """See `Source.store`. Stores in the checkpoint; no group commits."""
        self._checkpoint.save(offsets)
        return True
