"""The windows of one partition: what happens to a batch, and what its keys are. How events are kept is up to the two kinds below it.

A batch goes through four steps: 1. each row is marked, by time and offset, 2. keys get places, 3. the rows are computed and counted in the
order of their offsets, 4. keys that no event can see anymore are removed. Steps 1 to 3 depend on the rows before, never on where a batch
was cut, and step 4 changes no feature, unless there are more keys than `cap`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Final, NamedTuple

import numpy as np

from penstock.batch import Array
from penstock.state.base import KEY, NEVER, Entry, Standing, counted, folded, standing_entry
from penstock.state.seen import SEEN, Seen
from penstock.windows.definition import Definition
from penstock.windows.features import features
from penstock.windows.partials import Layout
from penstock.windows.rings import grown
from penstock.windows.rows import Mark, Rows
from penstock.windows.sketches import tokens

__all__ = ["Partition", "Windowed"]

_CHUNK: Final = 8192  # rows that are computed, and records that are restored, together
_TOGETHER: Final = 1024  # slots that are looked at together, if there are so many
_TIMES: Final = 2**53  # ms, on both sides of the epoch: such times are exact as float64


class Windowed(NamedTuple):
    """The features of a batch's rows, by name, and what happened to each row: bits of `Mark`, uint8 [N]. Rows of the future have none."""

    columns: dict[str, Array]
    marks: Array

    def count(self, mark: Mark) -> int:
        """Returns how many rows have the mark."""
        return int(np.count_nonzero(self.marks & mark))


class Partition(ABC):
    """The windows of the keys of one partition: a `penstock.state.Keyed`."""

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.name = definition.state
        self.standing = Standing()
        self._layout = Layout(definition)
        self._index: dict[bytes, int] = {}
        self._keys: list[bytes | None] = []  # by slot
        self._spare: list[int] = []  # slots without a key
        self._newest = np.zeros(0, np.int64)
        self._counted = np.zeros(0, np.int64)
        self._touched = np.zeros(0, bool)
        self._gone: set[bytes] = set()
        self._swept, self._due = 0, 0.0  # the slot that is looked at next, and how many
        self._before: tuple[Array, Windowed] | None = None
        self._seen = Seen()

    def __len__(self) -> int:
        return len(self._index)

    # -- events ----------------------------------------------------------------------------------------------------

    def run(
        self,
        keys: Sequence[bytes],
        times: Array,
        offsets: Array,
        columns: Mapping[str, Array],
        now: Array | int,
        events: Sequence[bytes] | None = None,
    ) -> Windowed:
        """Returns the features of these rows, and counts them.

        `keys` are those of `keys_of`, `times` the event times (int64 [N], ms since the epoch, UTC), `offsets` those of the source (int64
        [N], ascending). `columns` has a float64 [N] for each value, what `tokens` takes for each that is counted by `distinct`, and a bool
        [N] for each filter. `now` (ms) is what a time is compared
        with to be of the future: where a replay has to decide alike, the times at which the records were appended. `events` say where rows
        that another stage has written have entered the topology: one that was counted before is a replay, whatever its offset.

        The same batch once more gives the same answers. Other rows that were counted before are marked, and not counted again.
        """
        if self._before is not None and np.array_equal(self._before[0], offsets):
            return self._before[1]
        times, offsets = np.ascontiguousarray(times, np.int64), np.ascontiguousarray(offsets, np.int64)
        again = offsets <= self.standing.offset if events is None else self._seen.add(events) | (offsets <= self.standing.offset)
        slots, latest, marks = self._marked(keys, times, offsets, now, again)
        values = np.empty((len(self._layout.columns), len(times)))
        finite = np.empty(values.shape, bool)
        for at, name in enumerate(self._layout.columns):
            if name in self._layout.tokens:
                values[at], finite[at] = tokens(columns[name])
            else:
                values[at] = columns[name]
                finite[at] = np.isfinite(values[at])
        takes = np.ones((len(self._layout.tracks), len(times)), bool)
        for track, take in zip(self._layout.tracks, takes, strict=True):
            if track.column >= 0:
                take &= finite[track.column]
            if track.track.where:
                take &= columns[track.track.where]
        rows = Rows(slots, times, offsets, latest[:-1], marks, values, takes)
        partials = np.empty((len(times), len(self.definition.look_backs), self._layout.width))
        answers = np.empty((*partials.shape[:2], len(self._layout.readings)))
        for at, reading in enumerate(self._layout.readings):
            answers[..., at] = 0 if reading.kind == "distinct" else np.nan
        with np.errstate(invalid="ignore", over="ignore"):
            for at in range(0, len(times), _CHUNK):
                self._fold(rows.cut(at, at + _CHUNK), partials[at : at + _CHUNK], answers[at : at + _CHUNK])
        if len(times):
            self._touched[slots[marks & Mark.COUNTED != 0]] = True
            self.standing = Standing(max(self.standing.offset, int(offsets[-1])), int(latest[-1]))
        found = Windowed(features(self.definition, self._layout, partials, answers, times), marks)
        self._before = offsets.copy(), found
        self._due += len(times) / 4
        self._sweep()
        return found

    def _marked(self, keys: Sequence[bytes], times: Array, offsets: Array, now: Array | int, again: Array) -> tuple[Array, Array, Array]:
        """Returns the slot of each row (int64 [N]), the newest time before each row and after all (int64 [N + 1]), and their marks.

        `again` are the rows that were here before: bool [N].
        """
        future = (times > now + np.int64(self.definition.ahead)) | (times >= _TIMES) | (times <= -_TIMES)
        new = ~future & ~again  # the others moved it before, as the clock was then
        latest = np.maximum.accumulate(np.r_[np.int64(self.standing.latest), np.where(new, times, NEVER)])
        late = ~future & (times < latest[:-1] - self.definition.lateness)
        slots = self._slots(keys)
        replayed = ~future & ~new
        known = slots >= 0
        replayed[known] |= ~future[known] & (offsets[known] <= self._counted[slots[known]])
        counts = ~future & ~replayed
        counts &= self._kept(times, latest[:-1]) if self.definition.late == "update" else ~late
        if unknown := dict.fromkeys(keys[row] for row in np.flatnonzero(counts & ~known).tolist()):
            self._add(unknown)
            self._due += 4 * len(unknown)
            slots = self._slots(keys)
        marks = np.zeros(len(times), np.uint8)
        for mark, rows in ((Mark.COUNTED, counts), (Mark.LATE, late), (Mark.FUTURE, future), (Mark.REPLAYED, replayed)):
            marks[rows] |= np.uint8(mark)
        return slots, latest, marks

    def _slots(self, keys: Sequence[bytes]) -> Array:
        return np.fromiter(map(self._index.get, keys, repeat(-1)), np.int64, len(keys))

    def _add(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            if self._spare:
                slot = self._spare.pop()
                self._keys[slot] = key
            else:
                slot = len(self._keys)
                self._keys.append(key)
            self._index[key] = slot
        size = len(self._keys)
        self._newest, self._counted = grown(self._newest, size, NEVER), grown(self._counted, size, -1)
        self._touched = grown(self._touched, size, 0)
        self._grow(size)

    def _sweep(self) -> None:
        """Looks at the slots that are due, in turns, and removes what no event can see; and keys beyond the cap.

        Four slots are due for a new key, so at most a quarter of the slots waits to be removed, and one for four rows.
        """
        size, left = len(self._keys), 0
        if self._due >= min(size, _TOGETHER):
            left, self._due = min(int(self._due), size), self._due % 1
        while left:
            begin = self._swept % size
            self._swept = end = min(begin + left, size)
            self._remove(begin + np.flatnonzero(self._dead(begin, end)))
            left -= end - begin
        if len(self) > self.definition.cap:
            alive = np.fromiter(self._index.values(), np.int64, len(self))
            over = len(self) - self.definition.cap + self.definition.cap // 32
            self._remove(alive[np.argsort(self._newest[alive], kind="stable")[:over]])

    def _remove(self, slots: Array) -> None:
        there = [(slot, key) for slot in slots.tolist() if (key := self._keys[slot]) is not None]
        if not there:
            return
        for slot, key in there:
            del self._index[key]
            self._keys[slot] = None
            self._spare.append(slot)
            self._gone.add(key)
        at = np.array([slot for slot, _ in there])
        self._newest[at], self._counted[at], self._touched[at] = NEVER, -1, False
        self._drop(at)

    # -- the changelog and the snapshot: see penstock.state.base -------------------------------------------------------

    def checkpoint(self, *, whole: bool = False) -> Iterator[Entry]:
        """Yields the records of what changed, the standing behind the keys; `whole`: of all keys, without what none can see."""
        if whole:
            self._remove(np.flatnonzero(self._dead(0, len(self._keys))))
            slots = np.sort(np.fromiter(self._index.values(), np.int64, len(self)))
        else:
            slots = np.flatnonzero(self._touched[: len(self._keys)])
        yield from [(KEY + key, None) for key in sorted(self._gone) if key not in self._index]
        self._gone = set()
        for at in range(0, len(slots), _CHUNK):
            some = slots[at : at + _CHUNK]
            heads = np.stack([self._counted[some], self._newest[some]], axis=1)
            names = [KEY + (self._keys[slot] or b"") for slot in some.tolist()]
            yield from zip(names, self._pack(some, heads), strict=True)
            self._touched[some] = False
        yield standing_entry(self.standing)
        # Behind both: a checkpoint that is cut off has counted what it marks, and the replay marks the rest.
        yield from self._seen.checkpoint(whole=whole)

    def reset(self) -> None:
        """See `Keyed.reset`."""
        self._remove(np.fromiter(self._index.values(), np.int64, len(self)))
        self._seen.reset()
        self.standing, self._before = Standing(), None

    def restore(self, entries: Iterable[Entry]) -> None:
        """Applies records of the changelog, in their order. Raises ValueError for bytes that this definition cannot have written."""

        def others() -> Iterator[Entry]:
            for key, value in entries:
                if key.startswith(SEEN):
                    self._seen.restore({key[1:]: value})
                else:
                    yield key, value

        for values, standing in folded(others(), _CHUNK, self.standing):
            self.standing = standing or self.standing
            if standing is not None and standing.offset < 0:
                self._remove(np.fromiter(self._index.values(), np.int64, len(self)))
            values = {key: value for key, value in values.items() if not self._is_older(key, value)}
            old = [self._index[key] for key in values if key in self._index]
            self._remove(np.array(old, np.int64))
            there = {key: value for key, value in values.items() if value is not None}
            if there:
                self._add(there)
                slots = self._slots([*there])
                heads = self._unpack(slots, [*there.values()])
                self._counted[slots], self._newest[slots] = heads[:, 0], heads[:, 1]
        self._gone = set()
        self._before = None

    def _is_older(self, key: bytes, value: bytes | None) -> bool:
        """Whether the bytes count less than what is there: a worker that was gone for a while may write them late."""
        slot = self._index.get(key)
        return value is not None and slot is not None and counted(value) < self._counted[slot]

    def columns(self) -> dict[str, Array]:
        """Returns everything as arrays of numbers. They are not copied: use them before the next call of any method.

        Raises ValueError when a checkpoint is due.
        """
        if self._gone or self._touched.any() or self._seen.due:
            raise ValueError("a checkpoint is due: its records and the arrays must say the same")
        keys, size = [key or b"" for key in self._keys], len(self._keys)
        return {
            "keys": np.frombuffer(b"".join(keys), np.uint8),
            "sizes": np.fromiter((-1 if key is None else len(key) for key in self._keys), np.int32, size),
            "newest": self._newest[:size],
            "counted": self._counted[:size],
            "standing": np.array(self.standing, np.int64),
            **self._seen.columns(),
            **self._columns(size),
        }

    def load(self, columns: Mapping[str, Array]) -> None:
        """Takes the arrays in place of everything, and keeps them. Raises ValueError for arrays that this definition cannot have given."""
        try:
            text, sizes, (offset, latest) = columns["keys"].tobytes(), columns["sizes"], columns["standing"].tolist()
            newest, counted = columns["newest"], columns["counted"]
            if not len(sizes) == len(newest) == len(counted) or int(sizes.clip(0).sum(dtype=np.int64)) != len(text):
                raise ValueError("the arrays have other sizes")
            seen = Seen()
            seen.load(columns)
            self._load(columns, len(sizes))
            self._seen = seen
        except (KeyError, TypeError) as error:
            raise ValueError(f"the arrays of another state: {error}") from error
        ends = sizes.clip(0).cumsum(dtype=np.int64).tolist()
        self._keys = [text[end - size : end] if size >= 0 else None for end, size in zip(ends, sizes.tolist(), strict=True)]
        self._index = {key: slot for slot, key in enumerate(self._keys) if key is not None}
        self._spare = [slot for slot, key in enumerate(self._keys) if key is None]
        self._newest, self._counted, self._touched = newest, counted, np.zeros(len(sizes), bool)
        self._gone, self._swept, self._before, self.standing = set(), 0, None, Standing(offset, latest)

    # -- what the two kinds do in their ways -----------------------------------------------------------------------

    @abstractmethod
    def _kept(self, times: Array, latest: Array) -> Array:
        """Returns which rows any look-back still keeps, when the newest time before them was `latest`: bool [N]."""

    @abstractmethod
    def _fold(self, rows: Rows, into: Array, answers: Array) -> None:
        """Sets the partials that each row sees (float64 [N, look-backs, width]) and what is read beside them, and counts the rows.

        `answers` are float64 [N, look-backs, readings], and are those of no values before.
        """

    @abstractmethod
    def _grow(self, slots: int) -> None:
        """Makes room for so many keys."""

    @abstractmethod
    def _dead(self, begin: int, end: int) -> Array:
        """Returns which of the slots [begin, end) no event can see anymore: bool."""

    @abstractmethod
    def _drop(self, slots: Array) -> None:
        """Forgets everything of these slots."""

    @abstractmethod
    def _pack(self, slots: Array, heads: Array) -> list[bytes]:
        """Returns the bytes of each slot, which begin with its head: int64 [N, 2]."""

    @abstractmethod
    def _unpack(self, slots: Array, values: Sequence[bytes]) -> Array:
        """Sets these slots to what was packed; returns the heads. Raises ValueError for other bytes."""

    @abstractmethod
    def _columns(self, slots: int) -> dict[str, Array]:
        """Returns the arrays of what is kept."""

    @abstractmethod
    def _load(self, columns: Mapping[str, Array], slots: int) -> None:
        """Takes the arrays of what is kept; raises KeyError or ValueError for others, and is as it was then."""
