"""Joining: the records of a stage that reads several topics, from taking them to the rows that the stage scores, and back to their spans.

Spans of such a stage are kept until their records are free (`penstock.joins`): each of them was answered with its event, or is late, a
repetition or no event at all. A restart reads the others again.

What is kept of a record: the record itself, and its columns, until its event is decided; then its offset, until it is free; then one byte,
until everything before it is free. `Bounds` limit each of these per partition, and `room` the bytes of all records.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Final, NamedTuple

import numpy as np

from penstock.batch import Array, Batch, Failure
from penstock.errors import RecordError
from penstock.joins import Bounds
from penstock.joins.groups import Decided, Groups
from penstock.joins.rows import Rows
from penstock.pipeline.letters import EVENT, ID, JOIN, MODELS, SOURCE, STAGES
from penstock.pipeline.score import Chunk, Pass, Pipeline
from penstock.record import Header, Record, RecordLike
from penstock.telemetry import Metrics
from penstock.topology.wiring import Joined, Stage
from penstock.transports.tracker import ENDLESS, Partition, Span, Tracker

__all__ = ["Joining", "Ready"]

_OFFSET, _ROW, _TIMESTAMP = attrgetter("offset"), attrgetter("row"), attrgetter("timestamp")
_PASSED: Final = (MODELS, STAGES)  # headers that say what the stages before have run: of all members that were used
_NONE: Final = np.zeros(0, np.int64)
_GAP, _FREE, _HELD = range(3)
_TRIM: Final = 4096  # bytes of states that are no longer needed, at least, before they are dropped
AROUND: Final = 64  # bytes of a record beside its value and its key


class Ready(NamedTuple):
    """Rows that go on now: those of groups with these `tickets`, or with none, records that are no events, at these `offsets`."""

    partition: int
    under: Span  # one of the assignment that they come from
    passing: Pass
    tickets: Array
    member: int = 0
    offsets: Array = _NONE


class _Kept:
    """One partition of a topic, from the first record on that is not free: which of those that were read are free, and which are held.

    `records` are those whose event is not decided, `size` their bytes. `newest` is the timestamp of the last record that was read, in ms.
    `free` are offsets from `start` on that are free before they are read: they were so in an earlier assignment.
    """

    def __init__(self, start: int, free: Array) -> None:
        free = free[free >= start]
        self._start = self._next = start
        self._states = bytearray(int(free[-1]) + 1 - start if len(free) else 0)  # by offset, from `_start`
        np.frombuffer(self._states, np.uint8)[free - start] = _FREE
        self._first = 0  # no record before it is held
        self._span: Span | None = None
        self.records: dict[int, RecordLike] = {}
        self.unfit: dict[int, RecordError] = {}  # those that the newest release cannot read
        self.size = self.newest = 0

    def add(self, span: Span) -> list[RecordLike]:
        """Keeps the records of a span, and returns those that are not free already."""
        records, states = span.records, self._states
        self._next, self.newest = records[-1].offset + 1, records[-1].timestamp
        if (more := self._next - self._start - len(states)) > 0:
            states.extend(bytes(more))
        fresh = [one for one in records if states[one.offset - self._start] != _FREE]
        for one in fresh:
            states[one.offset - self._start] = _HELD
            self.records[one.offset] = one
            self.size += _size(one)
        self._span = span
        self._tell()
        return fresh

    def forget(self, offset: int) -> RecordLike:
        """Returns a record whose event is decided; only its offset is held from now on."""
        record = self.records.pop(offset)
        self.unfit.pop(offset, None)
        self.size -= _size(record)
        return record

    def free(self, offsets: Sequence[int]) -> None:
        """Notes that these records are free."""
        for offset in offsets:
            self._states[offset - self._start] = _FREE
            if offset in self.records:  # it was late or a repetition
                self.forget(offset)
        self._tell()

    def beyond(self, position: int) -> Array:
        """Returns the offsets from the position on that are free, int64, ascending."""
        at = max(position - self._start, 0)
        return np.flatnonzero(np.frombuffer(self._states, np.uint8)[at:] == _FREE) + (self._start + at)

    def _tell(self) -> None:
        """Lets what is before the first held record be committed, and forgets what is free there."""
        held = self._states.find(_HELD, self._first)
        self._first = self._next - self._start if held < 0 else held
        if self._first >= _TRIM and self._first * 2 >= len(self._states):
            self._states = self._states[self._first :]
            self._start, self._first = self._start + self._first, 0
        if self._span is not None:
            self._span.keep(ENDLESS if held < 0 else self._start + self._first)


class _Partition:
    """One partition of all inputs."""

    def __init__(self, gather: Joined, stage: Stage, bounds: Bounds, kept: Iterable[_Kept]) -> None:
        self.groups = Groups(gather.quorum, bounds)
        self.rows = _rows(gather, stage)
        self.kept = [*kept]
        self.span: Span | None = None  # one of the assignment, under which is sent
        self.late = np.zeros(len(stage.inputs), np.int64)  # of the records that are counted


class Joining:
    """The records of one stage that wait, of the partitions that are assigned. `most` are the bytes of records that may wait.

    `free` returns the offsets that are free at the beginning of the assignment, and `ended_at` is that of `Joinable`. A release may read
    other columns of the topics: what waits is then decoded again.
    """

    def __init__(
        self,
        stage: Stage,
        bounds: Bounds,
        metrics: Metrics,
        positions: Tracker,
        most: int,
        free: Callable[[], Mapping[Partition, Array]],
        ended_at: Callable[[Partition], int],
    ) -> None:
        assert isinstance(stage.gather, Joined), "the caller has looked"
        self.gather, self._stage, self._bounds = stage.gather, stage, bounds
        self.members = {one.source.topic: at for at, one in enumerate(stage.inputs)}
        self._topics = [*self.members]
        self._metrics, self._positions, self._most = metrics, positions, most
        self._free, self._ended_at = free, ended_at
        self._partitions: dict[int, _Partition] = {}
        self._epoch = -1
        names = self.gather.quorum.members
        self._missing, self._late = (
            [one.labels(stage.name, member) for member in names] for one in (metrics.join_missing, metrics.join_late)
        )

    def _now(self) -> dict[int, _Partition]:
        """Returns the partitions. What waits from an assignment that has ended is forgotten: the next owner reads it again."""
        if self._epoch != self._positions.epoch:
            self._epoch = self._positions.epoch
            self._partitions = {}
        return self._partitions

    def _of(self, partition: int) -> _Partition:
        found = self._now().get(partition)
        if found is None:
            begins, free = self._positions.finished(), self._free()
            places = [(topic, partition) for topic in self._topics]
            kept = [_Kept(begins.get(one, 0), free.get(one, _NONE)) for one in places]
            found = self._partitions[partition] = _Partition(self.gather, self._stage, self._bounds, kept)
        return found

    def waiting(self) -> dict[str, int]:
        """Returns how many records of each member wait."""
        groups = [one.groups for one in self._now().values()]
        return {name: int(sum(one.waiting[at] for one in groups)) for at, name in enumerate(self.gather.quorum.members)}

    def room(self, partition: Partition) -> bool:
        """Returns whether more of a topic's partition may be read: the faster inputs are held back.

        Each partition of each topic may have the same share of the bytes, and takes no room of another one.
        """
        here = self._now().get(partition[1])
        if here is None:
            return True
        member, positions = self.members[partition[0]], self._positions
        share = max(self._most // max(len(positions.partitions), 1), 1)  # an empty one may always read
        return here.groups.room(member, self._bounds.reach - positions.reach(partition), share - here.kept[member].size) > 0

    def beyond(self, partition: Partition, position: int) -> Array:
        """Returns the offsets from the position on that are free, int64, ascending."""
        return self._of(partition[1]).kept[self.members[partition[0]]].beyond(position)

    def take(self, pipeline: Pipeline, span: Span, now_ms: int) -> list[Ready]:
        """Adds the records of a span, which is kept, and returns what goes on."""
        self._follow(pipeline)
        topic, number = span.partition
        here, member = self._of(number), self.members[topic]
        here.span = span
        records = here.kept[member].add(span)
        if not records:
            return []
        going = []
        began = time.perf_counter()
        batch = pipeline.port.inputs[topic].decode(records)
        self._metrics.decode_seconds.inc(time.perf_counter() - began)
        good = records if batch.rows is None else [records[row] for row in batch.rows.tolist()]
        if batch.failures:
            going.append(self._bad(pipeline, span, records, batch, member))
        if batch.size:
            ids = [_id(one) for one in good]
            stamps, offsets = (np.fromiter(map(get, good), np.int64, len(good)) for get in (_TIMESTAMP, _OFFSET))
            added = here.groups.add(member, ids, stamps, offsets, now_ms)
            here.rows.put(member, added.rows, added.slots, batch.columns)
            if added.fired:
                going.append(self._ready(pipeline, number, here, added.fired))
        self._release(here)
        return going

    def _bad(self, pipeline: Pipeline, span: Span, came: Sequence[RecordLike], batch: Batch, member: int) -> Ready:
        topic, number = span.partition
        records = [came[one.row] for one in batch.failures]
        failed = Batch(0, {}, np.zeros(0, np.int64), tuple(Failure(at, one.error) for at, one in enumerate(batch.failures)))
        passing = pipeline.gathered(Chunk(records, ((topic, number, len(records)),)), failed, [_id(one) for one in records])
        offsets = np.fromiter(map(_OFFSET, records), np.int64, len(records))
        return Ready(number, span, passing, _NONE, member, offsets)

    def due(self, pipeline: Pipeline, now_ms: int) -> list[Ready]:
        """Returns the groups that are not waited for any longer."""
        self._follow(pipeline)
        going = []
        for number, here in self._now().items():
            if here.groups.wakes >= now_ms:
                continue
            read_to = [self._read_to((topic, number), kept) for topic, kept in zip(self._topics, here.kept, strict=True)]
            decided = here.groups.due(now_ms, read_to)
            if decided:
                going.append(self._ready(pipeline, number, here, decided))
            self._release(here)
        return going

    def _read_to(self, partition: Partition, kept: _Kept) -> int:
        """Returns up to which time the partition is read, in ms. Records that were taken and are not here yet are not read."""
        return kept.newest if self._positions.under_way(partition) else max(kept.newest, self._ended_at(partition))

    def settle(self, ready: Ready) -> None:
        """Notes that everything that these rows caused was acknowledged."""
        if not ready.under.current:
            return
        here = self._of(ready.partition)
        if len(ready.tickets):
            here.groups.acknowledge(ready.tickets)
        if len(ready.offsets):
            here.kept[ready.member].free(ready.offsets.tolist())
        self._release(here)

    def _release(self, here: _Partition) -> None:
        late = here.groups.late + here.groups.repeated
        for member in np.flatnonzero(late != here.late).tolist():
            self._late[member].inc(int(late[member] - here.late[member]))
        here.late = late
        for member, offsets in enumerate(here.groups.freed()):
            if len(offsets):
                here.kept[member].free(offsets.tolist())

    # -- releases ----------------------------------------------------------------------------------------------------

    def _follow(self, pipeline: Pipeline) -> None:
        """Decodes again what waits, where a release reads other columns of the topics."""
        before, stage = self._stage, pipeline.stage.wired
        if stage is before:
            return
        assert isinstance(stage.gather, Joined), "the file has not changed"
        self._stage, self.gather = stage, stage.gather
        if [one.columns for one in before.inputs] == [one.columns for one in stage.inputs]:
            return
        for here in self._now().values():
            here.rows = _rows(self.gather, stage)
            for member, (topic, kept) in enumerate(zip(self._topics, here.kept, strict=True)):
                slots, offsets = here.groups.unanswered(member)
                if not len(slots):
                    continue
                batch = pipeline.port.inputs[topic].decode([kept.records[at] for at in offsets.tolist()])
                live = np.arange(batch.size) if batch.rows is None else batch.rows
                here.rows.put(member, np.arange(batch.size), slots[live], batch.columns)
                kept.unfit = {int(offsets[one.row]): one.error for one in batch.failures}

    def _unfit(self, here: _Partition, decided: Decided, live: Sequence[int]) -> dict[int, RecordError]:
        """Returns the error of each live row one of whose members the newest release cannot read."""
        found: dict[int, RecordError] = {}
        for member, kept in enumerate(here.kept):
            for at, group in enumerate(live if kept.unfit else ()):
                if (error := kept.unfit.get(int(decided.offsets[member, group]))) is not None:
                    found[at] = error
        return found

    # -- rows --------------------------------------------------------------------------------------------------------

    def _ready(self, pipeline: Pipeline, number: int, here: _Partition, decided: Decided) -> Ready:
        """Returns the groups as rows, in the order of the first member that each has: so those of one topic follow each other."""
        assert here.span is not None, "rows come from spans"
        for counter, member in zip(self._missing, decided.offsets, strict=True):
            if missing := int((member < 0).sum()):
                counter.inc(missing)
        batch, there = here.rows.take(decided), decided.offsets >= 0
        batch = batch.fail(self._unfit(here, decided, range(batch.size) if batch.rows is None else batch.rows.tolist()))
        order = np.argsort(there.argmax(axis=0), kind="stable")
        places = np.empty_like(order)
        places[order] = np.arange(len(order))
        live = np.arange(len(order)) if batch.rows is None else batch.rows
        inner = np.argsort(places[live], kind="stable")
        columns = {name: column[inner] for name, column in self._filled(batch.columns, there[:, live]).items()}
        failures = sorted((Failure(int(places[one.row]), one.error) for one in batch.failures), key=_ROW)
        batch = Batch(batch.size, columns, places[live][inner] if failures else None, tuple(failures))
        records, runs = [], list[tuple[str, int, int]]()
        for group in order.tolist():
            used = [at for at in range(len(self._topics)) if there[at, group]]
            members = [here.kept[at].forget(int(decided.offsets[at, group])) for at in used]
            topic = self._topics[used[0]]
            records.append(self._record(topic, number, members, used, int(decided.deadlines[group]), int(decided.overdue[group])))
            if runs and runs[-1][0] == topic:
                runs[-1] = (topic, number, runs[-1][2] + 1)
            else:
                runs.append((topic, number, 1))
        ids = [decided.ids[group] for group in order.tolist()]
        return Ready(number, here.span, pipeline.gathered(Chunk(records, tuple(runs)), batch, ids), decided.tickets)

    def _filled(self, columns: Mapping[str, Array], there: Array) -> dict[str, Array]:
        """Returns the columns with the values of members that are missing."""
        made = dict(columns)
        for at, (member, one) in enumerate(zip(self.gather.quorum.members, self._stage.inputs, strict=True)):
            gaps = ~there[at]
            if member in self.gather.fills and gaps.any():
                for column in one.columns:
                    if column.name not in self.gather.shared:
                        values = made[column.name].copy()
                        values[gaps] = self.gather.fills[member]
                        made[column.name] = values
        return made

    def _record(self, topic: str, number: int, members: Sequence[RecordLike], used: Sequence[int], deadline: int, late: int) -> Record:
        """Returns the first of the members' records, with what the headers of all of them say, and what was decided."""
        first, said = members[0], [dict(one.headers) for one in members]
        headers: list[Header] = [one for one in first.headers if one[0] not in (*_PASSED, JOIN)]
        for name in _PASSED:
            parts = dict.fromkeys(part for one in said for part in (one.get(name) or b"").split(b",") if part)
            headers.append((name, b",".join(parts)))
        quorum = self.gather.quorum
        there, missing = (",".join(one for at, one in enumerate(quorum.members) if (at in used) is wanted) for wanted in (True, False))
        decided = f"used={there};missing={missing};deadline={deadline};late={','.join(quorum.names(late))}".encode()
        earlier = dict.fromkeys(part for one in said for part in (one.get(JOIN) or b"").split(b" ") if part)
        headers.append((JOIN, b" ".join([*earlier, decided])))
        return Record(topic, first.value, first.key, headers, first.timestamp, number, first.offset)


def _rows(gather: Joined, stage: Stage) -> Rows:
    return Rows(gather.quorum, [one.columns for one in stage.inputs])


def _size(record: RecordLike) -> int:
    return len(record.value or b"") + len(record.key or b"") + AROUND


def _id(record: RecordLike) -> str:
    said = dict(record.headers)
    return (said.get(ID) or said.get(EVENT) or said.get(SOURCE) or b"").decode(errors="replace")
