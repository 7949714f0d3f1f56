"""Takes fetched record batches out of aiokafka as they were parsed, without another Python object per record.

aiokafka spends two thirds of its time per record on building `ConsumerRecord`s. This reads the same fetch results one
step earlier, with the position that was requested, which makes a gap in the log provable: records are accepted only
when the fetch began at exactly the expected position, so records that are missing between that position and the first
record can only have been left out by the broker.

A fetch that follows another is sent from here through `direct`, and its answer is kept here until it is taken. Until then its
broker counts as busy, so that aiokafka does not ask for the same records. aiokafka sends every other fetch: the first of an
assignment, one after an error or a change of leader, and one when a partition has no position.

Private parts of aiokafka 0.14.0 that are touched, all of them in this file: `FetchResult`, `PartitionRecords`,
`GroupCoordinator.check_errors`; of `Fetcher`: `_records` (read and emptied), `_in_flight`, `_subscriptions`, `_client`,
`_closed`, `_create_fetch_waiter`, `_fetch_waiters`, `_notify`, `_wait_consume_future`, `error_future`, `_get_actions_per_node`,
`_select_read_replica`, `_fetch_min_bytes`, `_fetch_max_wait_ms`, `_fetch_max_bytes`, `_max_partition_fetch_bytes`, `_isolation_level`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.fetcher import READ_COMMITTED, FetchResult, PartitionRecords
from aiokafka.errors import CorruptRecordException, KafkaError, OffsetOutOfRangeError
from aiokafka.record import MemoryRecords
from aiokafka.structs import TopicPartition

from penstock.native import native as installed
from penstock.record import RecordLike
from penstock.transports.kafka.direct import Direct, Line
from penstock.transports.kafka.wire import FETCH, fetch_request, parse_fetch
from penstock.transports.tracker import Partition

__all__ = ["Fetched", "RawFetcher"]

logger = logging.getLogger(__name__)


class Fetched(NamedTuple):
    """Records of one partition as one fetch brought them: asked for at `start`, read up to `end` (exclusive)."""

    partition: Partition
    start: int
    end: int
    records: list[RecordLike]


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a fetch of ours brought for one partition: the records from `start` on, as bytes."""

    tp: TopicPartition
    assignment: Any
    start: int
    records: bytes
    aborted: Sequence[tuple[int, int]] = ()

    def current(self) -> bool:
        """Returns whether the partition is still at the position that this was requested for."""
        if not self.assignment.active:
            return False
        state = self.assignment.state_value(self.tp)
        return not state.paused and state.position == self.start

    def unpack(self, *, native: bool = True) -> tuple[list[RecordLike], int]:
        """Returns the records as they were parsed, and the position after them. Raises CorruptRecordException.

        `native` allows the native part, where it is installed.
        """
        if native and installed is not None and not self.aborted:
            found = installed.unpack_fetch(self.records, self.start)
            if found is not None:
                return found
        return _walk(PartitionRecords(self.tp, MemoryRecords(self.records), self.aborted, self.start, None, None, True, READ_COMMITTED))


class RawFetcher:
    """The fetched records of a started consumer. After a small fetch the next one gathers for `linger_ms`, at the broker.

    A fetch is answered as soon as one event is available. At low rates that would be a round trip, a Faust event, the model
    calls and a produce request for a single row. A short wait shares them among several rows, unless events are so rare
    that no other would arrive in time. The broker waits, in whole milliseconds (rounded up): a timer here would wake the
    worker once more, and events that arrive while the request is under way would be left for the next one.
    """

    SMALL = 64  # records; below, a fetch was not part of a backlog
    ENOUGH = 65536  # bytes that end a wait early

    def __init__(self, consumer: AIOKafkaConsumer, *, linger_ms: float = 0.0) -> None:
        self._fetcher = fetcher = consumer._fetcher
        self._coordinator = consumer._coordinator
        self._limits = fetcher._fetch_min_bytes, fetcher._fetch_max_wait_ms
        self._gathering = self.ENOUGH, math.ceil(linger_ms)
        self._gather = False  # whether the next fetch is to gather
        self._rare = linger_ms / 1000 * 2  # seconds between two events; when it is longer, a wait saves no fetch
        self._last = time.monotonic()  # when something was taken
        self._requests = fetcher._get_actions_per_node
        fetcher._get_actions_per_node = self._next_requests
        self._direct = Direct(fetcher._client)
        self._answers: dict[TopicPartition, _Answer] = {}  # not taken yet
        self._holding: set[int] = set()  # brokers whose answer is among these; in flight for aiokafka until it is taken
        self._odd: set[int] = set()  # brokers whose last answer only aiokafka understands
        self._served: dict[TopicPartition, float] = {}  # when a partition last brought records

    def check(self) -> None:
        """Raises the error that has ended aiokafka's tasks.

        aiokafka joins the group again only when it is called, and does not report a task that has died. Without this call, a
        worker would hold its partitions and never read.
        """
        self._coordinator.check_errors()
        if self._fetcher.error_future.done():
            self._fetcher.error_future.result()
            raise KafkaError("aiokafka has stopped fetching")

    async def wait(self, timeout: float) -> None:
        """Waits until something has been fetched, at most `timeout` seconds. Raises the error that made fetching impossible."""
        if self._answers or self._fetcher._records:
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
        """Returns everything that was fetched, by partition, each from its expected position.

        A result that begins elsewhere is dropped, and `seek(partition, expected, found)` is called instead, with None when
        the broker has no such offset. Raises its other errors (not authorised, corrupt, record larger than the fetch size).
        """
        taken = 0
        try:
            for fetched in self._ready(expected, seek):
                taken += len(fetched.records)
                yield fetched
        finally:
            self._release()
            self._ask_again(taken)

    def _ready(self, expected: Callable[[Partition], int | None], seek: Callable[[Partition, int, int | None], None]) -> Iterator[Fetched]:
        fetcher = self._fetcher
        answers, self._answers = self._answers, {}
        for tp, answer in answers.items():
            at = expected(tp)
            if at is None or not answer.current():
                continue
            if answer.start != at:
                seek(tp, at, answer.start)
                continue
            yield _read(tp, answer.start, answer.assignment, answer.unpack)
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
            records = result._partition_records
            if records.next_fetch_offset != at:
                seek(tp, at, records.next_fetch_offset)
                continue
            yield _read(tp, at, result._assignment, partial(_walk, records))

    # -- asking --------------------------------------------------------------------------------------------------

    def _release(self) -> None:
        """Lets the brokers be asked again whose answers were taken or dropped."""
        self._fetcher._in_flight -= self._holding
        self._holding.clear()

    def _ask_again(self, taken: int) -> None:
        now = time.monotonic()
        self._gather = taken < self.SMALL and now - self._last < taken * self._rare
        if taken:
            self._last = now
        if not self._ask():
            self._fetcher._notify(self._fetcher._wait_consume_future)

    def _next_requests(self, assignment: Any) -> tuple[Any, ...]:
        """Returns the requests that aiokafka is to send next."""
        fetcher = self._fetcher
        if self._answers and not any(answer.assignment is assignment for answer in self._answers.values()):
            self._answers.clear()  # of an assignment that has ended
            self._release()
        fetcher._fetch_min_bytes, fetcher._fetch_max_wait_ms = self._gathering if self._gather else self._limits
        actions: tuple[Any, ...] = self._requests(assignment)
        requests = actions[0]
        if requests:
            self._asked()
        self._odd.difference_update(node for node, _ in requests)
        return actions

    def _asked(self) -> None:
        self._gather = False  # one fetch gathers; if it brings nothing, the one after waits for a first event

    def _ask(self) -> bool:
        """Asks each broker that has answered for what comes next. Returns False when aiokafka has to handle one of them."""
        fetcher = self._fetcher
        subscription = fetcher._subscriptions.subscription
        assignment = None if subscription is None else subscription.assignment
        if assignment is None or not assignment.active or fetcher._closed:
            return False
        wanted: dict[int, list[tuple[TopicPartition, int]]] = {}
        busy: set[int] = set(fetcher._in_flight)
        alone = True
        for tp in assignment.tps:
            node, state = fetcher._select_read_replica(tp), assignment.state_value(tp)
            if tp in fetcher._records:
                busy.add(node)
            elif node in busy or state.paused:
                continue
            elif node in (None, -1) or node in self._odd or not state.has_valid_position:
                alone = False
                busy.add(node)
            else:
                wanted.setdefault(node, []).append((tp, state.position))
        limits = self._gathering if self._gather else self._limits
        for node, positions in wanted.items():
            if node in busy:
                continue
            if line := self._direct.line(node, FETCH):
                self._ask_one(line, node, assignment, positions, limits)
                self._asked()
            else:
                alone = False
        return alone and bool(wanted)

    def _ask_one(
        self, line: Line, node: Any, assignment: Any, positions: list[tuple[TopicPartition, int]], limits: tuple[int, int]
    ) -> None:
        fetcher = self._fetcher
        least, wait = limits
        if len(positions) * fetcher._max_partition_fetch_bytes > fetcher._fetch_max_bytes:
            # A broker fills an answer in the request's order: the partition that has waited longest comes first, or the last would starve.
            positions.sort(key=lambda one: self._served.get(one[0], 0.0))
        topics: dict[str, list[tuple[int, int]]] = {}
        for tp, position in positions:
            topics.setdefault(tp.topic, []).append((tp.partition, position))
        body = fetch_request(
            topics,
            wait_ms=wait,
            min_bytes=least,
            max_bytes=fetcher._fetch_max_bytes,
            partition_bytes=fetcher._max_partition_fetch_bytes,
            isolation=fetcher._isolation_level,
        )

        def answered(data: bytes, at: int) -> None:
            fetcher._in_flight.discard(node)
            if not assignment.active:
                fetcher._notify(fetcher._wait_consume_future)  # it may wait for this before it asks for the next assignment's
                return
            if not self._keep(data, at, assignment, dict(positions)):
                self._odd.add(node)
            if any(tp in self._answers for tp, _ in positions):
                self._holding.add(node)
                fetcher._in_flight.add(node)
            if self._answers:
                for waiter in fetcher._fetch_waiters:
                    fetcher._notify(waiter)
            elif not self._ask():
                fetcher._notify(fetcher._wait_consume_future)

        def lost(error: KafkaError) -> None:
            fetcher._in_flight.discard(node)
            fetcher._notify(fetcher._wait_consume_future)

        fetcher._in_flight.add(node)
        line.call(FETCH, body, answered, lost)

    def _keep(self, data: bytes, at: int, assignment: Any, positions: dict[TopicPartition, int]) -> bool:
        """Keeps what was fetched until it is taken. Returns False when aiokafka should ask, and find why there are no records."""
        try:
            error, parts = parse_fetch(data, at)
        except ValueError as problem:
            logger.warning("a fetch is repeated: %s", problem)
            return False
        plain = not error
        now = time.time()
        for part in parts:
            tp = TopicPartition(part.topic, part.partition)
            state = assignment.state_value(tp)
            if part.error:
                plain = False
                continue
            if not state.has_valid_position or state.position != positions[tp]:
                continue
            state.highwater, state.lso, state.timestamp = part.high_watermark, part.last_stable_offset, int(now * 1000)
            if not part.records:
                continue
            if 12 + int.from_bytes(part.records[8:12]) > len(part.records):  # not one whole batch fits into a fetch
                plain = False
                continue
            self._served[tp] = now
            self._answers[tp] = _Answer(tp, assignment, positions[tp], part.records, part.aborted)
        return plain


def _read(tp: TopicPartition, start: int, assignment: Any, read: Callable[[], tuple[list[RecordLike], int]]) -> Fetched:
    rows, end = read()
    assignment.state_value(tp).consumed_to(end)
    return Fetched((tp.topic, tp.partition), start, end, rows)


def _resolve(waiter: asyncio.Future[Any]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _walk(records: PartitionRecords) -> tuple[list[RecordLike], int]:
    """Returns all committed records from `records.next_fetch_offset` on, as they were parsed, and the position after them.

    The same walk as aiokafka's `PartitionRecords._unpack_records`, a record batch instead of a record at a time.
    """
    rows: list[RecordLike] = []
    source = records._records
    start: int = records.next_fetch_offset
    position = start
    while source.has_next():
        batch = source.next_batch()
        if records._check_crcs and not batch.validate_crc():
            raise CorruptRecordException(f"{records._tp}: wrong checksum in the batch at offset {batch.base_offset}")
        aborted = False
        if records._isolation_level == READ_COMMITTED and batch.producer_id is not None:
            records._consume_aborted_up_to(batch.base_offset)
            if batch.is_control_batch and records._contains_abort_marker(batch):
                records._aborted_producers.discard(batch.producer_id)
            aborted = batch.is_transactional and batch.producer_id in records._aborted_producers
        if not batch.is_control_batch and not aborted:
            # A broker sends whole batches, also the part before the position that was requested.
            if batch.base_offset < start:
                rows.extend(record for record in batch if record.offset >= start)
            else:
                rows.extend(batch)
        # The batch keeps its last offset when compaction has removed its last record.
        position = max(position, batch.next_offset)
    records._records_iterator = None  # a cycle that would keep the fetched bytes until the collector comes
    return rows, position
