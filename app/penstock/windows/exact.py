"""Windows whose length is exact: each key keeps its events, and each row reads those that it sees. Time and memory grow with the events.

An event is a row of float64 cells: its time, its offset, its values, and whether each track takes it. Offsets below 2^53 are exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from penstock.batch import Array
from penstock.windows.definition import Definition
from penstock.windows.partials import Cells, merge, single
from penstock.windows.partition import Partition
from penstock.windows.rows import Mark, Rows
from penstock.windows.sketches import read

__all__ = ["Exact"]

_TOGETHER: Final = 1 << 20  # events that are read at once
_TIME, _OFFSET, _VALUES = 0, 1, 2
_HEAD: Final = 2  # cells of a key before its events


class Exact(Partition):
    """The windows of one partition, as events by key, in the order of time and offset."""

    def __init__(self, definition: Definition) -> None:
        super().__init__(definition)
        self._takes = _VALUES + len(self._layout.columns)
        self._width = self._takes + len(self._layout.tracks)
        self._nothing = np.zeros((0, self._width))
        self._events: list[Array] = []  # by slot
        self._reach = max(one.length for one in definition.look_backs) + definition.lateness

    def _kept(self, times: Array, latest: Array) -> Array:
        return np.asarray(times >= latest - self._reach)

    def _fold(self, rows: Rows, into: Array, answers: Array) -> None:
        into[:] = self._layout.neutral
        there = np.flatnonzero((rows.slots >= 0) & (rows.marks & Mark.FUTURE == 0))
        slots, group = np.unique(rows.slots[there], return_inverse=True)
        counts = rows.marks[there] & Mark.COUNTED != 0
        kept = [self._events[slot] for slot in slots.tolist()]
        own = np.column_stack([rows.times, rows.offsets, rows.values.T, rows.takes.T])
        events = np.concatenate([self._nothing, *kept, own[there[counts]]])
        of = np.concatenate([np.repeat(np.arange(len(slots)), [len(one) for one in kept]), group[counts]])
        order = np.lexsort((events[:, _OFFSET], events[:, _TIME], of))
        events, of = events[order], of[order]
        times, offsets = rows.times[there], rows.offsets[there]
        if self.definition.include_self:
            self._answer(events[:0], np.zeros(0, np.int64), rows, np.flatnonzero(rows.marks & Mark.FUTURE == 0), answers)
        end = _before(of, events, group, times, offsets)
        for at, back in enumerate(self.definition.look_backs):
            oldest = np.maximum(times, rows.latest[there] - self.definition.lateness) - back.length
            begin = np.minimum(_before(of, events, group, oldest, np.full(len(there), -1)), end)
            parts = max(1, -(-int((end - begin).sum()) // _TOGETHER))
            for part in np.array_split(np.arange(len(there)), parts):
                self._read(events, begin[part], end[part], offsets[part], rows, there[part], into[:, at], answers[:, at : at + 1])
        if self.definition.include_self:
            self._include(rows, into)
        self._keep(slots, events, of, max(rows.latest[-1:].max(initial=self.standing.latest), times.max(initial=self.standing.latest)))
        counting = there[counts]
        np.maximum.at(self._newest, rows.slots[counting], rows.times[counting])
        self._counted[rows.slots[counting]] = rows.offsets[counting]

    def _read(self, events: Array, begin: Array, end: Array, offsets: Array, rows: Rows, of: Array, into: Array, answers: Array) -> None:
        """Sets the partials of the rows `of`: each reads events [begin, end), but for those that came after it."""
        sizes = end - begin
        at = np.repeat(begin - (sizes.cumsum() - sizes), sizes) + np.arange(int(sizes.sum()))
        row = np.repeat(of, sizes)
        came = events[at, _OFFSET] < np.repeat(offsets, sizes)
        for number, track in enumerate(self._layout.tracks):
            takes = came & (events[at, self._takes + number] > 0)
            if takes.any():
                self._reduce(events[at[takes]], row[takes], track, into)
        self._answer(events[at[came]], row[came], rows, of, answers)

    def _answer(self, events: Array, row: Array, rows: Rows, of: Array, answers: Array) -> None:
        """Sets what is read of these events, each for its row, and with `include_self` of the rows `of` themselves."""
        for place, reading in enumerate(self._layout.readings):
            column, takes = self._layout.tracks[reading.track].column, events[:, self._takes + reading.track] > 0
            values, at = events[takes, _VALUES + column], row[takes]
            if self.definition.include_self:
                own = of[rows.takes[reading.track, of]]
                values, at = np.concatenate([values, rows.values[column, own]]), np.concatenate([at, own])
            for back in range(answers.shape[1]):
                read(reading, values, at, answers[:, back, place])

    def _reduce(self, events: Array, row: Array, track: Cells, into: Array) -> None:
        """Sets the cells of one track to what these events make, ordered by row."""
        first = np.flatnonzero(np.r_[True, row[1:] != row[:-1]])
        sizes = np.diff(np.r_[first, len(row)])
        rows, values = row[first], events[:, _VALUES + max(track.column, 0)] if track.column >= 0 else np.zeros(len(row))
        into[rows, track.at] = sizes
        total = np.add.reduceat(values, first)
        for part, at in track.of.items():
            match part:
                case "sum":
                    into[rows, at] = total
                case "m2":
                    into[rows, at] = np.add.reduceat((values - np.repeat(total / sizes, sizes)) ** 2, first)
                case "min":
                    into[rows, at] = np.minimum.reduceat(values, first)
                case "max":
                    into[rows, at] = np.maximum.reduceat(values, first)
                case "first":
                    into[rows, at], into[rows, at + 1] = events[first, _TIME], values[first]
        for back in range(track.last):
            some = sizes > back
            at = (first + sizes - 1 - back)[some]
            into[rows[some], track.newest + 2 * back] = events[at, _TIME]
            into[rows[some], track.newest + 2 * back + 1] = values[at]

    def _include(self, rows: Rows, into: Array) -> None:
        there = np.flatnonzero(rows.marks & Mark.FUTURE == 0)
        own = single(self._layout, rows.times, rows.values, rows.takes)[there]
        for back in range(into.shape[1]):
            seen = into[there, back]
            merge(self._layout, seen, own)
            into[there, back] = seen

    def _keep(self, slots: Array, events: Array, of: Array, latest: int) -> None:
        young = events[:, _TIME] >= latest - self._reach
        events, of = events[young], of[young]
        ends = np.searchsorted(of, np.arange(len(slots)), side="right").tolist()
        for slot, begin, end in zip(slots.tolist(), [0, *ends], ends, strict=False):
            self._events[slot] = events[begin:end].copy()

    def _grow(self, slots: int) -> None:
        self._events.extend(self._nothing for _ in range(slots - len(self._events)))

    def _dead(self, begin: int, end: int) -> Array:
        return np.asarray(self._newest[begin:end] < self.standing.latest - self._reach)

    def _drop(self, slots: Array) -> None:
        for slot in slots.tolist():
            self._events[slot] = self._nothing

    def _pack(self, slots: Array, heads: Array) -> list[bytes]:
        oldest = self.standing.latest - self._reach
        kept = (self._events[slot] for slot in slots.tolist())
        return [
            head.astype("<i8").tobytes() + events[events[:, _TIME] >= oldest].astype("<f8").tobytes()
            for head, events in zip(heads, kept, strict=True)
        ]

    def _unpack(self, slots: Array, values: Sequence[bytes]) -> Array:
        cells = [len(value) // 8 - _HEAD for value in values]
        if any(len(value) % 8 or size < 0 or size % self._width for value, size in zip(values, cells, strict=True)):
            raise ValueError("the bytes of a key have another length")
        for slot, value in zip(slots.tolist(), values, strict=True):
            self._events[slot] = np.frombuffer(value, "<f8", offset=8 * _HEAD).reshape(-1, self._width)
        return np.array([np.frombuffer(value, "<i8", _HEAD) for value in values])

    def _columns(self, slots: int) -> dict[str, Array]:
        sizes = np.fromiter(map(len, self._events), np.int64, slots)
        return {"events": np.concatenate([self._nothing, *self._events]), "lengths": sizes}

    def _load(self, columns: Mapping[str, Array], slots: int) -> None:
        events, sizes = columns["events"], columns["lengths"]
        if events.shape != (sizes.sum(), self._width) or len(sizes) != slots or sizes.min(initial=0) < 0:
            raise ValueError("the arrays have other shapes")
        ends = sizes.cumsum().tolist()
        self._events = [events[begin:end].copy() for begin, end in zip([0, *ends], ends, strict=False)]


def _before(of: Array, events: Array, group: Array, times: Array, offsets: Array) -> Array:
    """Returns how many of the events, sorted by group, time and offset, come before each (group, time, offset): int64 [N]."""
    kind = np.repeat([1, 0], [len(of), len(group)])
    time, offset = np.concatenate([events[:, _TIME], times]), np.concatenate([events[:, _OFFSET], offsets])
    order = np.lexsort((kind, offset, time, np.concatenate([of, group])))
    found = np.empty(len(order), np.int64)
    found[order] = kind[order].cumsum()
    return found[len(of) :]
