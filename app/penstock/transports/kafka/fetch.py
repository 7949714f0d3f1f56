"""Takes fetched record batches out of aiokafka as bytes, which `records` reads.

aiokafka spends two thirds of its time per record on building `ConsumerRecord`s, and one record that it cannot parse ends it. This
reads the same fetch results one step earlier, with the position that was requested, which makes a gap in the log provable: records
are accepted only when the fetch began at exactly the expected position, so records that are missing between that position and the
first record can only have been left out by the broker.

A fetch that follows another is sent from here through `direct`, and its answer is kept here until it is taken. Until then its
broker counts as busy, so that aiokafka does not ask for the same records. aiokafka sends every other fetch: the first of an
assignment, one after an error or a change of leader, and one when a partition has no position.

Private parts of aiokafka 0.14.0 that are touched, all of them in this file: the name `fetcher.MemoryRecords`; `FetchResult`,
`PartitionRecords`, `GroupCoordinator.check_errors`; of `Fetcher`: `_records` (read and emptied), `_in_flight`, `_subscriptions`, `_client`,
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
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer
from aiokafka.consumer import fetcher as fetcher_module
from aiokafka.consumer.fetcher import FetchResult, MemoryRecords
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from aiokafka.structs import TopicPartition

from penstock.record import RecordLike
from penstock.transports.kafka.direct import Direct, Line
from penstock.transports.kafka.records import BUDGET, Packed
from penstock.transports.kafka.wire import FETCH, fetch_request, parse_fetch
from penstock.transports.tracker import Partition

__all__ = ["Fetched", "RawFetcher"]

logger = logging.getLogger(__name__)


class Fetched(NamedTuple):
    """What one partition holds between `start` and `end` (exclusive): records, or `Unreadable`s.

    `stamped` is whether the broker set the timestamps; None where that is not known (see `RawFetcher`).
    """

    partition: Partition
    start: int
    end: int
    records: Sequence[RecordLike]
    stamped: bool | None


class _Raw(MemoryRecords):  # type: ignore[misc]  # final for type checkers only
    """The records of an answer to aiokafka, which keep their bytes. For other consumers nothing changes."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.data = data


fetcher_module.MemoryRecords = _Raw


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a fetch brought for one partition, as far as it was not read yet."""

    tp: TopicPartition
    assignment: Any
    packed: Packed

    def current(self) -> bool:
        """Returns whether the partition is still at the position up to which this was read."""
        if not self.assignment.active:
            return False
        state = self.assignment.state_value(self.tp)
        return state is not None and not state.paused and state.has_valid_position and state.position == self.packed.position


class RawFetcher:
    """The fetched records of a started consumer. After a small fetch the next one gathers for `linger_ms`, at the broker.

    One `take` unpacks about `most` bytes, and no batch of more than `budget`. `by_batch` reads every batch by itself, slowly, and
    so knows whether the broker has stamped it.

    A fetch is answered as soon as one event is available. At low rates that would be a round trip, a Faust event, the model
    calls and a produce request for a single row. A short wait shares them among several rows, unless events are so rare
    that no other would arrive in time. The broker waits, in whole milliseconds (rounded up): a timer here would wake the
    worker once more, and events that arrive while the request is under way would be left for the next one.
    """

    SMALL = 64  # records; below, a fetch was not part of a backlog
    ENOUGH = 65536  # bytes that end a wait early

    def __init__(
        self, consumer: AIOKafkaConsumer, *, linger_ms: float = 0.0, most: int = 32 << 20, budget: int = BUDGET, by_batch: bool = False
    ) -> None:
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
        self._most, self._budget, self._by_batch = most, budget, by_batch
        self._damaged: dict[TopicPartition, int] = {}  # where bytes without their checksum were fetched
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
        """Yields what was fetched, by partition, each from its expected position; what more than `most` bytes would hold stays for later.

        A result that begins elsewhere is dropped, and `seek(partition, expected, found)` is called instead, with None when
        the broker has no such offset. Raises its other errors (not authorised, record larger than the fetch size).
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
        self._keep_theirs(expected, seek)
        left = self._most
        for tp, answer in list(self._answers.items()):
            partition = (tp.topic, tp.partition)
            at = expected(partition)
            while left > 0:
                if at is None or not answer.current():
                    break
                if answer.packed.position != at:
                    seek(partition, at, answer.packed.position)
                    break
                run = next(answer.packed, None)
                if run is None:
                    break
                if run.damaged and self._damaged.get(tp) != at:  # once: the bytes may have been damaged on their way
                    self._damaged[tp] = at
                    seek(partition, at, at)
                    break
                at = run.end  # what the caller expects once it has this
                answer.assignment.state_value(tp).consumed_to(at)
                left -= run.size
                yield Fetched(partition, run.start, run.end, run.records, run.stamped)
            else:
                return
            del self._answers[tp]

    def _keep_theirs(self, expected: Callable[[Partition], int | None], seek: Callable[[Partition, int, int | None], None]) -> None:
        """Keeps what aiokafka has fetched among our answers."""
        records = self._fetcher._records
        for tp, result in list(records.items()):
            del records[tp]
            at = expected((tp.topic, tp.partition))
            if at is None:
                continue
            if type(result) is not FetchResult:
                try:
                    result.check_raise()
                except OffsetOutOfRangeError:
                    seek((tp.topic, tp.partition), at, None)
            elif result.has_more():
                theirs = result._partition_records
                packed = self._packed(theirs._records.data, theirs.next_fetch_offset, theirs._aborted_transactions)
                theirs._records_iterator = None  # a cycle that would keep the fetched bytes until the collector comes
                self._answers[tp] = _Answer(tp, result._assignment, packed)

    def _packed(self, data: bytes, start: int, aborted: Sequence[tuple[int, int]]) -> Packed:
        return Packed(data, start, aborted, budget=self._budget, native=not self._by_batch)

    # -- asking --------------------------------------------------------------------------------------------------

    def _release(self) -> None:
        """Lets the brokers be asked again whose answers were taken or dropped, and no other."""
        fetcher = self._fetcher
        held = {fetcher._select_read_replica(tp) for tp in self._answers}
        fetcher._in_flight -= self._holding - held
        fetcher._in_flight |= held
        self._holding = held

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
        # A broker fills an answer in the request's order, and gives a batch that is larger than `fetch_bytes` to the first partition alone:
        # the one that has waited longest comes first, or the last would starve.
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
            self._answers[tp] = _Answer(tp, assignment, self._packed(part.records, positions[tp], part.aborted))
        return plain


def _resolve(waiter: asyncio.Future[Any]) -> None:
    if not waiter.done():
        waiter.set_result(None)
