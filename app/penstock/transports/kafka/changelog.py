"""The changelogs of what nodes remember: restored before the partitions of an assignment are read, from a local snapshot on.

1. A state that this worker had in the assignment before, and whose changelog has only this worker's records since, stays as it is.
2. Another one is read: the snapshot of this host, if there is one, then the rest of its changelog, or all of it.
3. Snapshots are written when partitions are lost and when the worker stops. After a kill the whole changelog is read, which is compacted.
4. The source counts. If it was created again, the offsets in the state are not its own: the state begins with nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from penstock.errors import TransportError, TransportUnavailable
from penstock.settings import Settings
from penstock.state import Entry, Keyed, Refused, States, load, save
from penstock.transports.kafka.connection import librdkafka_arguments, patience_of
from penstock.transports.tracker import Partition

__all__ = ["CHANGELOG_CONFIG", "Changelog", "Changelogs"]

logger = logging.getLogger(__name__)

CHANGELOG_CONFIG: Final[Mapping[str, str]] = {
    "cleanup.policy": "compact",
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
    """A state that is being restored, and the part of its changelog that is left: [position, end)."""

    node: str
    partition: int
    topic: str
    state: Keyed
    position: int
    end: int = 0
    read: int = 0


class Changelogs:
    """The changelogs of a worker, by node. Snapshots are in `folder`, each with the names of the node and of its state."""

    def __init__(self, settings: Settings, states: States, logs: Mapping[str, Changelog], folder: Path) -> None:
        self.logs = logs
        self.restoring = ""  # what is under way, in words; empty when nothing is
        self._settings, self._states, self._folder = settings, states, folder
        self._ends: dict[tuple[str, int], int] = {}  # of each changelog, when its state was put

    async def restore(self, partitions: Mapping[Partition, int], renewed: Collection[Partition], current: Callable[[], bool]) -> None:
        """Restores the states of an assignment; `partitions` has the end of each, `renewed` are those of a topic that was created again.

        Ends early when the assignment is not `current` any more: the next one restores again. Raises TransportUnavailable when the brokers
        do not answer, and TransportError for a changelog that holds something else.
        """
        if not self.logs:
            return
        numbers = {number for _, number in partitions}
        await asyncio.to_thread(self._save, [at for at in self._ends if at[1] not in numbers])
        self._states.keep(numbers)
        jobs = [(node, topic, number) for topic, number in sorted(partitions) for node, log in self.logs.items() if log.source == topic]
        try:
            await asyncio.to_thread(self._restore, jobs, partitions, renewed, current)
        except KafkaException as error:
            raise TransportUnavailable(f"the state cannot be restored: {error.args[0]}") from error
        finally:
            self.restoring = ""

    def save(self) -> None:
        """Writes the snapshots of all states that are in their changelogs. Blocks."""
        self._save([*self._ends])

    # -- in a thread -----------------------------------------------------------------------------------------------

    def _restore(
        self,
        wanted: Iterable[tuple[str, str, int]],
        ends: Mapping[Partition, int],
        renewed: Collection[Partition],
        current: Callable[[], bool],
    ) -> None:
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
            jobs = {(one.topic, one.partition): one for at in wanted if (one := self._job(consumer, *at, patience)) is not None}
            self._read(consumer, jobs, current, patience)
        finally:
            consumer.close()
        if not current():
            return
        for job in jobs.values():
            source = self.logs[job.node].source, job.partition
            if job.state.standing.offset >= ends[source] or source in renewed:
                if job.state.standing.offset >= 0:
                    logger.warning("nodes.%s: %s/%d was created again, so what is known of its events is forgotten", job.node, *source)
                job.state.reset()
            self._states.put(job.node, job.partition, job.state)
            self._ends[job.node, job.partition] = job.end
        if jobs:
            read, seconds = sum(one.read for one in jobs.values()), time.monotonic() - began
            names = ", ".join(f"{one.node}/{one.partition}" for one in jobs.values())
            logger.info("restored the state of %s: %d records in %.1f s", names, read, seconds)

    def _job(self, consumer: Consumer, node: str, _source: str, partition: int, patience: float) -> _Job | None:
        """Returns what is to be read; None where the state that is there is the newest."""
        log = self.logs[node]
        low, high = consumer.get_watermark_offsets(TopicPartition(log.topic, partition), timeout=patience)
        kept = self._states.kept(node, partition)
        if kept is not None and (node, partition) in self._ends and self._ends[node, partition] + kept[1] == high:
            return None
        state = log.make()
        found = load(self._folder / node, state, partition)
        if isinstance(found, Refused):
            logger.debug("%s", found.reason)
        elif low <= found <= high:
            return _Job(node, partition, log.topic, state, found, high)
        else:
            logger.warning(
                "the snapshot of nodes.%s/%d is not of %s, which ends at %d: the topic is read", node, partition, log.topic, high
            )
            state = log.make()
        return _Job(node, partition, log.topic, state, low, high)

    def _read(self, consumer: Consumer, jobs: Mapping[tuple[str, int], _Job], current: Callable[[], bool], patience: float) -> None:
        left = {at: job for at, job in jobs.items() if job.position < job.end}
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

    def _save(self, places: Iterable[tuple[str, int]]) -> None:
        for node, partition in places:
            kept = self._states.kept(node, partition)
            if kept is None or kept[0].standing.offset < 0:
                continue
            folder, (state, count) = self._folder / node, kept
            try:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                save(folder, state, partition, self._ends[node, partition] + count)
                for old in folder.glob("*.state"):
                    if not old.name.startswith(f"{state.name}-"):
                        old.unlink(missing_ok=True)  # of another definition
            except (OSError, ValueError) as error:
                logger.warning("nodes.%s/%d: no snapshot was written: %s", node, partition, error)
