"""Matching: a stage whose rows are pairs of events of two topics, by a key and within a time (`joins/sides`).

Spans are finished as in any other stage, when everything that they caused is acknowledged: what waits for a partner is in the state, not
in offsets that are held back. So a record goes through one of these, and its pairs through the steps of the pipeline:

1. it is no event, or of no time: a dead letter
2. the state has counted it: a replay, which answers nothing
3. it becomes a pair with each partner that is there, and is kept for those that come

What `over` removes is out of reach of the other side; left events among it that had no partner go on alone, with `unmatched: keep`. The
rows of both kinds keep the key, the timestamp, the headers and the id of their left record.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np

from penstock.batch import Array, Batch, Failure
from penstock.errors import DecodeError, InferenceError, RecordError, SchemaWanted
from penstock.joins.sides import Row, Side
from penstock.pipeline.letters import MATCH
from penstock.pipeline.score import Chunk, Pass, Pipeline
from penstock.record import Record, RecordLike
from penstock.schema import Column
from penstock.state import NEVER, States
from penstock.telemetry import Metrics
from penstock.topology.wiring import Matched
from penstock.windows import keys_of

__all__ = ["Matching", "sides"]

LEFT, RIGHT = 0, 1
_MARKS: Final = ("pairs", "unmatched", "late", "replayed", "evicted")


class _Came(NamedTuple):
    """A live row of a chunk: its place in the decoded batch, its record, key, time and partition, and whether it was counted before."""

    at: int
    record: RecordLike
    key: bytes
    time: int
    partition: int
    counted: bool


class Matching:
    """The pairs of a stage. `pipeline` is that of the active program, `chunk_rows` how many rows go through the models together."""

    def __init__(self, pipeline: Pipeline, metrics: Metrics) -> None:
        stage = pipeline.stage.wired
        assert isinstance(stage.gather, Matched), "the caller has looked"
        self._pipeline, self._gather, self._match = pipeline, stage.gather, stage.gather.match
        self._inputs, self._topics = stage.inputs, stage.topics
        self._ports = [pipeline.port.inputs[topic] for topic in stage.topics]
        self._names = stage.gather.remembers
        self._makes = sides(stage.gather)
        self._metrics = metrics
        read = {column for step in stage.steps for column in step.reads}
        read |= {part.column for emit in stage.emits for part in (*(one.part for one in emit.fields), emit.key) if part is not None}
        right = stage.inputs[RIGHT].columns
        # The key and the time of an event that is not there are not read, unless a node or a sink reads the same column.
        self._nulls = [one for one in right if one.missing.action == "reject" and one.name in read]
        self._counts = {mark: metrics.match_rows.labels(self._match.name, mark) for mark in _MARKS}

    # -- where both sides are --------------------------------------------------------------------------------------

    def newest(self, states: States, partition: tuple[str, int]) -> int:
        """Returns the newest event time of a topic's partition, in ms; NEVER before the first."""
        side = states.look(self._names[self._topics.index(partition[0])], partition[1])
        return NEVER if side is None else side.standing.latest

    def other(self, partition: tuple[str, int]) -> tuple[str, int]:
        """Returns the partition of the other topic."""
        return self._topics[1 - self._topics.index(partition[0])], partition[1]

    @property
    def reach(self) -> int:
        """How far apart in time, in ms, two events of a pair may be when the first of them is still kept."""
        return self._match.within_ms + self._match.before_ms + self._match.lateness_ms

    @property
    def lateness(self) -> int:
        return self._match.lateness_ms

    @property
    def topics(self) -> tuple[str, ...]:
        """The topic of the left events, and that of the right ones."""
        return self._topics

    # -- records that come -----------------------------------------------------------------------------------------

    def take(self, chunk: Chunk, states: States, now_ms: int) -> Iterator[Pass]:
        """Yields the rows that the records of a chunk of one topic make, as many at once as a chunk has; one key may have very many.

        The records are counted when all is taken; nothing else may change the states before. Raises SchemaWanted, and counted none then.
        """
        began = time.perf_counter()
        side = self._topics.index(chunk.places[0][0])
        batch = self._ports[side].decode(chunk.records)
        came, failures = self._read(side, chunk, batch, states, now_ms)
        failures = [*(Failure(one.row, self._unfit(one.error)) for one in batch.failures), *failures]
        paired, pairs = set[int](), 0
        for some in self._some(side, came, states):
            pairs += len(some)
            paired.update(one.at for one, _ in some)
            for passing in self._pairs(side, batch, some):
                self._metrics.decode_seconds.inc(time.perf_counter() - began)
                yield passing
                began = time.perf_counter()
        self._keep(side, chunk, came, paired, states, now_ms)
        self._counts["pairs"].inc(pairs)
        if skipped := chunk.rows - batch.size - len(batch.failures):
            self._metrics.skipped.inc(skipped)
        self._metrics.decode_seconds.inc(time.perf_counter() - began)
        if failures:
            yield self._failed(chunk, failures)

    def _read(self, side: int, chunk: Chunk, batch: Batch, states: States, now_ms: int) -> tuple[list[_Came], list[Failure]]:
        """Returns the events, and those that are of no time."""
        if not batch.size:
            return [], []
        match = self._match
        rows = range(batch.size) if batch.rows is None else batch.rows.tolist()
        keys = keys_of([batch.columns[name] for name in self._gather.by[side]])
        column, scale = self._gather.times[side], self._gather.scales[side]
        times = (batch.columns[column] // scale).tolist() if column else [chunk.records[row].timestamp for row in rows]
        numbers = [number for _, number, count in chunk.places for _ in range(count)]
        came, failures = [], []
        for at, (row, key, stamp) in enumerate(zip(rows, keys, times, strict=True)):
            if not NEVER < stamp <= now_ms + match.ahead_ms or (not column and stamp < 0):  # a record without a timestamp has -1
                failures.append(Failure(row, self._no_time(stamp, now_ms)))
                continue
            own, record = states.look(self._names[side], numbers[row]), chunk.records[row]
            counted = isinstance(own, Side) and own.counts(key, record.offset)
            came.append(_Came(at, record, key, stamp, numbers[row], counted))
        return came, failures

    def _partners(self, side: int, one: _Came, states: States) -> list[Row]:
        match, other = self._match, states.look(self._names[1 - side], one.partition)
        earlier, later = (match.before_ms, match.within_ms) if side == LEFT else (match.within_ms, match.before_ms)
        return other.partners(one.key, one.time - earlier, one.time + later) if isinstance(other, Side) else []

    def _some(self, side: int, came: Sequence[_Came], states: States) -> Iterator[list[tuple[_Came, Row]]]:
        """Yields the pairs of events that were not counted before, as many at once as a chunk has."""
        pairs: list[tuple[_Came, Row]] = []
        for one in came:
            for row in () if one.counted else self._partners(side, one, states):
                pairs.append((one, row))
                if len(pairs) == self._pipeline.chunk_rows:
                    yield pairs
                    pairs = []
        if pairs:
            yield pairs

    def _no_time(self, stamp: int, now_ms: int) -> RecordError:
        if stamp <= now_ms:
            return InferenceError(f"{stamp} ms is not a time of events", where=self._match.name)
        most = f"more than {self._match.ahead_ms / 1000:g} s (ahead)"
        return InferenceError(f"the event is {(stamp - now_ms) / 1000:,.0f} s ahead of the clock, {most}", where=self._match.name)

    def _keep(self, side: int, chunk: Chunk, came: Sequence[_Came], paired: Collection[int], states: States, now_ms: int) -> None:
        """Counts the events, and marks the left ones that have a partner. The newest time is never ahead of the clock."""
        marks = self._match.unmatched == "keep"
        latest = dict.fromkeys((number for _, number, _ in chunk.places), NEVER)
        late = replayed = 0
        for one in came:
            own = states.at(self._names[side], one.partition, self._makes[side])
            if marks and side == RIGHT and (one.counted or one.at in paired):
                states.at(self._names[LEFT], one.partition, self._makes[LEFT]).mark(one.key, self._partners(side, one, states))
            if one.counted:
                replayed += 1
                continue
            late += one.time < own.standing.latest - self._match.lateness_ms
            own.add(one.key, Row.of(one.record, one.time, matched=one.at in paired))
            latest[one.partition] = max(latest[one.partition], min(one.time, now_ms))
        at = 0
        for _, number, count in chunk.places:
            at += count
            if count:
                own = states.at(self._names[side], number, self._makes[side])
                own.advance(chunk.records[at - 1].offset, latest[number])
        self._counts["late"].inc(late)
        self._counts["replayed"].inc(replayed)

    # -- what nothing can come for any more --------------------------------------------------------------------------

    def over(self, states: States, number: int, read_to: tuple[int, int], most: int) -> list[Pass] | None:
        """Removes events of a partition, up to about `most` of a side, and returns the left ones that go on alone; None: there is nothing.

        `read_to` is the time up to which each topic is read, in ms. Raises SchemaWanted, and has removed no left event then.
        """
        found, alone, left = False, list[Row](), list[tuple[bytes, Row]]()
        for side in (LEFT, RIGHT):
            state = states.look(self._names[side], number)
            if not isinstance(state, Side) or not state.due(read_to[1 - side], self._match.max_keys):
                continue
            found = True
            state = states.at(self._names[side], number, self._makes[side])
            gone, evicted = state.over(read_to[1 - side], self._match.max_keys, most)
            self._counts["evicted"].inc(len(evicted))
            if side == LEFT and self._match.unmatched == "keep":
                left = [*gone, *evicted]
                alone = [row for _, row in left if not row.matched]
        if not found:
            return None
        try:
            passes = [*self._alone(number, alone)]
        except SchemaWanted:
            states.at(self._names[LEFT], number, self._makes[LEFT]).put_back(left)
            raise
        self._counts["unmatched"].inc(len(alone))
        return passes

    # -- rows ------------------------------------------------------------------------------------------------------

    def _pairs(self, side: int, batch: Batch, pairs: Sequence[tuple[_Came, Row]]) -> Iterator[Pass]:
        """Yields these pairs of the events of a batch and their partners."""
        topic, places = self._topics[1 - side], dict[tuple[int, int], int]()
        for one, row in pairs:
            places.setdefault((one.partition, row.offset), len(places))
        partners: list[Record] = []
        seen = set[tuple[int, int]]()
        for one, row in pairs:
            if (place := (one.partition, row.offset)) not in seen:
                seen.add(place)
                partners.append(row.record(topic, one.partition))
        found = self._ports[1 - side].decode(partners)
        at = np.array([one.at for one, _ in pairs], np.intp)
        of = np.array([places[one.partition, row.offset] for one, row in pairs], np.intp)
        columns = {column.name: batch.columns[column.name][at] for column in self._inputs[side].columns}
        whole = np.zeros(len(partners), np.intp)
        whole[np.arange(found.size) if found.rows is None else found.rows] = np.arange(found.size)
        errors = {one.row: one.error for one in found.failures}  # a release reads other fields of what is kept
        bad = {row: errors[int(of[row])] for row in range(len(pairs)) if int(of[row]) in errors} if errors else {}
        for column in self._inputs[1 - side].columns:
            values = found.columns[column.name]
            columns[column.name] = values[whole[of]] if found.size else np.zeros((len(pairs), *values.shape[1:]), values.dtype)
        lefts: list[RecordLike] = [one.record for one, _ in pairs] if side == LEFT else [partners[place] for place in of.tolist()]
        rights = [row.offset for _, row in pairs] if side == LEFT else [one.record.offset for one, _ in pairs]
        said = [f"{self._topics[RIGHT]}/{one.partition}/{right}" for (one, _), right in zip(pairs, rights, strict=True)]
        yield from self._passes(lefts, [one.partition for one, _ in pairs], said, Batch(len(pairs), columns).fail(bad))

    def _alone(self, number: int, rows: Sequence[Row]) -> Iterator[Pass]:
        """Yields left events without a partner, with what a null is to the readers of the right one's fields."""
        if not rows:
            return
        records = [row.record(self._topics[LEFT], number) for row in rows]
        batch = self._ports[LEFT].decode(records)
        nothing = {column.name: _filled(column, batch.size) for column in self._inputs[RIGHT].columns}
        live = batch.with_columns(nothing)
        if self._nulls:
            name = self._nulls[0].field
            error = DecodeError(f"field {name!r} is null: the event of {self._match.left} has no partner in {self._match.right}")
            live = live.fail(dict.fromkeys(range(batch.size), error))
        yield from self._passes(records, [number] * len(records), [""] * len(records), live)

    def _passes(self, lefts: Sequence[RecordLike], numbers: Sequence[int], rights: Sequence[str], batch: Batch) -> Iterator[Pass]:
        """Yields the rows, as many at once as a chunk has. `rights` are the positions of the right events, "" for an event without one."""
        records = [_paired(one, right) for one, right in zip(lefts, rights, strict=True)]
        most, topic = self._pipeline.chunk_rows, self._topics[LEFT]
        rows = np.arange(batch.size) if batch.rows is None else batch.rows
        for start in range(0, len(records), most):
            end = min(start + most, len(records))
            inside = np.flatnonzero((rows >= start) & (rows < end))
            failures = tuple(Failure(one.row - start, one.error) for one in batch.failures if start <= one.row < end)
            part = Batch(
                len(inside),
                {name: column[inside] for name, column in batch.columns.items()},
                rows[inside] - start if failures else None,
                failures,
            )
            yield self._pipeline.paired(Chunk(records[start:end], _runs(topic, numbers[start:end])), part)

    def _unfit(self, error: RecordError) -> RecordError:
        """Returns the error without the advice for other sources: the key and the time of a match have no `missing`."""
        text, cut, _ = str(error).partition(", and the topology gives no value")
        return InferenceError(f"{text}, and the match needs it as its key or its time", where=self._match.name) if cut else error

    def _failed(self, chunk: Chunk, failures: Iterable[Failure]) -> Pass:
        """Returns the records that are no events."""
        ordered = sorted(failures, key=lambda one: one.row)
        of = chunk.pick([one.row for one in ordered])
        made = tuple(Failure(at, one.error) for at, one in enumerate(ordered))
        return self._pipeline.gathered(of, Batch(0, {}, np.zeros(0, np.int64), made), None)


def sides(gather: Matched) -> tuple[partial[Side], partial[Side]]:
    """Returns what makes an empty state of the left and of the right side of a match."""
    return partial(Side, gather.state, gather.match.within_ms), partial(Side, gather.state, gather.match.before_ms)


def _paired(record: RecordLike, right: str) -> Record:
    headers = [one for one in record.headers if one[0] != MATCH]
    return Record("", record.value, record.key, [*headers, (MATCH, right.encode())], record.timestamp, 0, record.offset)


def _runs(topic: str, numbers: Sequence[int]) -> tuple[tuple[str, int, int], ...]:
    runs: list[tuple[str, int, int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number:
            runs[-1] = (topic, number, runs[-1][2] + 1)
        else:
            runs.append((topic, number, 1))
    return tuple(runs)


def _filled(column: Column, size: int) -> Array:
    """Returns the column of events that are not there: what is in place of null, and anything where nothing reads it."""
    fill = column.missing.value if column.missing.action == "fill" else "" if column.dtype == "string" else 0
    axes = [axis for axis in column.shape if axis is not None]
    ragged = len(axes) < len(column.shape)
    kind: Any = object if ragged or fill is None or column.dtype == "string" else column.dtype
    made: Array = np.empty((size, *(() if ragged else axes)), kind)
    if ragged:
        for row in range(size):
            made[row] = np.zeros(0, column.dtype)
    else:
        made[...] = fill
    return made
