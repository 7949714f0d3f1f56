"""Joining: the records of a stage that reads several topics, from taking them to the rows that the stage scores, and back to their spans.

Spans of such a stage are kept until their records are free (`penstock.joins`): each of them was answered with its event, or is late, a
repetition or no event at all. A restart reads the others again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Final, NamedTuple

import numpy as np

from penstock.batch import Array, Batch, Failure
from penstock.joins import Bounds, Decided, Groups, Rows
from penstock.pipeline.letters import EVENT, ID, JOIN, MODELS, SOURCE, STAGES
from penstock.pipeline.score import Chunk, Pass, Pipeline
from penstock.record import Header, Record, RecordLike
from penstock.telemetry import Metrics
from penstock.topology.wiring import Joined, Stage
from penstock.transports.tracker import Partition, Span

__all__ = ["Joining", "Ready"]

_OFFSET, _ROW, _TIMESTAMP = attrgetter("offset"), attrgetter("row"), attrgetter("timestamp")
_PASSED: Final = (MODELS, STAGES)  # headers that say what the stages before have run: of all members that were used


class Ready(NamedTuple):
    """Rows that go on now: those of groups with these `tickets`, or with none, records that are no events, at these `offsets`."""

    partition: int
    under: Span  # one of the assignment that they come from
    passing: Pass
    tickets: Array
    member: int = 0
    offsets: Array = np.zeros(0, np.int64)


class _Kept:
    """The spans of one partition of a topic whose records are not free yet; `freed` are the offsets that are, of these and later ones."""

    def __init__(self, freed: set[int]) -> None:
        self.freed = freed
        self.spans: list[Span] = []
        self.left: list[int] = []
        self.records: dict[int, RecordLike] = {}

    def add(self, span: Span) -> None:
        self.spans.append(span)
        self.left.append(len(span.records))
        self.records |= zip(map(_OFFSET, span.records), span.records, strict=True)

    def free(self, offsets: Sequence[int]) -> None:
        """Finishes the spans all of whose records are free now."""
        starts = [span.start for span in self.spans]
        self.freed.update(offsets)
        for offset in offsets:
            self.left[bisect_right(starts, offset) - 1] -= 1
            self.records.pop(offset, None)
        if 0 in self.left:
            for span, left in zip(self.spans, self.left, strict=True):
                if not left:
                    span.finish()
            self.spans, self.left = (
                [span for span, left in zip(self.spans, self.left, strict=True) if left],
                [left for left in self.left if left],
            )


class _Partition:
    """One partition of all inputs."""

    def __init__(self, gather: Joined, stage: Stage, bounds: Bounds, freed: Sequence[set[int]]) -> None:
        self.groups = Groups(gather.quorum, bounds)
        self.rows = Rows(gather.quorum, [one.columns for one in stage.inputs], gather.shared)
        self.kept = [_Kept(those) for those in freed]
        self.span: Span | None = None  # one of the assignment, under which is sent
        self.late = np.zeros(len(stage.inputs), np.int64)  # of the records that are counted


class Joining:
    """The records of one stage that wait, of the partitions that are assigned."""

    def __init__(self, stage: Stage, bounds: Bounds, metrics: Metrics) -> None:
        assert isinstance(stage.gather, Joined), "the caller has looked"
        self.gather, self._stage, self._bounds = stage.gather, stage, bounds
        self.members = {one.source.topic: at for at, one in enumerate(stage.inputs)}
        self._topics = [*self.members]
        self._partitions: dict[int, _Partition] = {}
        self._epoch = -1
        names = self.gather.quorum.members
        self._missing, self._late = (
            [one.labels(stage.name, member) for member in names] for one in (metrics.join_missing, metrics.join_late)
        )
        self._waiting = [metrics.join_waiting.labels(stage.name, member) for member in names]
        self._freed: Mapping[Partition, set[int]] = {}

    def _of(self, partition: int) -> _Partition:
        found = self._partitions.get(partition)
        if found is None:
            freed = [set(self._freed.get((topic, partition), ())) for topic in self._topics]
            found = self._partitions[partition] = _Partition(self.gather, self._stage, self._bounds, freed)
        return found

    def room(self, partition: Partition) -> bool:
        """Returns whether more of a topic's partition may be read: the faster inputs are held back."""
        member = self.members.get(partition[0])
        found = self._partitions.get(partition[1])
        return member is None or found is None or found.groups.room(member) > 0

    def begin(self, epoch: int, freed: Mapping[Partition, set[int]]) -> None:
        """Forgets what waits from an assignment that has ended: the next owner reads it again, without what was freed."""
        if epoch != self._epoch:
            self._epoch, self._freed = epoch, freed
            self._partitions.clear()

    def beyond(self, partition: Partition, position: int) -> set[int]:
        """Returns the offsets from the position on that are free."""
        kept = self._of(partition[1]).kept[self.members[partition[0]]]
        kept.freed = {one for one in kept.freed if one >= position}
        return set(kept.freed)

    def take(self, pipeline: Pipeline, span: Span, now_ms: int) -> list[Ready]:
        """Adds the records of a span, which is kept, and returns what goes on."""
        topic, number = span.partition
        here, member = self._of(number), self.members[topic]
        here.span = span
        kept = here.kept[member]
        done = [one.offset for one in span.records if one.offset in kept.freed]
        kept.add(span)
        span.keep()
        kept.free(done)
        records = [one for one in span.records if one.offset not in kept.freed] if done else span.records
        if not records:
            return []
        going = []
        batch = pipeline.port.inputs[topic].decode(records)
        rows = range(batch.size) if batch.rows is None else batch.rows.tolist()
        good: Sequence[RecordLike] = records if batch.rows is None else [records[row] for row in rows]
        if batch.failures:
            going.append(self._bad(pipeline, span, records, batch, member))
        if batch.size:
            ids = [_id(one) for one in good]
            stamps, offsets = (np.fromiter(map(get, good), np.int64, len(good)) for get in (_TIMESTAMP, _OFFSET))
            added = here.groups.add(member, ids, stamps, offsets, now_ms)
            here.rows.put(member, added, batch.columns)
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
        return Ready(number, span, passing, np.zeros(0, np.int64), member, offsets)

    def due(self, pipeline: Pipeline, now_ms: int, read_to: Mapping[Partition, int]) -> list[Ready]:
        """Returns the groups that are not waited for any longer. `read_to` is by partition, see `Joinable.read_to`."""
        going = []
        for number, here in self._partitions.items():
            if here.groups.wakes > now_ms:
                continue
            decided = here.groups.due(now_ms, [read_to.get((topic, number), 0) for topic in self._topics])
            if decided:
                going.append(self._ready(pipeline, number, here, decided))
            self._release(here)
        return going

    def settle(self, ready: Ready) -> None:
        """Notes that everything that these rows caused was acknowledged."""
        here = self._partitions.get(ready.partition)
        if here is None:
            return
        if len(ready.tickets):
            here.groups.acknowledge(ready.tickets)
        here.kept[ready.member].free(ready.offsets.tolist())
        self._release(here)

    def _release(self, here: _Partition) -> None:
        late = here.groups.late + here.groups.repeated
        for member in np.flatnonzero(late != here.late).tolist():
            self._late[member].inc(int(late[member] - here.late[member]))
        here.late = late
        for member, gauge in enumerate(self._waiting):
            gauge.set(int(sum(one.groups.waiting[member] for one in self._partitions.values())))
        for member, offsets in enumerate(here.groups.freed()):
            if len(offsets):
                here.kept[member].free(offsets.tolist())

    # -- rows --------------------------------------------------------------------------------------------------------

    def _ready(self, pipeline: Pipeline, number: int, here: _Partition, decided: Decided) -> Ready:
        """Returns the groups as rows, in the order of the first member that each has: so those of one topic follow each other."""
        assert here.span is not None, "rows come from spans"
        for counter, member in zip(self._missing, decided.offsets, strict=True):
            if missing := int((member < 0).sum()):
                counter.inc(missing)
        batch, there = here.rows.take(decided), decided.offsets >= 0
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
            members = [here.kept[at].records[int(decided.offsets[at, group])] for at in used]
            topic = self._topics[used[0]]
            records.append(self._record(topic, number, members, used, int(decided.deadlines[group])))
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

    def _record(self, topic: str, number: int, members: Sequence[RecordLike], used: Sequence[int], deadline: int) -> Record:
        """Returns the first of the members' records, with what the headers of all of them say, and what was decided."""
        first, said = members[0], [dict(one.headers) for one in members]
        headers: list[Header] = [one for one in first.headers if one[0] not in _PASSED]
        for name in _PASSED:
            parts = dict.fromkeys(part for one in said for part in (one.get(name) or b"").split(b",") if part)
            headers.append((name, b",".join(parts)))
        names = self.gather.quorum.members
        there, missing = (",".join(one for at, one in enumerate(names) if (at in used) is wanted) for wanted in (True, False))
        headers.append((JOIN, f"used={there};missing={missing};deadline={deadline}".encode()))
        return Record(topic, first.value, first.key, headers, first.timestamp, number, first.offset)


def _id(record: RecordLike) -> str:
    said = dict(record.headers)
    return (said.get(ID) or said.get(EVENT) or said.get(SOURCE) or b"").decode(errors="replace")
