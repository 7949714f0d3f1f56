"""A piece of a topic as a bounded source: each partition from one position to another, read without a group. Nothing is committed.

The end is determined when the source starts: records that arrive later are not part of it. Only committed records are read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from penstock.errors import RecordMissing, TopicMissing, TransportUnavailable
from penstock.settings import Settings
from penstock.transports.base import Abilities, cut, size_of
from penstock.transports.checkpoint import Checkpoint
from penstock.transports.kafka.connection import aiokafka_arguments
from penstock.transports.kafka.fetch import Fetched, RawFetcher
from penstock.transports.kafka.metadata import steady
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
        self._raw: RawFetcher

    @property
    def done(self) -> int:
        """Returns how many of the `total` offsets have been taken."""
        return sum((self.positions.expected(one) or begin) - begin for one, begin in self._begins.items())

    async def begin(self) -> None:
        """Connects and finds both edges.

        Raises TransportUnavailable, TopicMissing, and RecordMissing when `start` is an offset whose record was deleted, and when the
        topic is shorter than it was when the run to resume began.
        """
        patience = self._settings.broker_timeout
        self._client = steady(
            AIOKafkaConsumer(
                **aiokafka_arguments(self._settings),
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="none",
                isolation_level="read_committed",
                max_partition_fetch_bytes=self._settings.fetch_bytes,
            )
        )
        try:
            async with asyncio.timeout(max(patience, 1.0)):
                await self._client.start()
                self._raw = RawFetcher(self._client, most=self._settings.max_in_flight_bytes, budget=self._settings.max_unpacked_bytes)
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
            if end > last[place]:  # it would be waited for without end
                made = "was the topic created again?"
                raise RecordMissing(
                    f"{topic}/{place.partition}: the run to resume reads to offset {end}, and it ends at {last[place]}: {made}"
                )
            self._begins[partition], self._ends[partition] = begin, end
            client.seek(place, begin)
            if begin == end:
                client.pause(place)
        self.total = sum(self._ends[one] - begin for one, begin in self._begins.items())
        self.positions.assign(self._begins)
        self._taken = self._checkpoint.rows

    async def _edge(self, bound: Bound, first: Mapping[Any, int], last: Mapping[Any, int], *, early: bool) -> dict[Any, int]:
        if bound is None:
            return dict(first if early else last)
        if isinstance(bound, int):
            return {place: min(bound, end) for place, end in last.items()}
        stamp = max(int(bound.timestamp() * 1000), 0)  # brokers refuse a time before 1970, as no record has one
        found = await self._client.offsets_for_times(dict.fromkeys(last, stamp))
        return {place: last[place] if at is None else at.offset for place, at in found.items()}

    async def close(self) -> None:
        await self._client.stop()

    async def take(self, rows: int) -> Sequence[Span]:
        """See `Source.take`."""
        await self._open.wait()
        for (topic, partition), offset in self.positions.rewound().items():
            self._client.seek(TopicPartition(topic, partition), offset)
        while any((self.positions.expected(one) or 0) < end for one, end in self._ends.items()):
            left = None if self._limit is None else self._limit - self._taken
            if left == 0:
                break
            try:
                self._raw.check()
                await self._raw.wait(LOOK_MS / 1000)
                spans = [span for one in self._raw.take(self._expected, self._seek) for span in self._spans(one, rows)]
            except KafkaError as error:
                raise TransportUnavailable(f"{self._topic} cannot be read: {error!r}") from error
            if spans:
                return spans
        return ()

    def _expected(self, partition: Partition) -> int | None:
        """Returns the next position of a partition; None when nothing more is wanted of it."""
        at = self.positions.expected(partition)
        return None if at is None or at >= self._ends[partition] or self._taken == self._limit else at

    def _seek(self, partition: Partition, expected: int, found: int | None) -> None:
        if found is None:
            raise RecordMissing(f"{partition[0]}/{partition[1]}: offset {expected} is no longer there (retention)")
        self._client.seek(TopicPartition(*partition), expected)

    def _spans(self, fetched: Fetched, rows: int) -> Iterator[Span]:
        """Yields the records of a partition up to its end and the limit; positions without a record are passed over."""
        partition, start = fetched.partition, fetched.start
        if start >= self._ends[partition] or self._taken == self._limit:
            return
        end = min(fetched.end, self._ends[partition])
        records = [record for record in fetched.records if record.offset < end]
        if self._limit is not None and len(records) > self._limit - self._taken:
            records = records[: self._limit - self._taken]
            end = records[-1].offset + 1
        self._taken += len(records)
        if end == self._ends[partition]:
            self._client.pause(TopicPartition(*partition))
        if not records:
            self._checkpoint.took(partition, start, end, 0)
            self.positions.skip(partition, start, end)
        for first, last, some in cut(start, end, records, rows):
            self._checkpoint.took(partition, first, last, len(some))
            yield self.positions.take(partition, first, last, some, size_of(some))

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
