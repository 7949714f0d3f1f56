"""The topics of tables: read from their begin by each worker, and followed while it runs. No group, and nothing is committed.

A worker scores nothing until it has read all that was there when it began, so that a lookup never misses a row only because of a restart.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol, cast

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from penstock.errors import SchemaWanted, TransportError, TransportUnavailable
from penstock.record import Header, Record
from penstock.settings import Settings
from penstock.telemetry import Metrics
from penstock.transports.kafka.connection import librdkafka_arguments, patience_of
from penstock.transports.tracker import Partition

__all__ = ["Reads", "Tables"]

logger = logging.getLogger(__name__)

TOGETHER: Final = 5_000  # records that are applied at once
WAIT: Final = 0.5  # seconds for a record
SCHEMA_SECONDS: Final = 5.0  # between two tries to fetch a schema
SHOWN: Final = 10  # records of a table that are no rows, and are logged


class Strange(Protocol):
    """A record that is no row, and why."""

    @property
    def record(self) -> Any: ...
    @property
    def reason(self) -> str: ...


class Reads(Protocol):
    """What makes rows of records."""

    def apply(self, records: Sequence[Record]) -> Sequence[Strange]:
        """Applies records, in the order of their topic. Raises SchemaWanted before it has changed anything."""

    def __len__(self) -> int:
        """Returns how many rows there are."""


class Tables:
    """The tables of a worker: `reads` are by the table's name, `topics` its topic. `lock` is held while rows change.

    `partitions` returns how many partitions a topic has now.
    """

    def __init__(
        self,
        settings: Settings,
        reads: Mapping[str, Reads],
        topics: Mapping[str, str],
        *,
        lock: asyncio.Lock,
        partitions: Callable[[str], int],
        metrics: Metrics,
    ) -> None:
        self.restoring = "reading the tables" if reads else ""  # what is under way, in words; empty when all was read
        self.waiting: dict[str, str] = {}  # by topic: which schema its records wait for, while the registry does not answer
        self._settings, self._reads, self._topics, self._lock = settings, reads, topics, lock
        self._partitions, self._metrics = partitions, metrics
        self._whole = asyncio.Event()
        self._assigned: set[Partition] = set()
        self._left: dict[Partition, int] = {}  # partitions that were not read yet to the end that they had, and that end
        self._read = 0
        self._strange: dict[str, int] = {}
        metrics.table_rows.set_function(lambda: {(name,): float(len(one)) for name, one in reads.items()})

    async def caught_up(self, current: Callable[[], bool]) -> None:
        """Waits until all tables were read to the end that they had, or the assignment is not `current` any more."""
        while self.restoring and current():
            try:
                async with asyncio.timeout(WAIT):
                    await self._whole.wait()
            except TimeoutError:
                pass

    async def follow(self) -> None:
        """Reads without end. Raises TransportError when a topic cannot be read, TransportUnavailable when no broker answers at first."""
        began = heard = time.monotonic()
        patience = patience_of(self._settings)
        consumer = await asyncio.to_thread(self._opened)
        try:
            while True:
                messages = await asyncio.to_thread(self._several, consumer)
                heard = time.monotonic() if messages else heard
                if self.restoring and time.monotonic() - heard > patience:
                    left = ", ".join(sorted({topic for topic, _ in self._left}))
                    raise TransportUnavailable(f"{left}: no broker has answered for {patience:g} s")
                for topic, records in self._sorted(messages).items():
                    for name in (name for name, one in self._topics.items() if one == topic):
                        await self._apply(name, records)
                if self.restoring:
                    self._show(began)
        except KafkaException as error:
            raise TransportUnavailable(f"the tables cannot be read: {error.args[0]}") from error
        finally:
            await asyncio.to_thread(consumer.close)

    def _opened(self) -> Consumer:
        return Consumer(
            {
                **librdkafka_arguments(self._settings),
                "group.id": "penstock-tables",  # required, and not used: nothing is committed and no group is joined
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "queued.max.messages.kbytes": 65536,
                "log_level": 2,
            }
        )

    def _several(self, consumer: Consumer) -> list[Message]:
        """Returns the next records as soon as there is one, or nothing after a while. In a thread."""
        self._assign(consumer)
        first = consumer.poll(WAIT)
        return [] if first is None else [first, *consumer.consume(TOGETHER, 0.0)]

    def _assign(self, consumer: Consumer) -> None:
        """Adds the partitions that are new."""
        wanted = {(topic, number) for topic in {*self._topics.values()} for number in range(self._partitions(topic))}
        if new := wanted - self._assigned:
            patience = patience_of(self._settings)
            self._left |= {one: consumer.get_watermark_offsets(TopicPartition(*one), timeout=patience)[1] for one in sorted(new)}
            consumer.incremental_assign([TopicPartition(*one, OFFSET_BEGINNING) for one in sorted(new)])
            self._assigned |= new

    def _sorted(self, messages: Sequence[Message]) -> dict[str, list[Record]]:
        """Returns the records by topic, in the order of their partitions."""
        found: dict[str, list[Record]] = {}
        for one in messages:
            topic, partition, error = one.topic() or "", one.partition() or 0, one.error()
            if error is None:
                stamp = one.timestamp()[1]
                headers = cast("Sequence[Header]", one.headers() or ())
                record = Record(topic, one.value(), one.key(), headers, stamp, partition, one.offset() or 0)
                found.setdefault(topic, []).append(record)
                if record.offset + 1 >= self._left.get((topic, partition), math.inf):
                    del self._left[topic, partition]
            elif error.code() == KafkaError._PARTITION_EOF:
                self._left.pop((topic, partition), None)
            elif not error.retriable():
                raise TransportError(f"{topic}/{partition} cannot be read: {error.str()}")
        return found

    async def _apply(self, name: str, records: Sequence[Record]) -> None:
        for one in await self._rows_of(name, records):
            self._metrics.table_refused.labels(name).inc()
            self._strange[name] = count = self._strange.get(name, 0) + 1
            if count <= SHOWN:
                logger.warning("tables.%s: %s is no row, so its key keeps the row it had: %s", name, one.record.position, one.reason)

    async def _rows_of(self, name: str, records: Sequence[Record]) -> Sequence[Strange]:
        """Applies the records, when all their schemas are known. Returns those that are no rows."""
        topic = self._topics[name]
        while True:
            try:
                async with self._lock:
                    found = self._reads[name].apply(records)
            except SchemaWanted as wanted:
                self.waiting[topic] = str(wanted)
                try:
                    await asyncio.to_thread(wanted.fetch)
                except TransportError as error:
                    logger.warning("%s: %s", topic, error)
                    await asyncio.sleep(SCHEMA_SECONDS)
            else:
                self.waiting.pop(topic, None)
                self._read += len(records)
                return found

    def _show(self, began: float) -> None:
        if self._left:
            self.restoring = f"reading the tables: {self._read:,} records so far"
            return
        self.restoring = ""
        self._whole.set()
        rows = ", ".join(f"{name} {len(one):,}" for name, one in self._reads.items())
        refused = f" ({sum(self._strange.values()):,} are no rows)" if self._strange else ""
        logger.info("read the tables: %s rows, of %s records%s in %.1f s", rows, f"{self._read:,}", refused, time.monotonic() - began)
