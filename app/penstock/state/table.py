"""Keys and bytes: the state of owners that pack each key by itself. State in columns has another class (`penstock.windows.Partition`)."""

from __future__ import annotations

import heapq
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

import numpy as np

from penstock.batch import Array
from penstock.state.base import KEY, NEVER, Entry, Standing, counted, folded, standing_entry

__all__ = ["Kept", "Table"]

_HEAD: Final = struct.Struct("<qq")
_CHUNK: Final = 8192  # records that are applied together


class Kept(NamedTuple):
    """The bytes of a key, the source offset up to which they count, and the newest event time that they hold, ms."""

    value: bytes
    offset: int
    time: int


class Table:
    """The keys of one partition, in memory.

    A key goes when its time is more than `ttl` ms behind the newest of the partition. When there are more than `cap` keys, those with the
    oldest time go first, until 1/32 of the room is free. Both happen in `checkpoint`, and leave tombstones.
    """

    def __init__(self, name: str, *, ttl: int, cap: int) -> None:
        self.name = name
        self.standing = Standing()
        self._ttl, self._cap = ttl, cap
        self._kept: dict[bytes, Kept] = {}
        self._touched: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes) -> bytes | None:
        """Returns the bytes of a key, None where it has none."""
        found = self._kept.get(key)
        return None if found is None else found.value

    def counts(self, key: bytes, offset: int) -> bool:
        """Whether the row at this source offset is in the bytes of its key already: then it is a replay."""
        found = self._kept.get(key)
        return offset <= self.standing.offset or (found is not None and offset <= found.offset)

    def put(self, key: bytes, value: bytes, *, offset: int, time: int) -> None:
        """Sets the bytes of a key, which now hold the row at `offset`, of the event time `time` (ms)."""
        found = self._kept.get(key)
        self._kept[key] = Kept(value, offset, time if found is None else max(time, found.time))
        self._touched.add(key)

    def remove(self, key: bytes) -> None:
        """Removes a key, if it is there."""
        if self._kept.pop(key, None) is not None:
            self._touched.add(key)

    def advance(self, offset: int, latest: int) -> None:
        """Everything up to the source offset counts, and `latest` is an event time (ms) that was seen on the way."""
        self.standing = Standing(max(offset, self.standing.offset), max(latest, self.standing.latest))

    def checkpoint(self, *, whole: bool = False) -> Iterator[Entry]:
        """Removes what is too old or too much, and yields the records of what changed since the last time, the standing last."""
        self._evict()
        for key in sorted(self._touched | self._kept.keys() if whole else self._touched):
            yield KEY + key, _packed(self._kept.get(key))
            self._touched.discard(key)
        yield standing_entry(self.standing)

    def reset(self) -> None:
        """See `Keyed.reset`."""
        for key in [*self._kept]:
            self.remove(key)
        self.standing = Standing()

    def restore(self, entries: Iterable[Entry]) -> None:
        """Applies records of the changelog. Raises ValueError for bytes that a table cannot have written."""
        for values, standing in folded(entries, _CHUNK, self.standing):
            if standing is not None and standing.offset < 0:
                self._kept = {}
            for key, value in values.items():
                if value is None:
                    self._kept.pop(key, None)
                elif len(value) < _HEAD.size:
                    raise ValueError("the bytes of a key are too short")
                elif (found := self._kept.get(key)) is None or counted(value) >= found.offset:
                    self._kept[key] = Kept(value[_HEAD.size :], *_HEAD.unpack_from(value))
            self.standing = standing or self.standing

    def columns(self) -> Mapping[str, Array]:
        """Returns everything as arrays. Raises ValueError when a checkpoint is due."""
        if self._touched:
            raise ValueError("a checkpoint is due: its records and the arrays must say the same")
        keys, kept = [*self._kept], [*self._kept.values()]
        return {
            "keys": np.frombuffer(b"".join(keys), np.uint8),
            "values": np.frombuffer(b"".join(one.value for one in kept), np.uint8),
            "sizes": np.array([[len(key), len(one.value), one.offset, one.time] for key, one in zip(keys, kept, strict=True)], np.int64),
            "standing": np.array(self.standing, np.int64),
        }

    def load(self, columns: Mapping[str, Array]) -> None:
        """Takes the arrays in place of everything. Raises ValueError for arrays that a table cannot have given."""
        try:
            keys, values, sizes = columns["keys"].tobytes(), columns["values"].tobytes(), columns["sizes"].reshape(-1, 4)
            offset, latest = columns["standing"].tolist()
        except (KeyError, TypeError) as error:
            raise ValueError(f"the arrays of another state: {error}") from error
        if sizes[:, :2].min(initial=0) < 0 or sizes[:, :2].sum(axis=0).tolist() != [len(keys), len(values)]:
            raise ValueError("the sizes are not those of the keys and values")
        self._kept, self._touched, self.standing = {}, set(), Standing(offset, latest)
        ends = sizes[:, :2].cumsum(axis=0)
        for (at, place), (size, width, counts, time) in zip(ends.tolist(), sizes.tolist(), strict=True):
            self._kept[keys[at - size : at]] = Kept(values[place - width : place], counts, time)

    def _evict(self) -> None:
        before = self.standing.latest - self._ttl
        gone = [key for key, one in self._kept.items() if one.time < before] if before > NEVER else []
        if (left := len(self._kept) - len(gone)) > self._cap:
            old = ((one.time, key) for key, one in self._kept.items() if one.time >= before)
            gone += [key for _, key in heapq.nsmallest(left - self._cap + self._cap // 32, old)]
        for key in gone:
            self.remove(key)


def _packed(kept: Kept | None) -> bytes | None:
    return None if kept is None else _HEAD.pack(kept.offset, kept.time) + kept.value
