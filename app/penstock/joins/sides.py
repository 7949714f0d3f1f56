"""The events of two streams that wait for partners with the same key: one side of a match, in one partition.

1. A left event and a right one are a pair when their keys are equal and the right one's time is at most `within` after, and at most
   `before` before, that of the left one. An event has any number of partners.
2. Each event is kept until no partner can come: the other side is **read beyond** its reach. That is so when both clocks say it: the
   newest event time of the other side less the lateness that is allowed, or the end of its topic, has passed, and so has the wall clock.
   So a backlog does not look like silence, and a quiet topic delays nothing without end.
3. The later of two partners to be read makes the pair. A left event that has had one is marked, since its partner may go before it.
4. An event that the state has counted makes no pair again; it marks its partners once more, as a crash may have cut the marks off.

Events are kept as the records that they came in: a release may read other fields of them. A key's bytes are its rows, one after the
other; a row has a head of fixed size, so looking for partners decodes nothing.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

import msgspec

from penstock.batch import Array
from penstock.record import Header, Record, RecordLike
from penstock.state import Entry, Table
from penstock.state.base import KEY

__all__ = ["Row", "Side"]

# Another form of these bytes is another `MATCH_FORMAT`.
_HEAD: Final = struct.Struct("<IqqqB")  # the size of the body, the event time, the offset, the timestamp, whether it is matched
_BEFORE: Final = 16  # bytes of a key's value in the changelog that are before its rows
_NEVER: Final = 1 << 63  # the time to live of a key: `over` removes rows
_ENDLESS: Final = 1 << 62
_BODY: Final = msgspec.msgpack.Decoder(tuple[bytes | None, bytes | None, list[Header]])
_ENCODE: Final = msgspec.msgpack.Encoder().encode


class Row(NamedTuple):
    """An event that waits: its time (ms), the offset and the timestamp of its record, whether it had a partner, and the rest as bytes."""

    time: int
    offset: int
    timestamp: int
    matched: bool
    body: bytes

    @classmethod
    def of(cls, record: RecordLike, time: int, *, matched: bool = False) -> Row:
        """Returns the row of a record whose event has this time, in ms."""
        return cls(time, record.offset, record.timestamp, matched, _ENCODE((record.key, record.value, [*record.headers])))

    def record(self, topic: str, partition: int) -> Record:
        """Returns the record. Raises ValueError for bytes that no side has written."""
        key, value, headers = _BODY.decode(self.body)
        return Record(topic, value, key, headers, self.timestamp, partition, self.offset)

    @property
    def packed(self) -> bytes:
        return _HEAD.pack(len(self.body), self.time, self.offset, self.timestamp, self.matched) + self.body


class Side(Table):
    """The rows of one side, by key. A row's partners come at most `reach` ms after its time: that is its end."""

    def __init__(self, name: str, reach: int) -> None:
        super().__init__(name, ttl=_NEVER, cap=_ENDLESS)
        self._reach = reach
        self._ends: list[tuple[int, bytes]] | None = None  # a heap that has the first end of each key; None: to be made from the rows
        self._first: dict[bytes, int] = {}  # that end: another entry of the heap with the key is an old one

    def add(self, key: bytes, row: Row) -> None:
        """Keeps a row, which comes after all others of its partition by offset."""
        before = self.get(key)
        self.put(key, (before or b"") + row.packed, offset=row.offset, time=row.time)
        end = row.time + self._reach
        if self._ends is not None and ((first := self._first.get(key)) is None or end < first):
            self._first[key] = end
            heapq.heappush(self._ends, (end, key))

    def put_back(self, removed: Iterable[tuple[bytes, Row]]) -> None:
        """Keeps rows again that `over` has removed, with their keys."""
        for key, row in removed:
            rows = sorted([*_rows(self.get(key) or b""), row], key=lambda one: one.offset)
            self.put(key, b"".join(one.packed for one in rows), offset=rows[-1].offset, time=max(one.time for one in rows))
        self._ends = None

    def partners(self, key: bytes, first: int, last: int) -> list[Row]:
        """Returns the rows of the key whose times are from `first` to `last`, in ms, in the order of their offsets."""
        found = self.get(key)
        return [] if found is None else [row for row in _rows(found) if first <= row.time <= last]

    def mark(self, key: bytes, rows: Iterable[Row]) -> None:
        """Notes that these rows of the key had a partner."""
        wanted = {row.offset for row in rows if not row.matched}
        if wanted and (found := self.get(key)) is not None:
            kept = self._kept[key]
            made = b"".join((row._replace(matched=True) if row.offset in wanted else row).packed for row in _rows(found))
            self.put(key, made, offset=kept.offset, time=kept.time)

    def due(self, read_to: int, cap: int) -> bool:
        """Whether `over` would remove something."""
        ends = self._heap()
        return bool(ends) and (ends[0][0] < read_to or len(self) > cap)

    def over(self, read_to: int, cap: int, most: int) -> tuple[list[tuple[bytes, Row]], list[tuple[bytes, Row]]]:
        """Removes the rows whose end is before `read_to`, and of more than `cap` keys the rows that would end first: about `most` of them.

        Returns both with their keys, in the order of their ends.
        """
        ends, over, evicted = self._heap(), list[tuple[bytes, Row]](), list[tuple[bytes, Row]]()
        while ends and len(over) + len(evicted) < most and (ends[0][0] < read_to or len(self) > cap):
            end, key = heapq.heappop(ends)
            if self._first.get(key) != end:
                continue
            rows = [*_rows(self.get(key) or b"")]
            (over if end < read_to else evicted).extend((key, row) for row in rows if row.time + self._reach <= max(end, read_to - 1))
            left = [row for row in rows if row.time + self._reach > max(end, read_to - 1)]
            if not left:
                self.remove(key)
                del self._first[key]
                continue
            kept = self._kept[key]
            self.put(key, b"".join(row.packed for row in left), offset=kept.offset, time=kept.time)
            self._first[key] = min(row.time for row in left) + self._reach
            heapq.heappush(ends, (self._first[key], key))
        return over, evicted

    def _heap(self) -> list[tuple[int, bytes]]:
        if self._ends is None:
            self._first = {key: min(row.time for row in _rows(one.value)) + self._reach for key, one in self._kept.items()}
            self._ends = [(end, key) for key, end in self._first.items()]
            heapq.heapify(self._ends)
        return self._ends

    # -- the changelog and the snapshot: the heap follows from the rows --------------------------------------------

    def reset(self) -> None:
        """See `Keyed.reset`."""
        super().reset()
        self._ends = None

    def restore(self, entries: Iterable[Entry]) -> None:
        """See `Keyed.restore`."""
        self._ends = None
        given = [*entries]
        super().restore(given)
        for key, value in given:
            # What is damaged is found here, and not when its time is over.
            if value is not None and key.startswith(KEY) and not [*_rows(value[_BEFORE:])]:
                raise ValueError("a key without rows")

    def load(self, columns: Mapping[str, Array]) -> None:
        """See `Keyed.load`."""
        self._ends = None
        super().load(columns)


def _rows(value: bytes) -> Iterator[Row]:
    """Yields the rows of a key. Raises ValueError for bytes that no side has written."""
    at, size = 0, len(value)
    while at < size:
        try:
            length, time, offset, timestamp, matched = _HEAD.unpack_from(value, at)
        except struct.error as error:
            raise ValueError("the rows of a key end early") from error
        at += _HEAD.size
        if at + length > size:
            raise ValueError("the rows of a key end early")
        yield Row(time, offset, timestamp, bool(matched), value[at : at + length])
        at += length
