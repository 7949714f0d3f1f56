"""Takes fetched record batches out of aiokafka as they were parsed, without a Python object more per record.

aiokafka spends two thirds of its time a record on building `ConsumerRecord`s. This reads the same fetch results one
step earlier, and with the position that the broker was asked for, which is what makes a gap in the log provable:
records are accepted only when the fetch began at exactly the expected position, so whatever is missing between that
position and the first record was left out by the broker and by nobody else.

Private parts of aiokafka 0.14.0 that are touched, all of them in this file: `Fetcher._records`, `FetchResult`,
`PartitionRecords`, `MemoryRecords.__reduce__`, `Fetcher._create_fetch_waiter`, `Fetcher._notify`, `Fetcher._wait_consume_future`,
`Fetcher.error_future`, `Fetcher._get_actions_per_node`, `Fetcher._fetch_min_bytes`, `Fetcher._fetch_max_wait_ms`,
`GroupCoordinator.check_errors`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.fetcher import READ_COMMITTED, FetchResult, PartitionRecords
from aiokafka.errors import CorruptRecordException, KafkaError, OffsetOutOfRangeError

from penstock.native import Native
from penstock.native import native as installed
from penstock.record import RecordLike
from penstock.transports.kafka.tracker import Partition

__all__ = ["Fetched", "RawFetcher"]

_LENGTH, _CRC_END = 8, 21  # positions in a record batch: of its length, and of what its checksum covers


class Fetched(NamedTuple):
    """Records of one partition as one fetch brought them: asked for at `start`, read up to `end` (exclusive)."""

    partition: Partition
    start: int
    end: int
    records: list[RecordLike]


class RawFetcher:
    """The fetched records of a started consumer. After a small fetch the next one gathers for `linger_ms`, at the broker.

    A fetch is answered as soon as one event is there. At low rates that would be a round trip, a Faust event, the model
    calls and a produce request for a single row; a short wait shares them among several, unless events are so rare that
    it would bring none. It is the broker that waits, in whole milliseconds (rounded up): a timer here would be one more
    time to wake up, and what comes while the request is on its way would be left for the next one.
    """

    SMALL = 64  # records; below, a fetch was not part of a backlog
    ENOUGH = 65536  # bytes that end a wait early

    def __init__(self, consumer: AIOKafkaConsumer, *, linger_ms: float = 0.0) -> None:
        self._fetcher = fetcher = consumer._fetcher
        self._coordinator = consumer._coordinator
        self._limits = fetcher._fetch_min_bytes, fetcher._fetch_max_wait_ms
        self._gathering = self.ENOUGH, math.ceil(linger_ms)
        self._gather = False  # whether the next fetch is to gather
        self._rare = linger_ms / 1000 * 2  # seconds between two events, from which on waiting is not worth a fetch
        self._last = time.monotonic()  # when something was taken
        self._requests = fetcher._get_actions_per_node
        fetcher._get_actions_per_node = self._next_requests

    def check(self) -> None:
        """Raises what has ended aiokafka's own tasks.

        It waits for somebody to ask before it joins the group again, and a task that has died tells nobody: unasked, a
        worker would hold its partitions and read nothing for ever.
        """
        self._coordinator.check_errors()
        if self._fetcher.error_future.done():
            self._fetcher.error_future.result()
            raise KafkaError("aiokafka has stopped fetching")

    async def wait(self, timeout: float) -> None:
        """Until something has been fetched, at most `timeout` seconds. Raises what made fetching impossible."""
        if self._fetcher._records:
            return
        waiter = self._fetcher._create_fetch_waiter()
        handle = asyncio.get_running_loop().call_later(timeout, _resolve, waiter)
        try:
            await waiter
        finally:
            handle.cancel()
            if not waiter.done():
                waiter.cancel()

    def take(self, expected: Callable[[Partition], int | None], seek: Callable[[Partition, int, int | None], None]) -> Iterator[Fetched]:
        """Everything that lies ready, partition by partition, each from its expected position.

        A result that begins elsewhere is dropped, and `seek(partition, expected, found)` is called instead, with None when
        the broker has no such offset. Raises its other errors (not authorised, corrupt, record larger than the fetch size).
        """
        fetcher = self._fetcher
        taken = 0
        try:
            for tp, result in list(fetcher._records.items()):
                del fetcher._records[tp]
                at = expected(tp)
                if at is None:
                    continue
                if type(result) is not FetchResult:
                    try:
                        result.check_raise()
                    except OffsetOutOfRangeError:
                        seek(tp, at, None)
                        continue
                if not result.has_more() or not result.check_assignment(tp):
                    continue
                records: PartitionRecords = result._partition_records
                start = records.next_fetch_offset
                if start != at:
                    seek(tp, at, start)
                    continue
                rows = _unpack(records)
                records._records_iterator = None  # a cycle that would keep the fetched bytes until the collector comes
                result._assignment.state_value(tp).consumed_to(records.next_fetch_offset)
                taken += len(rows)
                yield Fetched((tp.topic, tp.partition), start, records.next_fetch_offset, rows)
        finally:
            self._ask_again(taken)

    def _ask_again(self, taken: int) -> None:
        now = time.monotonic()
        self._gather = taken < self.SMALL and now - self._last < taken * self._rare
        if taken:
            self._last = now
        self._fetcher._notify(self._fetcher._wait_consume_future)

    def _next_requests(self, assignment: Any) -> tuple[Any, ...]:
        """What aiokafka is to ask the brokers next. One fetch gathers; if it brings nothing, the one after waits for a first event."""
        fetcher = self._fetcher
        fetcher._fetch_min_bytes, fetcher._fetch_max_wait_ms = self._gathering if self._gather else self._limits
        actions: tuple[Any, ...] = self._requests(assignment)
        if actions[0]:  # fetch requests
            self._gather = False
        return actions


def _resolve(waiter: asyncio.Future[Any]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _unpack(records: PartitionRecords, *, native: bool = True) -> list[RecordLike]:
    """All committed records from `records.next_fetch_offset` on, as they were parsed; moves `next_fetch_offset`.

    The same walk as aiokafka's `PartitionRecords._unpack_records`, a record batch instead of a record at a time.
    `native` allows the native part, where it is installed.
    """
    rows: list[RecordLike] = []
    source = records._records
    part = installed if native else None
    data, stop = (None, 0) if part is None else _bytes_of(source)
    while source.has_next():
        batch = source.next_batch()
        start = stop
        raw = None
        if data is not None:
            stop += 12 + int.from_bytes(data[start + _LENGTH : start + 12])
            raw = data if batch.magic == 2 else None  # older batches are aiokafka's
        if records._check_crcs and not (
            batch.validate_crc() if raw is None or part is None else part.crc32c(memoryview(raw)[start + _CRC_END : stop]) == batch.crc
        ):
            raise CorruptRecordException(f"{records._tp}: wrong checksum in the batch at offset {batch.base_offset}")
        if records._isolation_level == READ_COMMITTED and batch.producer_id is not None:
            records._consume_aborted_up_to(batch.base_offset)
            if batch.is_control_batch and records._contains_abort_marker(batch):
                records._aborted_producers.discard(batch.producer_id)
            if batch.is_transactional and batch.producer_id in records._aborted_producers:
                records.next_fetch_offset = batch.next_offset
                continue
        if not batch.is_control_batch:
            if part is not None and raw is not None and not batch.compression_type:
                rows += _records(part, raw, start, records)
            # A compressed batch is sent whole, also the part before the position that was asked for.
            elif batch.base_offset < records.next_fetch_offset:
                rows.extend(record for record in batch if record.offset >= records.next_fetch_offset)
            else:
                rows.extend(batch)
        # The batch keeps its last offset when compaction has removed its last record.
        records.next_fetch_offset = batch.next_offset
    return rows


def _bytes_of(source: Any) -> tuple[bytes | None, int]:
    """What a `MemoryRecords` parses, and where it stands: it tells only who would copy it. None, when it does not tell."""
    match source.__reduce__():
        case (_, _, (bytes() as data, int(at))):
            return data, at
        case _:
            return None, 0


def _records(part: Native, data: bytes, start: int, records: PartitionRecords) -> list[RecordLike]:
    try:
        return part.unpack_records(data, start, records.next_fetch_offset)
    except ValueError as error:
        raise CorruptRecordException(f"{records._tp}: {error}") from error
