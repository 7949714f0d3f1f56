"""Partials: what is kept of some values of a track, so that two of them merge into that of all of them. Nothing is ever subtracted.

A partial is a row of float64 cells, those of each track one after the other: the number of values, then the parts that the track has, in
the order `sum m2 min max first.time first.value`, then time and value of its newest values, newest first. Times are whole milliseconds
below 2^53, so they are exact. `m2` is the sum of squared differences from the mean. Two of them merge by the formula of Chan, Golub and
LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances" (1979), which does not cancel as a difference of
sums does.

The native part computes the same, cell by cell and bit by bit (tests/properties/test_windows.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple, cast, get_args

import numpy as np

from penstock.batch import Array
from penstock.windows.definition import Aggregate, Definition, Part, Sketch, Track

__all__ = ["BITS", "Cells", "Layout", "Reading", "merge", "single"]

BITS: Final[dict[Part, int]] = {"sum": 1, "m2": 2, "min": 4, "max": 8, "first": 16}  # as in _native.c
_EMPTY: Final[dict[Part, tuple[float, ...]]] = {
    "sum": (0.0,), "m2": (0.0,), "min": (np.inf,), "max": (-np.inf,), "first": (np.inf, np.nan),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cells:
    """The cells of a track in a partial: its number of values is at `at`, its parts at `of`, its `last` newest values from `newest` on."""

    track: Track
    at: int
    of: dict[Part, int]
    newest: int
    column: int  # of the values, -1 where the events themselves count

    @property
    def last(self) -> int:
        return self.track.last


class Reading(NamedTuple):
    """A number that is not made of cells: what is read of the values of a track, by its number, or of sketches of them."""

    track: int
    kind: Sketch
    q: float


class Layout:
    """The cells of a partial, by track. `columns` are the value columns, in the order in which the tracks number them.

    `tokens` are the columns that a distinct count is taken of. `readings` are what is not made of cells.

    `neutral` is the partial of nothing, float64 [width]. `numbers` are the tracks as numbers, for the native part: int32 [tracks, 4].
    """

    def __init__(self, definition: Definition) -> None:
        self.columns = tuple(sorted({one.value for one in definition.tracks if one.value}))
        self.tracks: list[Cells] = []
        neutral: list[float] = []
        for track in definition.tracks:
            begin, of = len(neutral), {}
            neutral.append(0.0)
            for part, empty in _EMPTY.items():
                if part in track.parts:
                    of[part] = len(neutral)
                    neutral.extend(empty)
            column = self.columns.index(track.value) if track.value else -1
            self.tracks.append(Cells(track, begin, of, len(neutral), column))
            neutral.extend((-np.inf, np.nan) * track.last)
        self.tokens = frozenset(one.value for one in definition.aggregates if one.kind == "distinct")
        self.readings = tuple(sorted({self.reading(one) for one in definition.aggregates if one.kind in get_args(Sketch)}))
        self.neutral = np.array(neutral)
        self.width = len(neutral)
        self.numbers = np.array([(one.at, one.column, sum(BITS[part] for part in one.of), one.last) for one in self.tracks], np.int32)

    def of(self, value: str, where: str) -> Cells:
        """Returns the cells of the track of this column and filter."""
        return next(one for one in self.tracks if (one.track.value, one.track.where) == (value, where))

    def reading(self, one: Aggregate) -> Reading:
        """Returns what an aggregate of sketches reads."""
        return Reading(self.tracks.index(self.of(one.value, one.where)), cast(Sketch, one.kind), one.q or 0.0)


def single(layout: Layout, times: Array, values: Array, takes: Array) -> Array:
    """Returns the partial of each row: float64 [N, width].

    `times` is int64 [N], `values` float64 [columns, N], `takes` bool [tracks, N]: which rows count for a track.
    """
    made = np.tile(layout.neutral, (len(times), 1))
    for track, take in zip(layout.tracks, takes, strict=True):
        value = values[track.column] if track.column >= 0 else np.zeros(len(times))
        made[:, track.at] = take
        for part, at in track.of.items():
            if part == "first":
                made[take, at] = times[take]
                made[take, at + 1] = value[take]
            elif part != "m2":
                made[take, at] = value[take]
        if track.last:
            made[take, track.newest] = times[take]
            made[take, track.newest + 1] = value[take]
    return made


def merge(layout: Layout, into: Array, other: Array) -> None:
    """Merges each row of `other`, whose values are not earlier, into the same row of `into`: both float64 [N, width]."""
    for track in layout.tracks:
        n, m = into[:, track.at], other[:, track.at]
        for part, at in track.of.items():
            a, b = into[:, at], other[:, at]
            if part == "m2":
                _merge_m2(into, other, n, m, at, track.of["sum"])  # reads both numbers and sums: those are added below
            elif part == "min":
                np.copyto(a, b, where=b < a)
            elif part == "max":
                np.copyto(a, b, where=b > a)
            elif part == "first":
                earlier = b < a
                into[earlier, at : at + 2] = other[earlier, at : at + 2]
        if "sum" in track.of:
            into[:, track.of["sum"]] += other[:, track.of["sum"]]
        if track.last:
            _merge_newest(into, other, track.newest, track.last)
        into[:, track.at] += m


def _merge_m2(into: Array, other: Array, n: Array, m: Array, at: int, total: int) -> None:
    only = (n == 0) & (m > 0)
    into[only, at] = other[only, at]
    both = (n > 0) & (m > 0)
    a, b, n, m = into[both], other[both], n[both], m[both]
    apart = b[:, total] / m - a[:, total] / n
    into[both, at] = (a[:, at] + b[:, at]) + apart * apart * (n * m / (n + m))


def _merge_newest(into: Array, other: Array, at: int, k: int) -> None:
    some = other[:, at] > -np.inf
    a, b = into[some, at : at + 2 * k], other[some, at : at + 2 * k]
    if k == 1:
        a[:] = np.where((b[:, :1] >= a[:, :1]), b, a)
    else:
        both = np.concatenate([b.reshape(-1, k, 2), a.reshape(-1, k, 2)], axis=1)
        order = np.argsort(-both[:, :, 0], axis=1, kind="stable")[:, :k, None]
        a = np.take_along_axis(both, order, axis=1).reshape(-1, 2 * k)
    into[some, at : at + 2 * k] = a
