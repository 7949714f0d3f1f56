"""Rows through the rings, in numpy: in each round one row of every key, so that rows of one key see each other in their order.

It is what the native part is compared with, bit by bit, and what runs where that is not built. A round is computed in columns; there are as
many rounds as the key with the most rows has rows.
"""

from __future__ import annotations

import numpy as np

from penstock.batch import Array
from penstock.windows.partials import merge, single
from penstock.windows.rings import Rings
from penstock.windows.rows import Mark, Rows

__all__ = ["fold"]


def fold(rings: Rings, newest: Array, counted: Array, rows: Rows, into: Array, *, include_self: bool) -> None:
    """Merges what each row sees into `into` (float64 [N, look-backs, width], neutral), and adds the rows that count to their tiles.

    `newest` and `counted` are int64 [slots]: the newest time of each key, and the offset up to which it counts. Rows that see whole hops
    only are marked. Room for the tiles must be reserved.
    """
    own = single(rings.layout, rows.times, rows.values, rows.takes)
    order = np.argsort(rows.slots, kind="stable")
    slots = rows.slots[order]
    first = np.flatnonzero(np.r_[True, slots[1:] != slots[:-1]]) if len(slots) else np.zeros(0, np.intp)
    rank = np.arange(len(slots)) - np.repeat(first, np.diff(np.r_[first, len(slots)]))
    seen = (slots >= 0) & (rows.marks[order] & Mark.FUTURE == 0)
    by_round = np.argsort(rank[seen], kind="stable")
    chosen, ends = order[seen][by_round], np.cumsum(np.bincount(rank[seen]))
    for begin, end in zip([0, *ends.tolist()], ends.tolist(), strict=False):
        if begin < end:
            _round(rings, newest, counted, rows, chosen[begin:end], own, into)
    if include_self:
        for back in range(len(rings.hops)):
            there = np.flatnonzero(rows.marks & Mark.FUTURE == 0)
            seen_by = into[there, back]
            merge(rings.layout, seen_by, own[there])
            into[there, back] = seen_by


def _round(rings: Rings, newest: Array, counted: Array, rows: Rows, at: Array, own: Array, into: Array) -> None:
    """The same for the rows `at`, which have different keys."""
    slots, times, marks = rows.slots[at], rows.times[at], rows.marks[at]
    disordered = times < newest[slots]
    rows.marks[at[disordered & (marks & Mark.LATE == 0)]] |= np.uint8(Mark.DISORDERED)
    whole = disordered | (marks & Mark.REPLAYED != 0)
    counts, some = marks & Mark.COUNTED != 0, rows.takes[:, at].any(axis=0)
    for back, (length, hops, places) in enumerate(rings.hops.tolist()):
        begin, top = rings.begins[back], rings.top[slots, back]
        hop, horizon = times // length, rows.latest[at] // length - places + 1
        low = np.maximum(np.maximum(hop - hops, horizon), top - places + 1)
        high = np.minimum(hop - whole, top)
        seen = into[at, back]
        for step in range(places):
            one = low + step
            tile = np.where(one <= high, rings.ring[slots, begin + one % places], 0)
            if tile.any():
                merge(rings.layout, seen, rings.pool[tile])
        into[at, back] = seen
        kept = counts & (hop >= horizon)
        _advance(rings, slots[kept], back, hop[kept])
        _add(rings, slots[kept & some], begin + hop[kept & some] % places, own[at[kept & some]])
    newest[slots[counts]] = np.maximum(newest[slots[counts]], times[counts])
    counted[slots[counts]] = rows.offsets[at[counts]]


def _advance(rings: Rings, slots: Array, back: int, hop: Array) -> None:
    """Moves rings on to these hops, and frees the tiles whose places are then of other hops."""
    ahead = hop > rings.top[slots, back]
    slots, hop, places = slots[ahead], hop[ahead], int(rings.hops[back, 2])
    for step in range(places):
        passed = hop - step > rings.top[slots, back]
        place = rings.begins[back] + (hop[passed] - step) % places
        tiles = rings.ring[slots[passed], place]
        rings.give(tiles[tiles != 0])
        rings.ring[slots[passed], place] = 0
    rings.top[slots, back] = hop


def _add(rings: Rings, slots: Array, place: Array, own: Array) -> None:
    tiles = rings.ring[slots, place]
    empty = tiles == 0
    tiles[empty] = new = rings.take(int(empty.sum()))
    rings.pool[new] = rings.layout.neutral
    rings.ring[slots, place] = tiles
    cells = rings.pool[tiles]
    merge(rings.layout, cells, own)
    rings.pool[tiles] = cells
