"""Whether a worker is alive and ready: pure functions of a `Picture` of it, and the watchdog's clocks.

Ready: partitions are assigned, or the worker is a spare; the control log is folded; models are warm; no event waits for its schema;
outputs can be written.

Alive: every source makes progress, or has a reason not to. The watchdog keeps a clock per partition, per source topic and for the
batches in flight. A clock runs while nothing moves without one of the reasons below. At its bound, the worker is stalled:

1. The worker starts or stops.
2. The group is rebalancing, for as long as a rebalance may take, and longer while state is restored; or the brokers do not answer (which
   ends a worker after `broker_timeout`).
3. A partition has no leader, or everything in it that can be read has been read, and fetches are answered.
4. Back-pressure: no more is taken while enough is in flight. Then the clock of the batches in flight runs. Or nothing is taken, scored or
   sent until a heartbeat or a commit succeeds.
5. A batch in flight makes progress, or a model runs within its deadline.
6. The partition is slowed to `dead_letter_rate`.
7. The partition is read no further until those that it is joined with catch up; their clocks run.
8. The whole process was paused.

This finds a worker that holds partitions and silently reads nothing, for example because its topic was deleted, or because a task of
a client library has died.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from penstock.telemetry.health import Condition, Health
from penstock.transports.kafka.state import PartitionState, SourceState

__all__ = ["Phase", "Picture", "Watchdog", "health", "readiness"]

FLIGHT: Final = "in flight"
GROUP: Final = "the group"  # names of topics have no space
STATE: Final = "the state"


class Phase(StrEnum):
    """The phase of a worker's life."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A worker at one moment. `sources` gives the topic of each source by its name.

    `progress` changes when a batch in flight makes progress. `busy`: a model runs within its deadline. `control` and `models` are
    the reasons why the control log is not folded or the models are not warm; empty when they are. `schemas`, by topic, is the schema that
    events wait for, while the schema registry does not answer. `state` is how far what nodes remember is restored; empty when it is.
    """

    phase: Phase
    sources: Mapping[str, str]
    consumer: SourceState | None = None
    progress: Hashable = 0
    busy: bool = False
    control: str = ""
    models: str = ""
    schemas: Mapping[str, str] = field(default_factory=dict)
    state: str = ""


def readiness(picture: Picture) -> tuple[Condition, ...]:
    """Returns all conditions of readiness, always in the same order."""
    return (
        Condition("running", picture.phase is Phase.RUNNING, picture.phase.value),
        _partitions(picture.consumer),
        Condition("control", not picture.control, picture.control or "folded"),
        Condition("models", not picture.models, picture.models or "warm"),
        Condition("state", not picture.state, picture.state or "restored"),
        Condition("schemas", not picture.schemas, "; ".join(picture.schemas.values()) or "known"),
        _outputs(picture),
    )


def _partitions(consumer: SourceState | None) -> Condition:
    settled = consumer is not None and consumer.settled
    if not settled or consumer is None:
        return Condition("partitions", False, "waiting for the group to assign partitions")
    if consumer.withheld:
        return Condition("partitions", False, consumer.withheld)
    count, slowed = len(consumer.partitions), [one for one in consumer.partitions if one.slowed]
    detail = f"{count} assigned{_slowed(slowed)}" if count else "none: this worker is a spare"
    return Condition("partitions", True, detail)


def _slowed(partitions: Sequence[PartitionState]) -> str:
    return f"; {', '.join(_name(one.partition) for one in partitions)} slowed to dead_letter_rate" if partitions else ""


def _outputs(picture: Picture) -> Condition:
    consumer = picture.consumer
    if consumer is None:
        return Condition("outputs", False, "not connected")
    if not consumer.answering:
        return Condition("outputs", False, "the brokers do not answer")
    written = [topic for topic in consumer.missing if topic not in picture.sources.values()]
    if written:
        return Condition("outputs", False, f"the brokers have no topic {', '.join(written)}")
    if consumer.unled:
        return Condition("outputs", False, f"{', '.join(consumer.unled)} has a partition without a leader")
    return Condition("outputs", True, "writable")


@dataclass(slots=True)
class Watchdog:
    """Clocks over a sequence of pictures. `bound` is how many seconds a partition may make no progress without a reason.

    For batches in flight it is `flight_bound`, which leaves the brokers their own time to answer. For a rebalance it is `group_bound`,
    since it waits for the other members. One that never completes is a stall: the client does not join
    again for a topic that was made anew.
    """

    bound: float
    flight_bound: float
    group_bound: float = math.inf
    _since: dict[Hashable, float] = field(default_factory=dict)  # when each clock began to run
    _last: dict[Hashable, Hashable] = field(default_factory=dict)  # the values at the last check
    _now: float = 0.0

    def look(self, now: float, picture: Picture) -> None:
        """Updates the clocks from this picture of the worker.

        A gap of half a bound between two checks resets all clocks: the process was paused or its loop blocked, so nothing could progress.
        """
        if now - self._now > self.bound / 2:
            self._since = {}
        self._now = now
        still = dict(_still(picture, self._last))
        self._since = {what: self._since.get(what, now) for what, stands in still.items() if stands}
        self._last = dict(_moving(picture))

    def stalled(self, share: float = 1.0) -> dict[Hashable, float]:
        """Returns what made no progress for this share of its bound (partitions, topics, FLIGHT or GROUP), and for how many seconds."""
        bounds: dict[Hashable, float] = {FLIGHT: self.flight_bound, GROUP: self.group_bound}
        limits = {what: bounds.get(what, self.bound) * share for what in self._since}
        return {what: self._now - since for what, since in self._since.items() if self._now - since >= limits[what]}


def _moving(picture: Picture) -> Iterator[tuple[Hashable, Hashable]]:
    yield FLIGHT, picture.progress
    yield STATE, picture.state
    for one in picture.consumer.partitions if picture.consumer else ():
        yield one.partition, (one.position, one.heard)


def _still(picture: Picture, last: Mapping[Hashable, Hashable]) -> Iterator[tuple[Hashable, bool]]:
    """Yields each watched thing, and whether it makes no progress without a reason."""
    consumer = picture.consumer
    if consumer is None or picture.phase is not Phase.RUNNING or not consumer.answering:
        return
    for topic in picture.sources.values():
        yield topic, topic in consumer.missing
    yield GROUP, not consumer.settled and not (picture.state and last.get(STATE) != picture.state)
    if not consumer.settled or consumer.withheld:
        return
    yield FLIGHT, consumer.in_flight > 0 and not picture.busy and last.get(FLIGHT) == picture.progress
    for one in consumer.partitions:
        yield one.partition, consumer.room and one.leader and not (one.slowed or one.waits) and not _goes_on(one, last.get(one.partition))


def _goes_on(one: PartitionState, last: Hashable) -> bool:
    """A new partition counts as moving: its clock begins at the next check."""
    if last is None or not isinstance(last, tuple):
        return True
    position, heard = last
    return bool(one.position != position or (one.heard != heard and one.heard is not None and not one.backlog))


def health(picture: Picture, watchdog: Watchdog) -> Health:
    """Returns the health at half of the watchdog's bounds, so that a page shows a stall before the worker ends because of it."""
    stalled = watchdog.stalled(0.5)
    sources = [_source(name, topic, picture, stalled) for name, topic in picture.sources.items()]
    return Health(tuple(sources), readiness(picture))


def _source(name: str, topic: str, picture: Picture, stalled: Mapping[Hashable, float]) -> Condition:
    consumer = picture.consumer
    mine = [one for one in consumer.partitions if one.partition[0] == topic] if consumer is not None else []
    if stopped := "; ".join(explain(what, seconds, picture) for what, seconds in stalled.items() if _concerns(what, topic)):
        return Condition(name, False, stopped)
    waits = picture.schemas.get(topic)
    return Condition(name, True, f"idle: {waits}" if waits else _state(topic, picture.phase, consumer, mine))


def _state(topic: str, phase: Phase, consumer: SourceState | None, mine: list[PartitionState]) -> str:
    if phase is not Phase.RUNNING or consumer is None:
        return phase.value
    if not consumer.answering:
        return "the brokers do not answer"
    if not consumer.settled:
        return "idle: waiting for the group to assign partitions"
    if consumer.withheld:
        return f"idle: {consumer.withheld}"
    if not mine:
        return f"idle: every partition of {topic} is assigned to another worker"
    if unled := [one for one in mine if not one.leader]:
        return f"idle: {_name(unled[0].partition)} has no leader"
    backlog = sum(one.backlog or 0 for one in mine)
    if not backlog:
        return "idle: caught up"
    waits = all(one.waits for one in mine if one.backlog)
    doing = "waiting for the topics that it is joined with" if waits else "reading" if consumer.room else "waiting for acknowledgements"
    return f"{doing}: {backlog} records behind in {len(mine)} partitions{_slowed([one for one in mine if one.slowed])}"


def _concerns(what: Hashable, topic: str) -> bool:
    return what in (FLIGHT, GROUP, topic) or (isinstance(what, tuple) and what[0] == topic)


def _name(partition: tuple[str, int]) -> str:
    return f"{partition[0]}/{partition[1]}"


def explain(what: Hashable, seconds: float, picture: Picture) -> str:
    """Describes a stall in one sentence: what, since when, and the known reason."""
    consumer = picture.consumer
    age = f"for {math.floor(seconds)} s"
    if what == FLIGHT:
        count = consumer.in_flight if consumer is not None else 0
        return f"none of {count} batches in flight has made progress {age}"
    if what == GROUP:
        return f"the group has assigned no partitions {age}: a rebalance has begun and was not completed"
    if isinstance(what, str):
        why = "it was deleted (`penstock topics create` creates it again), or this user has no access any more"
        return f"the brokers have had no topic {what} {age}: {why}"
    one = next((one for one in (consumer.partitions if consumer else ()) if one.partition == what), None)
    if one is None:
        return f"{what} has made no progress {age}"
    waiting = f"{one.backlog} records wait" if one.backlog else "fetches are not answered"
    return f"{_name(one.partition)} has made no progress at offset {one.position} {age}: {waiting}"
