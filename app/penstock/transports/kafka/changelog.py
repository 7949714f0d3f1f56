"""The changelogs of what nodes remember: restored before the partitions of an assignment are read, from a local snapshot on.

1. A state that this worker had in the assignment before, and whose changelog has only this worker's records since, stays as it is.
2. Another one is read: the snapshot of this host, if there is one, then the rest of its changelog, or all of it.
3. Snapshots are written when partitions are lost and when the worker stops, for the topics of these ids. After a kill the whole changelog
   is read, which is compacted.
4. The source counts. If it was created again, the offsets in the state are not its own: the state begins with nothing, and its changelog
   has that before an event is read.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from penstock.errors import TransportError, TransportUnavailable
from penstock.settings import Settings
from penstock.state import Checkpoint, Entry, Keyed, Refused, Rows, States, load, save
from penstock.transports.kafka.connection import librdkafka_arguments, patience_of
from penstock.transports.tracker import Partition

__all__ = ["CHANGELOG_CONFIG", "Changelog", "Changelogs"]

logger = logging.getLogger(__name__)

CHANGELOG_CONFIG: Final[Mapping[str, str]] = {
    "cleanup.policy": "compact",
    "delete.retention.ms": str(24 * 3600 * 1000),  # of tombstones: longer than a snapshot may be old
    "max.message.bytes": str(10 << 20),  # with `exact`, a key has all its events
    "min.cleanable.dirty.ratio": "0.2",
    "segment.ms": str(3600 * 1000),  # only closed segments are compacted
}
TOGETHER: Final = 10_000  # records that are taken at once


class Changelog(NamedTuple):
    """The changelog of a node: its topic, the topic that the node's events come from, and what makes a state that has seen none."""

    topic: str
    source: str
    make: Callable[[], Keyed]


@dataclass(slots=True)
class _Job:
    """A state that is being restored, and the part of its changelog that is left: [position, end).

    `count` is how many records this worker has written after `end`, where the state is the one that it had.
    """

    node: str
    partition: int
    topic: str
    state: Keyed
    position: int
    end: int
    count: int = 0
    read: int = 0


class Changelogs:
    """The changelogs of a worker, by node. `states` are those of the assignment; they all know the same `tables`.

    Snapshots are in `folder`; `id_of` returns the id of a topic, and `write` writes what has changed in a state, with a timestamp in ms.
    """

    def __init__(
        self,
        settings: Settings,
        logs: Mapping[str, Changelog],
        folder: Path,
        *,
        id_of: Callable[[str], str],
        write: Callable[[Checkpoint, int], Awaitable[None]],
        tables: Mapping[str, Rows] = MappingProxyType({}),
    ) -> None:
        self.logs = logs
        self.states = States(tables=tables)
        self.restoring = ""  # what is under way, in words; empty when nothing is
        self._settings, self._folder, self._id_of, self._write = settings, folder, id_of, write
        self._ends: dict[tuple[str, int], int] = {}  # of each changelog, when its state was put

    def current(self) -> States:
        """Returns the states of the assignment."""
        return self.states

    async def restore(self, partitions: Mapping[Partition, int], renewed: Collection[Partition], current: Callable[[], bool]) -> None:
        """Restores the states of an assignment; `partitions` has the end of each, `renewed` are those of a topic that was created again.

        Ends early when the assignment is not `current` any more: the next one restores again. Raises TransportUnavailable when the brokers
        do not answer, and TransportError for a changelog that holds something else.
        """
        wanted = [(node, number) for topic, number in sorted(partitions) for node, log in self.logs.items() if log.source == topic]
        before, ends = self.states, self._ends
        self.states, self._ends = States(tables=before.tables), {}
        self.states.counts = before.counts
        try:
            jobs = await asyncio.to_thread(self._restore, wanted, before, ends, current)
        except KafkaException as error:
            raise TransportUnavailable(f"the state cannot be restored: {error.args[0]}") from error
        finally:
            self.restoring = ""
        for job in (one for one in jobs if one.position >= one.end):  # of an assignment that has ended, the next one takes what is whole
            source = self.logs[job.node].source, job.partition
            count = job.count
            again = job.state.standing.offset >= partitions[source] or (source in renewed and job.state.standing.offset >= 0)
            if again and not current():
                continue
            if again:
                logger.warning("nodes.%s: %s/%d was created again, so what is known of its events is forgotten", job.node, *source)
                job.state.reset()
                entries = [*job.state.checkpoint()]
                await self._write(Checkpoint(job.node, job.partition, entries), int(time.time() * 1000))
                count += len(entries)
            self.states.put(job.node, job.partition, job.state, count)
            self._ends[job.node, job.partition] = job.end

    def save(self) -> None:
        """Writes the snapshots of all states that are in their changelogs. Blocks."""
        self._save(self.states, self._ends, self._ends)

    # -- in a thread -----------------------------------------------------------------------------------------------

    def _restore(
        self, wanted: Sequence[tuple[str, int]], before: States, ends: Mapping[tuple[str, int], int], current: Callable[[], bool]
    ) -> list[_Job]:
        self._save(before, ends, ends.keys() - set(wanted))
        began, patience = time.monotonic(), patience_of(self._settings)
        consumer = Consumer(
            {
                **librdkafka_arguments(self._settings),
                "group.id": "penstock-state",  # required, and not used: nothing is committed and no group is joined
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "queued.max.messages.kbytes": 65536,
                "log_level": 2,
            }
        )
        try:
            jobs = [self._job(consumer, *at, before.kept(*at), ends.get(at), patience) for at in wanted]
            self._read(consumer, {(one.topic, one.partition): one for one in jobs if one.position < one.end}, current, patience)
        finally:
            consumer.close()
        read, seconds = sum(one.read for one in jobs), time.monotonic() - began
        if names := ", ".join(f"{one.node}/{one.partition}" for one in jobs if not one.count):
            logger.info("restored the state of %s: %d records in %.1f s", names, read, seconds)
        return jobs

    def _job(self, consumer: Consumer, node: str, partition: int, kept: tuple[Keyed, int] | None, end: int | None, patience: float) -> _Job:
        """Returns what is to be read: nothing where the state that is there is the newest."""
        log = self.logs[node]
        try:
            low, high = consumer.get_watermark_offsets(TopicPartition(log.topic, partition), timeout=patience)
        except KafkaException as error:
            if error.args[0].code() == KafkaError._UNKNOWN_PARTITION:
                need = f"kafka-topics --alter --topic {log.topic} --partitions {partition + 1} or more"
                raise TransportError(f"{log.topic} has no partition {partition}, and {log.source} has: it needs as many. {need}") from error
            raise
        if kept is not None and end is not None and end + kept[1] == high:
            return _Job(node, partition, log.topic, kept[0], high, end, count=kept[1])
        state = log.make()
        found = load(self._place(node), state, partition)
        if isinstance(found, Refused):
            logger.debug("%s", found.reason)
        elif low <= found <= high:
            return _Job(node, partition, log.topic, state, found, high)
        else:
            logger.warning("the snapshot of nodes.%s/%d is not of %s, which ends at %d: it is read", node, partition, log.topic, high)
            state = log.make()
        return _Job(node, partition, log.topic, state, low, high)

    def _place(self, node: str) -> Path:
        log = self.logs[node]
        return self._folder / node / "-".join(self._id_of(topic) or "any" for topic in (log.topic, log.source))

    def _read(self, consumer: Consumer, jobs: Mapping[tuple[str, int], _Job], current: Callable[[], bool], patience: float) -> None:
        left = dict(jobs)
        total = sum(job.end - job.position for job in left.values())
        consumer.assign([TopicPartition(*at, job.position or OFFSET_BEGINNING) for at, job in left.items()])
        heard = time.monotonic()
        while left and current():
            entries: dict[tuple[str, int], list[Entry]] = {}
            for message in consumer.consume(TOGETHER, 0.5):
                at, heard = (message.topic() or "", message.partition() or 0), time.monotonic()
                if (error := message.error()) is None:
                    entries.setdefault(at, []).append((message.key() or b"", message.value()))
                    jobs[at].position = (message.offset() or 0) + 1
                elif error.code() == KafkaError._PARTITION_EOF:
                    if (job := left.pop(at, None)) is not None:
                        job.position = job.end = max(job.end, message.offset() or 0)
                elif not error.retriable():
                    raise KafkaException(error)
            for at, some in entries.items():
                try:
                    jobs[at].state.restore(some)
                except ValueError as error:
                    raise TransportError(f"{at[0]}/{at[1]} does not hold what nodes.{jobs[at].node} remembers: {error}") from error
                jobs[at].read += len(some)
            done = total - sum(job.end - job.position for job in left.values())
            names = ", ".join(dict.fromkeys(job.node for job in left.values()))
            self.restoring = f"restoring what {names} remembers: {done:,} of {total:,} records" if left else ""
            if time.monotonic() - heard > patience:
                raise TransportUnavailable(f"{', '.join({job.topic for job in left.values()})}: no broker has answered for {patience:g} s")

    def _save(self, states: States, ends: Mapping[tuple[str, int], int], places: Iterable[tuple[str, int]]) -> None:
        for node, partition in places:
            kept = states.kept(node, partition)
            if kept is None or kept[0].standing.offset < 0:
                continue
            place, (state, count) = self._place(node), kept
            try:
                place.mkdir(parents=True, exist_ok=True, mode=0o700)
                save(place, state, partition, ends[node, partition] + count)
                for old in place.parent.rglob("*.state"):
                    if old.parent != place or not old.name.startswith(f"{state.name}-"):
                        old.unlink(missing_ok=True)  # of another topic, or definition
            except (OSError, ValueError) as error:
                logger.warning("nodes.%s/%d: no snapshot was written: %s", node, partition, error)
