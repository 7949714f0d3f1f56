"""The last real rows that a worker has scored, and the rows that fail while a generation is guarded: an observer of every chunk.

It keeps records, not columns: another plan may decode them differently. Rows that failed are not kept, so a flood of bad records cannot
displace the rows that a candidate is compared on. While there is room it keeps every scored row. Once it is full, it takes a part of one
chunk per PAUSE seconds, so that a fast stream pays for ten parts per second, and what is kept spans seconds, not milliseconds.
Records and outputs are shared with the chunk or copied, never changed. Rows and bytes are bounded, per stage.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from penstock.batch import Array, Batch, Failure, Table
from penstock.engine import Stage
from penstock.errors import RecordError
from penstock.pipeline import Chunk
from penstock.record import RecordLike, Unreadable

__all__ = ["PART", "Failing", "Kept", "Recent", "Watched", "outputs_of"]

PART: Final = 64  # rows of one chunk that are kept
PAUSE: Final = 0.1  # seconds between two parts that replace older ones
ROOM: Final = 8 * 1024**2  # bytes per stage, records and outputs together
QUEUE: Final = 1024  # failing rows of each kind, of ROOM bytes, that wait to be checked; further ones are only counted


@dataclass(frozen=True, slots=True)
class Kept:
    """Rows of a chunk that a generation has scored, and their outputs by the field's name, `[chunk.rows, ...]`."""

    chunk: Chunk
    generation: int
    outputs: Mapping[str, Array]

    @property
    def nbytes(self) -> int:
        """The bytes of the records and of the outputs, by estimate."""
        return sum(map(_weight, self.chunk.records)) + sum(map(_bytes, (*self.outputs.values(), *self.chunk.recalled.values())))


@dataclass(frozen=True, slots=True)
class Failing:
    """A row of a stage on which the guarded generation failed, with the reason; a chunk of one record."""

    stage: str
    row: Chunk
    error: RecordError

    @property
    def decoded(self) -> bool:
        return self.error.where not in ("read", "decode")


class _Waiting:
    """Failing rows that wait, bounded; `unchecked` counts those that found no room."""

    def __init__(self) -> None:
        self.unchecked = 0
        self._rows: deque[tuple[Failing, int]] = deque()
        self._entered = self._left = 0  # bytes; each is written by one thread

    def __len__(self) -> int:
        return len(self._rows)

    def put(self, stage: str, chunk: Chunk, row: int, error: RecordError) -> None:
        alone = _own(chunk.part(row, row + 1))
        nbytes = _weight(chunk.records[row]) + sum(map(_bytes, alone.recalled.values()))
        if len(self._rows) >= QUEUE or self._entered - self._left + nbytes > ROOM:
            self.unchecked += 1
        else:
            self._entered += nbytes
            self._rows.append((Failing(stage, alone, error), nbytes))

    def take(self, most: int) -> list[Failing]:
        taken = [self._rows.popleft() for _ in range(min(most, len(self._rows)))]
        self._left += sum(nbytes for _, nbytes in taken)
        return [one for one, _ in taken]


class Watched:
    """The rows of one generation since its switch: how many it scored, and those on which it failed, by stage.

    Records that were not decoded wait apart, so a flood of them leaves room for the rows that a model fails on.
    """

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.ok = 0
        self._waiting = {decoded: _Waiting() for decoded in (True, False)}

    def failed(self, stage: str, chunk: Chunk, failures: Sequence[Failure]) -> None:
        """Counts a chunk with rows that failed."""
        if isinstance(chunk.records[0], Unreadable):  # no plan scores these
            return
        errors = {failure.row: failure.error for failure in reversed(failures)}
        self.ok += chunk.rows - len(errors)
        for row in sorted(errors):
            self._waiting[errors[row].where not in ("read", "decode")].put(stage, chunk, row, errors[row])

    def unchecked(self, decoded: bool) -> int:
        """Returns how many failing rows of a kind were only counted."""
        return self._waiting[decoded].unchecked

    def take(self, most: int) -> list[Failing]:
        """Returns up to `most` failing rows that were not returned before: of both kinds, each the oldest first."""
        late, early = self._waiting[True], self._waiting[False]
        taken = late.take(max(most // 2, most - len(early)))
        return taken + early.take(most - len(taken))


class _Ring:
    """The parts of one stage."""

    __slots__ = ("again", "full", "nbytes", "parts", "rows", "turn")

    def __init__(self) -> None:
        self.parts: deque[tuple[Kept, int]] = deque()
        self.rows = self.nbytes = self.turn = 0
        self.again = 0.0
        self.full = False


class Recent:
    """See the top of this module. `rows` are kept per stage; 0 keeps none. `watched` is set while a generation is guarded."""

    name = "recent"

    def __init__(self, rows: int, *, room: int = ROOM, clock: Callable[[], float] = time.monotonic) -> None:
        self.watched: Watched | None = None
        self._most, self._room, self._clock = rows, room, clock
        self._rings: dict[str, _Ring] = {}

    def kept(self, generation: int | None = None) -> dict[str, list[Kept]]:
        """Returns what is kept now, by stage, the oldest first: of one generation, or of all. Any thread may call it."""
        rings = dict(self._rings)
        found = {stage: [part for part, _ in list(ring.parts) if generation in (None, part.generation)] for stage, ring in rings.items()}
        return {stage: parts for stage, parts in found.items() if parts}

    def saw(self, stage: Stage, batch: Batch, failures: Sequence[Failure], *, generation: int) -> None:
        origin = batch.origin
        if origin is None:
            return
        records = origin.records
        watched = self.watched
        if watched is not None and watched.generation == generation:
            if failures:
                watched.failed(stage.wired.name, Chunk(records, tuple(origin.places), origin.recalled), failures)
            else:
                watched.ok += len(records)
        name = stage.wired.name
        ring = self._rings.get(name)
        if ring is None:
            ring = self._rings[name] = _Ring()
        now = self._clock() if ring.full else 0.0
        if ring.full and now < ring.again:
            return
        if not self._most or not records or isinstance(records, Table) or isinstance(records[0], Unreadable):
            return
        scored = _scored(batch, failures)
        size = len(scored)
        if not size:
            return
        part = partial(_part, stage, batch, scored, generation)
        if ring.full:
            ring.again = now + PAUSE
            ring.turn += 1
            count = min(size, PART, self._most)
            start = (ring.turn * PART) % (size - count + 1)  # not always the first rows: a chunk may hold several partitions
            self._keep(ring, start, start + count, part)
            return
        for start in range(0, min(size, self._most - ring.rows), PART):
            self._keep(ring, start, min(start + PART, size, start + self._most - ring.rows), part)

    def _keep(self, ring: _Ring, start: int, end: int, part: Callable[[int, int], Kept]) -> None:
        """Keeps these of a chunk's scored rows, or fewer if they are large, instead of the oldest."""
        kept = part(start, end)
        nbytes, most = kept.nbytes, self._room // 8
        if nbytes > most:
            kept = part(start, start + max(1, (end - start) * most // nbytes))
            nbytes = kept.nbytes
            if nbytes > most:
                return
        ring.parts.append((kept, nbytes))
        ring.rows += kept.chunk.rows
        ring.nbytes += nbytes
        ring.full = ring.full or ring.rows >= self._most or ring.nbytes >= self._room // 2
        while ring.rows > self._most or ring.nbytes > self._room:
            old, freed = ring.parts.popleft()
            ring.rows -= old.chunk.rows
            ring.nbytes -= freed


def _scored(batch: Batch, failures: Sequence[Failure]) -> Array:
    """Returns the places in the batch of the rows that became outputs, ascending."""
    if not failures:
        return np.arange(batch.size)
    rows = np.arange(batch.size) if batch.rows is None else batch.rows
    return np.flatnonzero(~np.isin(rows, [failure.row for failure in failures]))


def _part(stage: Stage, batch: Batch, scored: Array, generation: int, start: int, end: int) -> Kept:
    origin = batch.origin
    assert origin is not None
    places = scored[start:end]
    rows = places if batch.rows is None else batch.rows[places]
    chunk = _own(Chunk(origin.records, tuple(origin.places), origin.recalled).pick(rows.tolist()))
    return Kept(chunk, generation, {name: column[places] for name, column in outputs_of(stage, batch).items()})


def _own(chunk: Chunk) -> Chunk:
    """Returns the chunk with columns of its size: those of a part refer to all of the chunk's."""
    return Chunk(chunk.records, chunk.places, {name: column.copy() for name, column in chunk.recalled.items()})


def _weight(record: RecordLike) -> int:
    """Returns the bytes of a record, its headers and what Python adds included, by estimate."""
    headers = sum(len(name) + len(value or b"") + 150 for name, value in record.headers)
    return len(record.value or b"") + len(record.key or b"") + headers + 200


def _bytes(column: Array) -> int:
    if column.dtype.kind != "O":
        return column.nbytes
    return column.nbytes + sum(len(one) + 50 for one in column.ravel().tolist() if isinstance(one, str | bytes))


def outputs_of(stage: Stage, batch: Batch) -> dict[str, Array]:
    """Returns the fields of the stage's sinks that its nodes compute, by name, each `[batch.size, ...]`; of a stage with several
    sinks, the name is SINK.FIELD. Fields that are copied from the event are left out. The rows that a sink does not write are null.
    """
    given = {column.name for one in stage.wired.inputs for column in one.columns}
    many = len(stage.outputs) > 1
    found = {}
    for output in stage.outputs:
        when = output.emit.when
        written = None if when is None or batch.columns[when].all() else batch.columns[when]
        for field, pick in zip(output.emit.fields, output.picks, strict=True):
            if field.part.column not in given:
                column = pick(batch.columns)
                if written is not None:
                    column = column.astype(object)
                    column[~written] = None
                found[f"{output.emit.sink.name}.{field.name}" if many else field.name] = column
    return found
