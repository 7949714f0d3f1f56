"""What a worker keeps an eye on at its brokers: that they answer, that its topics are still the same, that partitions have leaders.

A topic that is deleted under a worker, or created again, has nothing to do with the positions that the worker holds, with the offsets
that its group has committed, or with the limits that it has read at its start. So the worker ends, with an error that names the topic,
and the next start checks the topics like any other start. Brokers from 2.8 on give each topic an id, which shows that it was created
again; with older ones, only an offset out of range does.

The topics `beside` are those of releases: models that are live go on without them.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from penstock.errors import TopicMissing, TransportUnavailable
from penstock.settings import Settings
from penstock.transports.kafka.metadata import Described
from penstock.transports.tracker import Partition

__all__ = ["ANSWER", "Lookout"]

logger = logging.getLogger(__name__)

ANSWER: Final = 5.0  # seconds for an answer
ABSENT: Final = 2  # looks in a row without a topic, `every` apart; a single answer may come from a broker that has only just started


class Lookout:
    """The brokers and `topics`, as of the last look. Raises nothing but what `saw` and `heard_nothing` say; has no I/O.

    `lost(topic, why)` is called once for a topic of `beside` that was deleted or created again.
    """

    def __init__(
        self,
        settings: Settings,
        topics: Collection[str] = (),
        beside: Collection[str] = (),
        *,
        lost: Callable[[str, str], None] = lambda topic, why: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.topics, self.beside = sorted({*topics}), sorted({*beside})
        self.seen: Mapping[str, Described] | None = None
        self.answering = True
        self._brokers = settings.brokers
        self._lost, self._clock = lost, clock
        self._patience = max(settings.broker_timeout, 1.0)
        # Brokers that do not answer have to be noticed before the watchdog reports a stall of this worker.
        self.every = min(settings.metadata_age, self._patience / 4, settings.stall_timeout / 5 or self._patience)
        self._heard = clock()
        self._ids: dict[str, str] = {}  # of each topic, when it was seen first
        self._absent: dict[str, tuple[int, float]] = {}  # looks in a row, and when the last of them was
        self._gone: set[str] = set()  # of `beside`, reported
        self._unled: dict[Partition, float] = {}  # since when a partition has no leader

    @property
    def left(self) -> float:
        """Seconds until the brokers have not answered for too long."""
        return self._heard + self._patience - self._clock()

    @property
    def fresh(self) -> bool:
        """Returns whether the brokers have answered lately."""
        return self.answering and self._clock() - self._heard < 2 * self.every

    def id_of(self, topic: str) -> str:
        """Returns the id that the topic had when it was seen first; "" when brokers give none."""
        return self._ids.get(topic, "")

    def knows(self, topic: str) -> bool:
        """Returns whether the topic was seen; so it is for one that is not watched."""
        return topic in self._ids or topic not in self.topics

    def missing(self) -> tuple[str, ...]:
        """Returns the topics that the brokers do not have."""
        return tuple(topic for topic in (*self.topics, *self.beside) if self.seen is not None and topic not in self.seen)

    def unled(self, topic: str) -> list[Partition]:
        """Returns the partitions of a topic that have no leader."""
        found = None if self.seen is None else self.seen.get(topic)
        return [] if found is None else [(topic, number) for number, leader in found.leaders.items() if leader is None]

    def heard_nothing(self, reason: object) -> None:
        """Notes that no broker has answered. Raises TransportUnavailable after `broker_timeout` seconds of it."""
        self.answering = False
        silent = self._clock() - self._heard
        if self.left > 0.05:
            logger.warning("no broker has answered for %.0f s: %s", silent, reason)
        else:
            raise TransportUnavailable(
                f"the brokers at {self._brokers} have not answered for {silent:.0f} s ({reason}). What was not committed will be processed "
                "again. Are they running, and reachable from here? --broker-timeout sets how long a worker waits for them"
            )

    def saw(self, seen: Mapping[str, Described], needed: Iterable[Partition] = ()) -> None:
        """Takes an answer. Raises TopicMissing for a topic that was deleted or created again, and TransportUnavailable when one of
        the partitions `needed` has had no leader for `broker_timeout` seconds.
        """
        self.seen, self.answering, self._heard = seen, True, self._clock()
        for topic in self.topics:
            if why := self._changed(topic):
                raise TopicMissing(f"{why}. Start the worker again: it checks the topics, and reads a new one from where `start_from` says")
        for topic in self.beside:
            if topic not in self._gone and (why := self._changed(topic)):
                self._gone.add(topic)
                self._lost(topic, why)
        self._watch_leaders(needed)

    def _changed(self, topic: str) -> str:
        """Returns what has happened to the topic since it was seen first; "" when it is the same."""
        found = self.seen.get(topic) if self.seen is not None else None
        if found is not None:
            self._absent.pop(topic, None)
            first = self._ids.setdefault(topic, found.id)
            return f"topic {topic} was deleted and created again while this worker ran" if found.id != first and found.id and first else ""
        looks, before = self._absent.get(topic, (0, -math.inf))
        if self._clock() - before >= 0.9 * self.every:
            looks, before = self._absent[topic] = looks + 1, self._clock()
        if looks < ABSENT:
            return ""
        return (
            f"the brokers have no topic {topic} any more: it was deleted while this worker ran (`penstock topics create TOPOLOGY` creates "
            "it again), or this user may no longer see it"
        )

    def _watch_leaders(self, needed: Iterable[Partition]) -> None:
        now = self._clock()
        unled = {one for one in needed if one in self.unled(one[0])}
        if new := sorted(unled - self._unled.keys()):
            logger.warning("without a leader: %s", ", ".join(f"{topic}/{partition}" for topic, partition in new))
        self._unled = {one: self._unled.get(one, now) for one in sorted(unled)}
        for (topic, partition), since in self._unled.items():
            if now - since >= self._patience:
                raise TransportUnavailable(
                    f"{topic}/{partition} has had no leader for {now - since:.0f} s: the brokers that hold it are down. What was "
                    "not committed will be processed again. Bring them back, or change its replicas; --broker-timeout sets how long to wait"
                )
