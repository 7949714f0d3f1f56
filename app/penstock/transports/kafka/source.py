"""The source on Kafka: fetched record batches as spans, positions from the group, finished positions back to it.

It lives in the loop's own event loop (a hand-over between threads for each batch cost more than half of the throughput) and
keeps all positions in the tracker. Its host (`faust`) joins the group and receives the assignments.

Private parts of aiokafka 0.14.0 that are touched: of `AIOKafkaConsumer`, `_client`, `_coordinator.request_rejoin`, and `_subscription` for
the last stable offset of a partition.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError, OffsetMetadataTooLargeError
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from penstock.batch import Array
from penstock.errors import IdentityTaken, RecordMissing, TransportUnavailable
from penstock.record import RecordLike
from penstock.settings import Settings
from penstock.telemetry import Metrics
from penstock.transports.base import Abilities, cut, size_of
from penstock.transports.kafka.changelog import Changelogs
from penstock.transports.kafka.connection import aiokafka_arguments
from penstock.transports.kafka.fetch import Fetched, RawFetcher
from penstock.transports.kafka.identity import identified
from penstock.transports.kafka.lease import Lease, tell
from penstock.transports.kafka.lookout import ANSWER, Lookout
from penstock.transports.kafka.metadata import describe, steady
from penstock.transports.kafka.places import Places
from penstock.transports.kafka.state import PartitionState, SourceState
from penstock.transports.throttle import Throttle
from penstock.transports.tracker import Partition, Span, Tracker

__all__ = ["KafkaSource"]

logger = logging.getLogger(__name__)

LOOK = 0.02  # seconds between two looks whether a partition that others are to catch up with may be read further
AGAIN = 0.1  # seconds between two looks at brokers that have not shown a topic yet
ENDS = 1.0  # seconds for the answer to where partitions end
LEAVE = 5.0  # seconds for leaving the group; aiokafka would first wait for a rebalance that another member holds up
HEARTBEAT = 0.5  # seconds; a member learns by its next heartbeat that another wants to join, and delays all members until then
YEAR_MS = 365 * 24 * 3600 * 1000  # an idle worker must never leave the group by itself: it has to take over later


class KafkaSource:
    """Yields the records of the partitions that the group gives to this worker.

    `written` are the topics that the same topology writes; `lookout` watches these and the ones to read. `before_reading` is awaited at
    each assignment, before its first fetch, with whether that assignment is still current. Partitions that `throttle` slows are not
    fetched while they wait. While `stopping()` is true, the worker is being stopped and nothing waits longer than a session may last.
    `changelogs` restore what nodes remember first.
    """

    abilities: Final = Abilities(replay=True)

    def __init__(
        self,
        settings: Settings,
        group: str,
        *,
        metrics: Metrics,
        written: Collection[str] = (),
        lookout: Lookout | None = None,
        before_reading: Callable[[Callable[[], bool]], Awaitable[None]] | None = None,
        throttle: Throttle | None = None,
        changelogs: Changelogs | None = None,
    ) -> None:
        self.settings = settings
        self.group = group
        self.positions = Tracker()
        self.lease = Lease(settings.session_timeout, self._lease_changed)
        self.positions.lease = self.lease.holds
        self.rebalance_timeout = max(settings.drain_timeout * 2, settings.session_timeout)  # seconds
        self.stopping: Callable[[], bool] = lambda: False
        self.withheld: Callable[[Partition], bool] | None = None
        self.beyond: Callable[[Partition, int], Array] | None = None
        self.free: Mapping[Partition, Array] = {}
        self._metrics = metrics
        self._written = written
        self._before_reading = before_reading
        self._throttle = throttle or Throttle()
        self._changelogs = changelogs
        self._waiting: set[TopicPartition] = set()  # partitions that are slowed, and paused in the client
        self._client: AIOKafkaConsumer | None = None
        self._raw_or_none: RawFetcher | None = None
        self._places_or_none: Places | None = None
        self._stopped = False
        self._fenced = asyncio.Event()  # another worker has this one's identity
        self._joined_for: dict[str, int] = {}  # the partitions of a topic that this worker has joined the group again for
        self._open = asyncio.Event()  # not paused
        self._open.set()
        self._leased = asyncio.Event()  # the lease has changed
        self._warned = False  # that it does not hold
        self._committing: asyncio.Future[None] | None = None
        self._lost: dict[Partition, int] = {}
        self.settled = False  # an assignment is complete, and no rebalance has begun since; the host resets it
        self._newest: dict[Partition, float] = {}  # timestamp of the newest record taken, seconds since the epoch
        self.lookout = lookout or Lookout(settings)

    @property
    def client(self) -> AIOKafkaConsumer:
        if self._client is None:
            raise RuntimeError("the source has not been started")
        return self._client

    @property
    def _raw(self) -> RawFetcher:
        if self._raw_or_none is None:
            raise RuntimeError("the source has not been started")
        return self._raw_or_none

    @property
    def _places(self) -> Places:
        if self._places_or_none is None:
            raise RuntimeError("the source has not been started")
        return self._places_or_none

    @property
    def started(self) -> bool:
        return self._client is not None

    # -- life cycle ----------------------------------------------------------------------------------------------

    async def start(self, assignor: Any) -> None:
        """Connects. `assignor` shares the partitions among the members of the group, as aiokafka takes one."""
        settings = self.settings
        self._client = steady(
            AIOKafkaConsumer(
                **aiokafka_arguments(settings),
                group_id=self.group,
                group_instance_id=settings.group_instance_id or None,
                partition_assignment_strategy=[assignor],
                enable_auto_commit=False,
                auto_offset_reset="none",  # `place` knows every position; one that the broker lacks is an error
                isolation_level="read_committed",
                max_partition_fetch_bytes=settings.fetch_bytes,
                # One more answer waits while this much is in flight.
                fetch_max_bytes=max(settings.fetch_bytes, settings.max_in_flight_bytes // 2),
                fetch_max_wait_ms=settings.fetch_wait_ms,
                check_crcs=True,
                max_poll_interval_ms=YEAR_MS,
                session_timeout_ms=int(settings.session_timeout * 1000),
                heartbeat_interval_ms=int(min(HEARTBEAT, settings.session_timeout / 5) * 1000),
                rebalance_timeout_ms=int(self.rebalance_timeout * 1000),
            )
        )
        await self._client.start()
        if settings.group_instance_id:
            identified(self._client, settings.group_instance_id, self._fenced.set)
        tell(self.lease, self._client)  # sees requests before they are given an identity
        self._raw_or_none = RawFetcher(
            self._client,
            linger_ms=settings.fetch_linger_ms,
            most=settings.max_in_flight_bytes,
            budget=settings.max_unpacked_bytes,
        )
        self._places_or_none = Places(self._client, self.lookout, start_from=settings.start_from, written=self._written)
        await self._look()

    def subscribe(self, topics: Iterable[str], listener: ConsumerRebalanceListener) -> None:
        """Joins the group for these topics; the listener receives assignments."""
        self.client.subscribe(topics=sorted(topics), listener=listener)

    async def stop(self) -> None:
        """Leaves the group and closes the connections."""
        self._stopped = True
        if self._client is not None:
            try:
                await asyncio.wait_for(self._client.stop(), LEAVE)
            except TimeoutError:
                logger.warning("the group could not be left in time; its session timeout will do that")

    # -- taking --------------------------------------------------------------------------------------------------

    async def take(self, rows: int) -> Sequence[Span]:
        """See `Source.take`."""
        while not (spans := await self.look(rows, 1.0)):
            pass
        return spans

    async def look(self, rows: int, patience: float) -> Sequence[Span]:
        """Returns what `take` returns, if it is available within `patience` seconds."""
        if not self._open.is_set() and not await self._within(patience, self._open.wait()):
            return ()
        if not self.lease.holds():
            if self.positions.partitions and not self._warned:
                self._warned = True
                logger.warning("%s", self.lease.reason())
            if not await self._within(patience, self._held()):
                return ()
        self._warned = False
        for (topic, partition), offset in self.positions.rewound().items():
            self.client.seek(TopicPartition(topic, partition), offset)
        await self._raw.wait(min(patience, self._slow()))
        if not self.lease.holds():  # the process may have been paused during the wait
            return ()
        return self._spans(self._raw.take(self.positions.expected, self._seek_back), rows)

    def _slow(self) -> float:
        """Pauses the partitions that have to wait, in the client, and resumes the others. Returns the seconds until the next may go on."""
        if not self._throttle.rate and self.withheld is None:
            return math.inf
        held = {one for one in self.positions.partitions if self.withheld is not None and self.withheld(one)}
        delays = {TopicPartition(*one): LOOK if one in held else self._throttle.delay(one) for one in self.positions.partitions}
        wanted = {tp for tp, delay in delays.items() if delay}
        changed, assigned = wanted ^ self._waiting, self.client.assignment() if wanted != self._waiting else ()
        for tp in changed:
            if tp in assigned:
                (self.client.pause if tp in wanted else self.client.resume)(tp)
        self._waiting = wanted
        return min((delay for delay in delays.values() if delay), default=math.inf)

    def _few(self, one: Fetched, left: dict[Partition, int | None]) -> Fetched:
        """Returns as many records of a partition that was slowed as its budget lasts for, and has the others fetched again.

        `left` has how many more of each partition may be taken now: each compressed batch is a separate piece.
        """
        most = left[one.partition] if one.partition in left else self._throttle.rows(one.partition)
        left[one.partition] = most if most is None else max(most - len(one.records), 0)
        if most is None or len(one.records) <= most:
            return one
        end = one.records[most].offset
        self.client.seek(TopicPartition(*one.partition), end)
        return one._replace(end=end, records=one.records[:most])

    async def _within(self, seconds: float, what: Coroutine[Any, Any, Any]) -> bool:
        """Returns whether this ended in time."""
        try:
            async with asyncio.timeout(seconds):
                await what
        except TimeoutError:
            return False
        return True

    async def _held(self) -> None:
        while not self.lease.holds():
            self._leased.clear()
            await self._leased.wait()

    def _lease_changed(self) -> None:
        if self.lease.ended and self._committing is not None:
            self._committing.cancel()
        self._leased.set()
        self.positions.changed()

    def pause(self) -> None:
        """See `Source.pause`."""
        self._open.clear()

    def resume(self) -> None:
        """See `Source.resume`."""
        self._open.set()

    def _spans(self, fetched: Iterable[Fetched], rows: int) -> list[Span]:
        """A fetch of more than `rows` records is cut, so that no group takes too long.

        The pieces of different partitions take turns: one batch per partition may wait to be sent, and by the time a
        partition's next piece is done, its last one is on the wire.
        """
        lanes: dict[Partition, list[tuple[int, int, Sequence[RecordLike]]]] = {}
        left: dict[Partition, int | None] = {}
        for one in fetched:
            one = self._few(one, left)
            lane = lanes.setdefault(one.partition, [])
            if one.records:
                self._newest[one.partition] = one.records[-1].timestamp / 1000
                lane += cut(one.start, one.end, one.records, rows)
            elif one.end > one.start:
                lane.append((one.start, one.end, ()))
        spans = []
        for turn in zip_longest(*([(partition, *piece) for piece in lane] for partition, lane in lanes.items())):
            for partition, start, end, records in filter(None, turn):
                if records:
                    spans.append(self.positions.take(partition, start, end, records, size_of(records)))
                else:
                    self.positions.skip(partition, start, end)
        return spans

    def _seek_back(self, partition: Partition, expected: int, found: int | None) -> None:
        """Fetches again when the position was moved, or when the broker does not have it: its leader may have changed."""
        self._metrics.refetches.inc()
        self.client.seek(TopicPartition(*partition), expected)
        if found is None and self._lost.get(partition) == expected:
            raise RecordMissing(
                f"{partition[0]}/{partition[1]}: offset {expected} is out of range: its record was deleted before it was read "
                "(retention), or the topic was created again. Raise the topic's retention; to continue without it, move the group's "
                f"offset: kafka-consumer-groups --group {self.group} --topic {partition[0]}:{partition[1]} "
                "--reset-offsets --to-earliest --execute"
            )
        if found is None:
            self._lost[partition] = expected

    # -- what was finished ---------------------------------------------------------------------------------------

    async def store(self, offsets: Mapping[Partition, int]) -> bool:
        """Commits to the group. A temporary failure changes nothing. Raises TransportUnavailable for a permanent one.

        Without the lease, nothing is committed: a member that was removed from a group that has become empty could set it back.
        """
        if self._client is None or not self.lease.holds():
            return False
        places, beyond = self._places, self.beyond
        if beyond is None:
            texts = {one: str(places.mark(one[0])) for one in offsets}
        else:  # of all partitions at once: what is free in one is so because of the others
            offsets = {**self.positions.finished(), **offsets}
            texts = {one: places.beside(one[0], offset, beyond(one, offset)) for one, offset in offsets.items()}
        wanted = {TopicPartition(*one): OffsetAndMetadata(offset, texts[one]) for one, offset in offsets.items()}
        commit = self._committing = asyncio.ensure_future(self._client.commit(wanted))
        try:
            await asyncio.wait({commit}, timeout=self._commit_patience())
            if commit.cancelled():  # by the end of the assignment
                return False
            if not commit.done():
                raise TimeoutError
            commit.result()
        except (CommitFailedError, IllegalStateError):
            self._metrics.commit_failures.inc()
            logger.info("the group has rebalanced: its new owners commit", extra={"partitions": len(offsets)})
            return False
        except (KafkaError, TimeoutError) as error:
            self._metrics.commit_failures.inc()
            if isinstance(error, OffsetMetadataTooLargeError) and places.shorten():
                logger.warning("the brokers take less beside an offset (offset.metadata.max.bytes): commits will have less")
                return False
            if self._fenced.is_set():  # `watch` says why
                return False
            if isinstance(error, KafkaError) and not error.retriable:  # as without permission: what is scored now would be scored again
                raise TransportUnavailable(f"the brokers are not usable: {error!r}") from error
            why = "no answer in time" if isinstance(error, TimeoutError) else repr(error)
            logger.warning("commit failed, will be tried again: %s", why)
            return False
        finally:
            commit.cancel()
        self._metrics.commits.inc()
        return True

    def _commit_patience(self) -> float:
        """Returns seconds. A worker that stops has the time of its drain and of the session, and must end within them."""
        settings = self.settings
        return min(settings.broker_timeout, settings.session_timeout) if self.stopping() else settings.broker_timeout

    def revoke(self) -> None:
        """Ends the assignment, and a commit that is under way: repeated later, it could set back what the next owner has committed."""
        if self._committing is not None:
            self._committing.cancel()
        self._waiting = set()  # the client forgets with the assignment what it has paused
        self.free = {}
        self.positions.revoke()

    # -- where an assignment begins --------------------------------------------------------------------------------

    async def place(self, still_owned: Callable[[], bool]) -> None:
        """Starts every assigned partition at its committed position.

        Raises IllegalStateError when the group has begun to rebalance again, and TransportUnavailable after `broker_timeout` (if
        the host ended the wait itself, the worker would stay idle without end).
        """
        client, patience = self.client, self.settings.broker_timeout
        if self._before_reading is not None:
            await self._before_reading(still_owned)
        try:
            async with asyncio.timeout(patience):
                assigned = sorted(client.assignment())
                while not all(self.lookout.knows(tp.topic) for tp in assigned):  # its id shows whether committed offsets are for it
                    await self._look()
                    await asyncio.sleep(AGAIN)
                positions, fresh, renewed, free = await self._places.begin(assigned)
                ends = await client.end_offsets(assigned) if self._changelogs is not None and assigned else {}
        except TimeoutError as error:
            raise TransportUnavailable(f"the brokers did not show the topics and the committed offsets within {patience:g} s") from error
        if not still_owned():
            raise IllegalStateError("the group is rebalancing again")
        if self._changelogs is not None:
            again = {(tp.topic, tp.partition) for tp in renewed}
            await self._changelogs.restore({(tp.topic, tp.partition): ends[tp] for tp in assigned}, again, still_owned)
            if not still_owned():
                raise IllegalStateError("the group is rebalancing again")
        # Before anything is read: a worker that is killed in its first seconds must not move the place where its group begins.
        stored = bool(fresh) and await self.store({(tp.topic, tp.partition): offset for tp, offset in fresh.items()})
        if not still_owned():
            raise IllegalStateError("the group is rebalancing again")
        for tp, offset in positions.items():
            client.seek(tp, offset)
        self._lost.clear()
        self._waiting.clear()
        self.free = {(tp.topic, tp.partition): those for tp, those in free.items()}
        self._metrics.rebalances.inc()
        self._metrics.partitions.set(len(positions))
        self.positions.assign(
            {(tp.topic, tp.partition): offset for tp, offset in positions.items()},
            () if stored else {(tp.topic, tp.partition) for tp in fresh},
        )
        self._newest.clear()
        self.settled = True
        logger.info("assigned %s", ", ".join(f"{tp.topic}/{tp.partition}@{at}" for tp, at in positions.items()) or "nothing")

    def ended_at(self, partition: Partition) -> int:
        """See `Joinable.ended_at`."""
        end, heard, expected = self.end_of(partition), self.heard_of(partition), self.positions.expected(partition)
        ended = end is not None and heard is not None and expected is not None and expected >= end  # as the end was when it was heard of
        return int((heard or 0.0) * 1000) if ended else 0

    # -- what is known of the brokers --------------------------------------------------------------------------------

    def partitions_of(self, topic: str) -> int | None:
        """Returns how many partitions the topic has; None while that is not known."""
        found = self._client.partitions_for_topic(topic) if self._client is not None else None
        return len(found) if found else None

    def end_of(self, partition: Partition) -> int | None:
        """Returns the last stable offset from the partition's last fetch, or asked since: later records cannot be read yet.

        None before the first answer, or when the partition is not assigned (any more).
        """
        asked = TopicPartition(*partition)
        if self._client is None or asked not in self._client.assignment():
            return None
        end = self._client.last_stable_offset(asked)
        return None if end is None or end < 0 else int(end)

    def heard_of(self, partition: Partition) -> float | None:
        """Returns when a fetch of the partition was answered last, in seconds since the epoch; None as for `end_of`."""
        asked = TopicPartition(*partition)
        if self._client is None or asked not in self._client.assignment():
            return None
        at = self._client.last_poll_timestamp(asked)
        return None if at is None else at / 1000

    def standing(self, *, room: bool, withheld: str = "") -> SourceState:
        """Returns the state of the source now. The state of the brokers is that of the last check of `watch`.

        `room` and `withheld` are the loop's: whether more may be in flight, and why nothing more is taken all the same.
        """
        lookout = self.lookout
        return SourceState(
            settled=self.settled,
            room=room and self._open.is_set(),  # a source that is paused takes nothing for a known reason
            withheld=(self.lease.reason() if self.settled else "") or withheld,
            in_flight=self.positions.in_flight,
            answering=lookout.fresh,
            missing=lookout.missing(),
            unled=tuple(topic for topic in sorted(self._written) if lookout.unled(topic)),
            partitions=tuple(self._state_of(one) for one in self.positions.partitions),
        )

    def _state_of(self, partition: Partition) -> PartitionState:
        return PartitionState(
            partition,
            position=self.positions.expected(partition) or 0,
            end=self.end_of(partition),
            heard=self.heard_of(partition),
            newest=self._newest.get(partition),
            leader=partition not in self.lookout.unled(partition[0]),
            slowed=self._throttle.slowed(partition),
            waits=self.withheld is not None and self.withheld(partition),
        )

    async def watch(self) -> None:
        """Looks at the brokers again and again, from before the source starts until it has stopped.

        Raises aiokafka's error, those of `Lookout` (TransportUnavailable and TopicMissing), and IdentityTaken.
        """
        lookout = self.lookout
        while not self._stopped:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(min(lookout.every, lookout.left), 0.0)):
                    await self._fenced.wait()
            await self._check()

    async def _check(self) -> None:
        if self._stopped:
            return
        if self._fenced.is_set():
            raise IdentityTaken(
                f"another worker runs with the group_instance_id {self.settings.group_instance_id!r}, and has taken this one's place in "
                f"the group {self.group}. Give each worker another id, or none"
            )
        if self._raw_or_none is not None:
            self._raw_or_none.check()
        await self._look()

    async def _ask_ends(self) -> None:
        """Asks for the end of each partition that no fetch was answered for lately: one that is slowed, or all, while nothing is taken.

        A fetch brings the end with it. Without one, the backlog would be that of the last fetch.
        """
        old = time.time() - self.lookout.every
        quiet = [one for one in self.positions.partitions if (self.heard_of(one) or 0.0) < old and one not in self.lookout.unled(one[0])]
        if not quiet or self._stopped:
            return
        with contextlib.suppress(KafkaError, TimeoutError, OSError):  # the next look asks again
            async with asyncio.timeout(ENDS):
                ends = await self.client.end_offsets([TopicPartition(*one) for one in quiet])  # read_committed: the last stable offsets
                for tp, end in ends.items():
                    if tp in self.client.assignment():
                        state = self.client._subscription.subscription.assignment.state_value(tp)
                        state.lso = max(end, state.lso or 0)

    async def _look(self) -> None:
        lookout, client = self.lookout, self._client
        seen, reason = None, "no connection"
        if client is not None:
            try:
                async with asyncio.timeout(min(ANSWER, max(lookout.left, 0.1))):
                    seen = await describe(client._client, (*lookout.topics, *lookout.beside))
            except TimeoutError:
                reason = "no answer in time"
            except (KafkaError, OSError) as error:
                reason = repr(error)
        if self._stopped:  # the client was closed during the request
            return
        if client is None or seen is None:
            lookout.heard_nothing(reason)
            return
        await self._ask_ends()
        written = ((topic, number) for topic in self._written if topic in seen for number in seen[topic].leaders)
        lookout.saw(seen, (*self.positions.partitions, *written))
        for topic in client.subscription() or ():
            count = len(seen[topic].leaders) if topic in seen else 0
            if 0 < (self.partitions_of(topic) or 0) < count:
                client._client.force_metadata_update()  # the group shares new partitions when its leader hears of them
                if self.settings.group_instance_id and self._joined_for.get(topic) != count:
                    # A static member that was started again is the leader, and does not learn it (KIP-814).
                    self._joined_for[topic] = count
                    client._coordinator.request_rejoin()
