"""The rows of a table, by key, in columns: what lookups read. They are filled from the table's topic, so they need no changelog.

Without a history a key has its last row, by the order of the topic. With one it has rows by time, and a lookup sees the one that held
then. A row that was replaced is kept while the newest row of its key is at most the history behind.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence

import numpy as np

from penstock.batch import Array
from penstock.signature import Tensor

__all__ = ["Rows"]

_GONE = -1  # in place of a row: the key was removed
_LEAST = 1024


class Rows:
    """`columns` are the table's fields, one value per row each. `history` is in ms, 0 for none.

    One thread at a time may change it, and no other may read it at that time.
    """

    def __init__(self, columns: Sequence[Tensor], history: int = 0) -> None:
        self._history = history
        self._dtypes = {one.name: np.dtype(object if one.dtype == "string" else one.dtype) for one in columns}
        self._values: dict[str, Array] = {name: np.zeros(_LEAST, dtype) for name, dtype in self._dtypes.items()}
        self._there: dict[str, Array] = {name: np.zeros(_LEAST, bool) for name in self._dtypes}
        self._places: dict[bytes, int] = {}  # without a history
        self._times: dict[bytes, tuple[list[int], list[int]]] = {}  # with one: times, ascending, and the place of the row from then on
        self._free: list[int] = [*range(_LEAST - 1, -1, -1)]
        self._swept = _LEAST

    def __len__(self) -> int:
        """Returns how many keys have a row."""
        if not self._history:
            return len(self._places)
        return sum(places[-1] != _GONE for _, places in self._times.values())

    def __contains__(self, name: str) -> bool:
        """Whether the table has the field."""
        return name in self._dtypes

    def put(self, keys: Sequence[bytes], times: Sequence[int], columns: Mapping[str, Array]) -> None:
        """Adds rows in the order of their topic: keys, times in ms, and columns [N], in which None is null."""
        places = np.array([self._place(key, time) for key, time in zip(keys, times, strict=True)], np.int64)
        for name, values in self._values.items():
            given = columns[name]
            there = np.ones(len(keys), bool)
            if given.dtype == object:
                there = np.array([one is not None for one in given.tolist()], bool)
                blank = "" if values.dtype == object else 0
                given = np.array([blank if one is None else one for one in given.tolist()], values.dtype)
            values[places], self._there[name][places] = given, there  # of several rows in one place, the last one stays

    def remove(self, key: bytes, time: int) -> None:
        """Removes the row of a key from this time (ms) on."""
        if self._history:
            self._insert(key, time, _GONE)  # also of a key without a row: one of an earlier time may come later
        elif (place := self._places.pop(key, None)) is not None:
            self._free.append(place)

    def find(self, keys: Sequence[bytes], times: Sequence[int] | None = None) -> Array:
        """Returns the place of the row of each key, int64 [N], -1 where it has none. `times` (ms) are for a table with a history."""
        if not self._history:
            get = self._places.get
            return np.fromiter((get(key, _GONE) for key in keys), np.int64, len(keys))
        assert times is not None, "the caller has read them"
        return np.fromiter((self._then(key, time) for key, time in zip(keys, times, strict=True)), np.int64, len(keys))

    def read(self, name: str, places: Array) -> tuple[Array, Array]:
        """Returns a field of the rows at these places, [N], and where it is not null, bool [N]; elsewhere it is 0, "" or false."""
        there = self._there[name][places] & (places >= 0)
        values = self._values[name][places]
        values[~there] = "" if values.dtype == object else 0
        return values, there

    def _then(self, key: bytes, time: int) -> int:
        times, places = self._times.get(key, ((), ()))
        at = bisect_right(times, time)
        return places[at - 1] if at else _GONE

    def _place(self, key: bytes, time: int) -> int:
        """Returns where the new row of a key is written."""
        if not self._history:
            place = self._places.get(key, _GONE)
            if place == _GONE:
                place = self._places[key] = self._room()
            return place
        return self._insert(key, time, self._room())

    def _room(self) -> int:
        if not self._free:
            size = len(next(iter(self._there.values()), ())) or _LEAST
            for name, values in self._values.items():
                self._values[name] = np.concatenate([values, np.zeros(size, values.dtype)])
                self._there[name] = np.concatenate([self._there[name], np.zeros(size, bool)])
            self._free = [*range(2 * size - 1, size - 1, -1)]
        return self._free.pop()

    def _insert(self, key: bytes, time: int, place: int) -> int:
        times, places = self._times.setdefault(key, ([], []))
        at = bisect_right(times, time)
        times.insert(at, time)
        places.insert(at, place)
        self._forget(times, places)
        if len(self._times) > 2 * self._swept:
            self._sweep(max(one[-1] for one, _ in self._times.values()))
        return place

    def _forget(self, times: list[int], places: list[int]) -> None:
        """Removes the rows of a key that were replaced before its history begins."""
        oldest = bisect_right(times, times[-1] - self._history) - 1
        if oldest > 0:
            self._free += [one for one in places[:oldest] if one != _GONE]
            del times[:oldest], places[:oldest]

    def _sweep(self, newest: int) -> None:
        """Removes the keys that were removed before their history begins."""
        for key in [key for key, (times, places) in self._times.items() if places[-1] == _GONE and times[-1] < newest - self._history]:
            self._free += [one for one in self._times.pop(key)[1] if one != _GONE]
        self._swept = max(len(self._times), _LEAST)
