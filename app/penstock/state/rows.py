"""The rows of a table, by key, in columns: what lookups read. They are filled from the table's topic, so they need no changelog.

1. A row has an owner: the key of its record. An owner has one row; another record of it replaces that one, also where the key of the table
   is another then. Of two owners with one key of the table, the row with the later time counts, whatever the order in which they are read.
   A removal is of all that was read of its owner before, also of rows that are to hold later.
2. Without a history, an owner has its last row, by the order of the topic. With one it has rows by time, and a lookup sees the row that
   held then. A row that was replaced, or removed, is kept for at least as long as the history, by the newest row of its owner and the
   clock, whichever is earlier: rows may be written in advance.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from penstock.batch import Array
from penstock.signature import Tensor

__all__ = ["Change", "Rows"]

_GONE: Final = -1  # in place of a row
_LEAST: Final = 1024
_NONE: Final = b""


class Change(NamedTuple):
    """A row of an owner from a time (ms) on, with its key; None removes the owner's row."""

    owner: bytes
    key: bytes | None
    time: int


class _Held(NamedTuple):
    """From `time` on: the key and the place of an owner's row, `_GONE` where it has none."""

    time: int
    key: bytes
    place: int


class Rows:
    """`columns` are the table's fields, one value per row each. `history` is in ms, 0 for none; `clock` gives seconds since the epoch.

    One thread at a time may change it, and no other may read it at that time.
    """

    def __init__(self, columns: Sequence[Tensor], history: int = 0, clock: Callable[[], float] = time.time) -> None:
        self._history, self._clock = history, clock
        self._dtypes = {one.name: np.dtype(object if one.dtype == "string" else one.dtype) for one in columns}
        self._values: dict[str, Array] = {name: np.zeros(_LEAST, dtype) for name, dtype in self._dtypes.items()}
        self._there: dict[str, Array] = {name: np.zeros(_LEAST, bool) for name in self._dtypes}
        self._owners: dict[bytes, list[_Held]] = {}  # by time
        self._by_key: dict[bytes, bytes | list[bytes]] = {}  # owners that have, or had, a row with the key; most keys have one
        self._size = _LEAST
        self._free: list[int] = [*range(_LEAST - 1, -1, -1)]
        self._freed: set[int] = set()  # places that this piece of changes has freed, and not used again
        self._swept = _LEAST
        self._count = 0  # owners that have a row

    def __len__(self) -> int:
        """Returns how many owners have a row."""
        return self._count

    def __contains__(self, name: str) -> bool:
        """Whether the table has the field."""
        return name in self._dtypes

    def apply(self, changes: Sequence[Change], columns: Mapping[str, Array]) -> None:
        """Applies changes in the order of the topic. `columns` [N] have those with a key, in their order; None is null."""
        now = int(self._clock() * 1000)
        written = []
        for one in changes:
            had = self._has(one.owner)
            if (place := self._changed(one, now)) != _GONE:
                written.append(place)
            self._count += self._has(one.owner) - had
        places = np.array(written, np.int64)
        for name, values in self._values.items():
            if len(places):
                given = columns[name]
                there = np.ones(len(places), bool)
                if given.dtype == object:
                    there = np.array([one is not None for one in given.tolist()], bool)
                    blank = "" if values.dtype == object else 0
                    given = np.array([blank if one is None else one for one in given.tolist()], values.dtype)
                values[places], self._there[name][places] = given, there  # of several rows in one place, the last one stays
            if values.dtype == object and self._freed:
                values[[*self._freed]] = ""  # a text that was removed is not to stay
        self._freed.clear()
        if len(self._owners) > 2 * self._swept:
            self._sweep(now)

    def find(self, keys: Sequence[bytes], times: Sequence[int] | None = None) -> Array:
        """Returns the place of the row of each key, int64 [N], -1 where it has none. `times` (ms) are for a table with a history."""
        if times is None:
            return np.fromiter((self._last(key) for key in keys), np.int64, len(keys))
        return np.fromiter((self._then(key, time) for key, time in zip(keys, times, strict=True)), np.int64, len(keys))

    def read(self, name: str, places: Array) -> tuple[Array, Array]:
        """Returns a field of the rows at these places, [N], and where it is not null, bool [N]; elsewhere it is 0, "" or false."""
        there = self._there[name][places] & (places >= 0)
        values = self._values[name][places]
        values[~there] = "" if values.dtype == object else 0
        return values, there

    # -- what a key has ----------------------------------------------------------------------------------------------

    def _last(self, key: bytes) -> int:
        owners = self._by_key.get(key)
        if owners is None:
            return _GONE
        if isinstance(owners, bytes):
            return self._owners[owners][-1].place
        return max((self._owners[one][-1] for one in reversed(owners)), key=_newest).place

    def _then(self, key: bytes, time: int) -> int:
        owners = self._by_key.get(key)
        best = None
        for owner in () if owners is None else (owners,) if isinstance(owners, bytes) else owners:
            held = self._owners[owner]
            at = len(held) if held[-1].time <= time else bisect_right(held, time, key=_newest)
            if at and held[at - 1].key == key and held[at - 1].place != _GONE and (best is None or held[at - 1].time >= best.time):
                best = held[at - 1]
        return _GONE if best is None else best.place

    # -- what an owner has -------------------------------------------------------------------------------------------

    def _has(self, owner: bytes) -> bool:
        held = self._owners.get(owner)
        return held is not None and held[-1].place != _GONE

    def _changed(self, one: Change, now: int) -> int:
        """Applies a change. Returns where the new row is to be written, `_GONE` for a removal."""
        held = self._owners.get(one.owner)
        if one.key is None:
            if held is not None and self._history:
                end = bisect_right(held, one.time, key=_newest)
                later = held[end:]
                del held[end:]
                self._forget(one.owner, later, held)
                self._insert(one.owner, held, _Held(one.time, _NONE, _GONE), now)
            elif held is not None:
                self._drop(one.owner, held)
            elif self._history:
                self._owners[one.owner] = [_Held(one.time, _NONE, _GONE)]  # a row of an earlier time may come later
            return _GONE
        if held is not None and not self._history:
            place = held[0].place
            if held[0].key != one.key:
                self._unlink(held[0].key, one.owner)
                self._link(one.key, one.owner)
            held[0] = _Held(one.time, one.key, place)
            return place
        new = _Held(one.time, one.key, self._room())
        self._link(one.key, one.owner)
        if held is None:
            self._owners[one.owner] = [new]
        else:
            self._insert(one.owner, held, new, now)  # which forgets it at once, if it was replaced before the history begins
        return new.place

    def _insert(self, owner: bytes, held: list[_Held], new: _Held, now: int) -> None:
        held.insert(bisect_right(held, new.time, key=_newest), new)
        begin = bisect_right(held, min(held[-1].time, now) - self._history, key=_newest) - 1
        if begin > 0:  # what was replaced before the history begins
            old = held[:begin]
            del held[:begin]
            self._forget(owner, old, held)

    def _forget(self, owner: bytes, old: Sequence[_Held], left: Sequence[_Held]) -> None:
        """Frees the places of an owner's rows, and its keys that it has no more."""
        kept = {one.key for one in left}
        for one in old:
            if one.place != _GONE:
                self._free.append(one.place)
                self._freed.add(one.place)
                if one.key not in kept:
                    kept.add(one.key)
                    self._unlink(one.key, owner)

    def _drop(self, owner: bytes, held: Sequence[_Held]) -> None:
        del self._owners[owner]
        self._forget(owner, held, ())

    def _sweep(self, now: int) -> None:
        """Removes the owners whose row was removed before the history begins."""
        newest = min(max(held[-1].time for held in self._owners.values()), now) - self._history
        for owner in [one for one, held in self._owners.items() if held[-1].place == _GONE and held[-1].time < newest]:
            self._drop(owner, self._owners[owner])
        self._swept = max(len(self._owners), _LEAST)

    def _link(self, key: bytes, owner: bytes) -> None:
        owners = self._by_key.get(key)
        if owners is None:
            self._by_key[key] = owner
        elif isinstance(owners, bytes):
            if owners != owner:
                self._by_key[key] = [owners, owner]
        elif owner not in owners:
            owners.append(owner)

    def _unlink(self, key: bytes, owner: bytes) -> None:
        owners = self._by_key[key]
        if isinstance(owners, bytes):
            del self._by_key[key]
        else:
            owners.remove(owner)
            if len(owners) == 1:
                self._by_key[key] = owners[0]

    def _room(self) -> int:
        if not self._free:
            for name, values in self._values.items():
                self._values[name] = np.concatenate([values, np.zeros(self._size, values.dtype)])
                self._there[name] = np.concatenate([self._there[name], np.zeros(self._size, bool)])
            self._free = [*range(2 * self._size - 1, self._size - 1, -1)]
            self._size *= 2
        place = self._free.pop()
        self._freed.discard(place)
        return place


def _newest(one: _Held) -> int:
    return one.time
