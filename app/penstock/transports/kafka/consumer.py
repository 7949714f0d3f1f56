"""The consumer that Faust is given: one event per fetch and topic, holding every partition batch of it.

It lives in the agents' own event loop (a hand-over between threads for each batch cost more than half of the
throughput) and replaces all of Faust's bookkeeping of offsets by `tracker`. What Faust still does: subscribe, call
the rebalance hooks, host the agents. What can no longer happen is listed, case by case, in
`docs/decisions/0001-record-batches-through-faust.md`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, cast

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.types import TP, ConsumerMessage
from mode import Service

from penstock.errors import TransportError, TransportUnavailable
from penstock.record import RecordLike
from penstock.transports.kafka.fetch import Fetched, RawFetcher
from penstock.transports.kafka.options import options_of
from penstock.transports.kafka.shell import Shell
from penstock.transports.kafka.state import ConsumerState, PartitionState
from penstock.transports.kafka.tracker import Partition, Span

__all__ = ["Consumer", "Delivery"]

logger = logging.getLogger(__name__)

LEAVE = 5.0  # seconds for leaving the group; aiokafka would first wait for a rebalance that another member holds up
LOOK_UP = 0.5  # seconds after which the fetch loop looks whether it should still run
HEARTBEAT = 0.5  # seconds; a member learns by its next heartbeat that another wants to join, and holds everybody up until then
YEAR_MS = 365 * 24 * 3600 * 1000  # an idle worker must never leave the group by itself: it has to take over some day


@dataclass(frozen=True, slots=True)
class Delivery:
    """The value of one Faust event: partition batches of one topic, each with the span that finishes it."""

    batches: tuple[tuple[Span, list[RecordLike]], ...]


class Consumer(Shell):
    """Delivers `Delivery` events in order, commits what was finished, gives back what was not.

    Settings come from `app.penstock` (`options.TransportOptions`).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.options = options_of(self.app)
        self.metrics = self.options.metrics
        self.metrics.in_flight_batches.set_function(lambda: self.tracker.in_flight)
        self.metrics.in_flight_bytes.set_function(lambda: self.tracker.in_flight_bytes)
        self.batch_rows: int = self.options.max_batch_rows
        self.raw: RawFetcher
        self._changed = asyncio.Event()  # set whenever a span is finished or the assignment changes
        self._committing = asyncio.Lock()
        self._gave_up = False
        self._lost: dict[Partition, int] = {}
        self._owned = 0  # counts assignments; 0 while there is none
        self._assignments = 0
        self._partitions: dict[str, int] = {}  # of each topic, when this worker first saw it
        self._heard = time.monotonic()
        self._settled = False  # an assignment is complete, and no rebalance has begun since
        self._newest: dict[Partition, float] = {}  # timestamp of the newest record taken, seconds since the epoch
        self._answering = True
        self._seen: Any = None  # the cluster as the brokers described it last

    # -- life cycle ----------------------------------------------------------------------------------------------

    async def on_start(self) -> None:
        options = self.options
        self._client = AIOKafkaConsumer(
            **options.connection,
            group_id=self.app.conf.id,
            group_instance_id=options.group_instance_id or None,
            partition_assignment_strategy=[self.app.assignor],
            enable_auto_commit=False,
            auto_offset_reset="none",  # `perform_seek` knows every position; one that the broker lacks is an error
            isolation_level="read_committed",
            max_partition_fetch_bytes=options.fetch_bytes,
            fetch_max_bytes=max(
                options.fetch_bytes, options.max_in_flight_bytes // 2
            ),  # one more answer waits while this much is in flight
            fetch_max_wait_ms=options.fetch_wait_ms,
            check_crcs=True,
            max_poll_interval_ms=YEAR_MS,
            session_timeout_ms=int(options.session_timeout * 1000),
            heartbeat_interval_ms=int(min(HEARTBEAT, options.session_timeout / 5) * 1000),
            rebalance_timeout_ms=int(options.rebalance_timeout * 1000),
        )
        await self._client.start()
        self.raw = RawFetcher(self._client, linger_ms=options.fetch_linger_ms)

    async def on_stop(self) -> None:
        await self.wait_empty()
        if self._client is not None:
            try:
                await asyncio.wait_for(self._client.stop(), LEAVE)
            except TimeoutError:
                logger.warning("the group could not be left in time; its session timeout will do that")

    # -- fetching ------------------------------------------------------------------------------------------------

    async def _drain_messages(self, fetcher: Any) -> None:
        """Faust's fetcher task: room, fetch, deliver, for as long as the app runs."""
        while not (self.should_stop or fetcher.should_stop):
            if not self.flow_active:
                await self.wait(cast(Any, self.can_resume_flow))
                continue
            if not self._room():
                self._changed.clear()
                await self._changed.wait()
                continue
            await self.raw.wait(LOOK_UP)
            for message in self._take():
                await self.callback(message)

    def _room(self) -> bool:
        """Whether more may be taken: batches and bytes that were taken and are not acknowledged are bounded."""
        tracker, options = self.tracker, self.options
        return tracker.in_flight < options.max_in_flight_batches and tracker.in_flight_bytes < options.max_in_flight_bytes

    def _take(self) -> Iterable[ConsumerMessage]:
        topics: dict[str, list[Fetched]] = {}
        for fetched in self.raw.take(self.tracker.expected, self._seek_back):
            if fetched.records:
                self._newest[fetched.partition] = fetched.records[-1].timestamp / 1000
                topics.setdefault(fetched.partition[0], []).append(fetched)
            elif fetched.end > fetched.start:
                self.tracker.skip(fetched.partition, fetched.start, fetched.end)
        return [message for batches in topics.values() for message in self._messages(batches)]

    def _messages(self, batches: list[Fetched]) -> Iterable[ConsumerMessage]:
        """One event for small batches; a batch of more than `batch_rows` is cut, so that none takes too long.

        The pieces of different partitions take turns: one batch a partition may wait to be sent, and by the time a
        partition's next piece is done, its last one is on the wire.
        """
        rows = self.batch_rows
        turns = zip_longest(*(_cut(fetched, rows) for fetched in batches))
        cut = [piece for turn in turns for piece in turn if piece is not None]
        group: list[tuple[Span, list[RecordLike]]] = []
        count = 0
        for piece in cut:
            span = self.tracker.take(piece.partition, piece.start, piece.end, _size(piece.records))
            if group and count + len(piece.records) > rows:
                yield self._message(group)
                group, count = [], 0
            group.append((span, piece.records))
            count += len(piece.records)
        if group:
            yield self._message(group)

    def _message(self, batches: list[tuple[Span, list[RecordLike]]]) -> ConsumerMessage:
        span, records = batches[-1]
        tp = TP(*span.partition)
        return ConsumerMessage(
            tp.topic, tp.partition, span.end - 1, records[-1].timestamp / 1000, 0, None, None, cast(Any, Delivery(tuple(batches))),
            None, None, None, tp, generation_id=self.app.consumer_generation_id,
        )  # fmt: skip

    def _seek_back(self, partition: Partition, expected: int, found: int | None) -> None:
        """Somebody moved the position, or the broker does not have it: asked once more, since its leader may have changed."""
        self.metrics.refetches.inc()
        self.client.seek(TopicPartition(*partition), expected)
        if found is None and self._lost.get(partition) == expected:
            raise TransportError(
                f"{partition[0]}/{partition[1]}: offset {expected} is out of range: its record was deleted before it was read "
                "(retention), or the topic was made anew. Raise the topic's retention; to go on without, move the group's offset: "
                f"kafka-consumer-groups --group {self.app.conf.id} --topic {partition[0]}:{partition[1]} "
                "--reset-offsets --to-earliest --execute"
            )
        if found is None:
            self._lost[partition] = expected

    # -- what was finished ---------------------------------------------------------------------------------------

    def finish(self, span: Span) -> None:
        """Everything that the span caused was acknowledged by the broker."""
        self.tracker.finish(span)
        self._changed.set()

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Commits every finished prefix. True when the broker stored offsets; a failure changes nothing and is tried again."""
        async with self._committing:
            tracker, client = self.tracker, self._client
            offsets, epoch = tracker.committable(), tracker.epoch
            if not offsets or client is None:
                return False
            wanted = {TopicPartition(*partition): OffsetAndMetadata(offset, "") for partition, offset in offsets.items()}
            try:
                await asyncio.wait_for(client.commit(wanted), self._commit_patience())
            except (CommitFailedError, IllegalStateError):
                self.metrics.commit_failures.inc()
                logger.info("the group has rebalanced: its new owners commit", extra={"partitions": len(offsets)})
                return False
            except (KafkaError, TimeoutError) as error:
                self.metrics.commit_failures.inc()
                if (
                    isinstance(error, KafkaError) and not error.retriable
                ):  # no permission, for one: what is scored now would be scored again
                    await self.crash(error)
                    return False
                logger.warning("commit failed, will be tried again: %r", error)
                return False
            tracker.committed(offsets, epoch)
            self.metrics.commits.inc()
            return True

    def _commit_patience(self) -> float:
        """Seconds. A worker that stops has its drain and the session's time, and must come to its own end within them."""
        options = self.options
        return min(options.broker_timeout, options.session_timeout) if self.app.should_stop else options.broker_timeout

    def give_up(self) -> None:
        """What is being worked on will not be finished: a drain waits for it no longer. What was finished is still committed."""
        self._gave_up = True
        self._changed.set()

    async def wait_empty(self) -> None:
        """Waits until what is being worked on is acknowledged, at most `drain_timeout` seconds, then commits it.

        Called when partitions are revoked and when the worker stops. What was taken and not started is read again by
        the next owner; so is what did not finish in time, which is where an at-least-once duplicate can come from.
        """
        self.tracker.drain()
        deadline = time.monotonic() + self.options.drain_timeout
        while self.tracker.working and not self._gave_up and (left := deadline - time.monotonic()) > 0:
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                logger.warning("%d batches were not finished in time and will be processed again", self.tracker.working)
        await self.commit()

    # -- rebalancing ---------------------------------------------------------------------------------------------

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        self._owned = 0
        self._settled = False
        await super().on_partitions_revoked(revoked)
        if self.app.should_stop:  # Faust drains, but not when it is stopping: workers that stop together disturb each other's drain
            await self.wait_empty()
        self.tracker.revoke()
        self._changed.set()

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        self._assignments += 1
        self._owned = self._assignments
        await super().on_partitions_assigned(assigned, generation_id)

    async def perform_seek(self) -> None:
        """Faust calls this once the assignment is complete: every partition starts at its committed position.

        Raises IllegalStateError when the group has begun to rebalance again, which Faust waits for, and
        TransportUnavailable after `broker_timeout` (a wait that Faust ends itself would leave the worker idle for ever).
        """
        client, owned = self.client, self._owned
        if self.options.before_reading is not None:
            await self.options.before_reading()
        try:
            async with asyncio.timeout(self.options.broker_timeout):
                positions, fresh = await self._positions(sorted(client.assignment()))
        except TimeoutError as error:
            raise TransportUnavailable(
                f"the brokers did not tell the committed offsets within {self.options.broker_timeout:g} s"
            ) from error
        if not owned or owned != self._owned:
            raise IllegalStateError("the group is rebalancing again")
        for tp, offset in positions.items():
            client.seek(tp, offset)
        self._lost.clear()
        self.metrics.rebalances.inc()
        self.metrics.partitions.set(len(positions))
        self.tracker.assign(
            {(tp.topic, tp.partition): offset for tp, offset in positions.items()}, {(tp.topic, tp.partition) for tp in fresh}
        )
        self._newest.clear()
        self._settled = True
        logger.info("assigned %s", ", ".join(f"{tp.topic}/{tp.partition}@{at}" for tp, at in positions.items()) or "nothing")

    async def _positions(self, assigned: list[TopicPartition]) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
        """Where each partition starts, and which of these places are not committed yet.

        `start_from` is for topics that the group has not read. A partition that was added while it reads starts at its
        beginning: its first events came before anybody could be assigned to it.
        """
        client = self.client
        committed = dict(zip(assigned, await asyncio.gather(*(client.committed(tp) for tp in assigned)), strict=True))
        for tp in assigned:
            self._partitions.setdefault(tp.topic, self.topic_partitions(tp.topic) or 0)
        new = {tp for tp, offset in committed.items() if offset is None}
        late = {tp for tp in new if self.options.start_from == "latest" and tp.partition < self._partitions[tp.topic]}
        fresh = {**(await client.beginning_offsets(new - late) if new - late else {}), **(await client.end_offsets(late) if late else {})}
        return {tp: fresh[tp] if offset is None else offset for tp, offset in committed.items()}, fresh

    # -- health --------------------------------------------------------------------------------------------------

    @Service.task
    async def _watch_broker(self) -> None:
        """Stops the worker when aiokafka has given up, or the brokers have not answered for `broker_timeout` seconds."""
        async for _ in self.itertimer(min(5.0, self.options.broker_timeout / 4), name="broker watch"):
            client = self._client
            if client is None:
                continue
            self.raw.check()
            try:
                self._seen = await asyncio.wait_for(client._client.fetch_all_metadata(), 5.0)
                self._heard, self._answering = time.monotonic(), True
            except (KafkaError, TimeoutError, OSError) as error:
                if self.should_stop:  # the client was closed under the question
                    return
                self._answering = False
                silent = time.monotonic() - self._heard
                logger.warning("brokers do not answer for %.0f s: %r", silent, error)
                if silent > self.options.broker_timeout:
                    await self.crash(TransportUnavailable(f"the brokers have not answered for {silent:.0f} s ({error!r})"))

    def standing(self) -> ConsumerState:
        """How the consumer stands now. What the brokers have is as of the last look of `_watch_broker`."""
        tracker, seen = self.tracker, self._seen
        return ConsumerState(
            settled=self._settled,
            room=self._room(),
            in_flight=tracker.in_flight,
            answering=self._answering,
            missing=tuple(topic for topic in self._topics() if seen is not None and not seen.partitions_for_topic(topic)),
            unled=tuple(topic for topic in self.options.writes if seen is not None and _unled(seen, topic)),
            partitions=tuple(self._state_of(one) for one in tracker.partitions),
        )

    def _topics(self) -> list[str]:
        read = (self._client.subscription() or ()) if self._client is not None else ()
        return sorted({*read, *self.options.writes})

    def _state_of(self, partition: Partition) -> PartitionState:
        leader = None if self._seen is None else self._seen.leader_for_partition(TopicPartition(*partition))
        return PartitionState(
            partition,
            position=self.tracker.expected(partition) or 0,
            end=self.end_of(partition),
            heard=self.heard_of(partition),
            newest=self._newest.get(partition),
            leader=leader != -1,
        )


def _unled(cluster: Any, topic: str) -> bool:
    return any(cluster.leader_for_partition(TopicPartition(topic, one)) == -1 for one in cluster.partitions_for_topic(topic) or ())


def _cut(fetched: Fetched, rows: int) -> Iterable[Fetched]:
    """The fetched records in pieces of at most `rows`; the last one keeps the end, with the gap behind its last record."""
    partition, start, end, records = fetched
    for at in range(0, len(records), rows):
        piece = records[at : at + rows]
        upto = records[at + rows].offset if at + rows < len(records) else end
        yield Fetched(partition, start, upto, piece)
        start = upto


def _size(records: list[RecordLike]) -> int:
    """Bytes of the values, from a sample: good enough to bound memory, and free."""
    step = max(1, len(records) // 16)
    sample = records[::step]
    return sum(len(record.value or b"") + len(record.key or b"") + 64 for record in sample) * step
