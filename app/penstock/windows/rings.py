"""Rings of tiles: for each key and look-back, the partials of its last hops.

A tile is the partial of one hop. Tiles are in a pool; a key has a ring of numbers of tiles per look-back, where a hop's place is the hop
modulo the ring, and 0 is a hop without values. So a key that is seen once takes three tiles, one that is always seen takes all, and no
memory is lost to blocks that grew. `top` is the newest hop of a ring: its places are the hops (top - ring, top].

What no event can see anymore is stale: hops below those that the newest event time of the partition leaves. It is never read, so when it
is freed makes no difference to any feature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from penstock.batch import Array
from penstock.native import Native
from penstock.state.base import NEVER
from penstock.windows.definition import Definition
from penstock.windows.partials import Layout
from penstock.windows.sketches import Sketches

__all__ = ["HEAD", "Rings", "grown"]

HEAD: Final = 2  # cells before those of the owner, in the bytes of a key: the offset up to which they count, and the newest event time


def grown(array: Array, size: int, fill: int | float) -> Array:
    """Returns the array with at least `size` rows, in place where the system can, and a sixteenth more to spare."""
    before = len(array)
    if size <= before:
        return array
    if not array.flags.owndata or not array.flags.writeable:
        array = array.copy()
    array.resize((max(size, before + before // 16 + 64), *array.shape[1:]), refcheck=False)
    if fill:
        array[before:] = fill
    return array


class Rings:
    """The tiles of all keys of a partition.

    `ring` int32 [slots, places], `top` int64 [slots, look-backs], `pool` float64 [tiles, width]; tile 0 is the neutral one. The first
    `counts[0]` of `free` (int32) are tiles to use again; tiles from `counts[1]` on were never used. `hops` int64 [look-backs, 3]: length
    of a hop (ms), hops of the look-back, places of its ring. `body` float64 [slots, look-backs, width] and `body_at` int64 [slots,
    look-backs] are notes of the native part: the partial of the hops before `body_at`, where that is no hop's number, of none.
    `sketches` are what tiles have beside their cells, None where no feature reads them.
    """

    def __init__(self, definition: Definition, layout: Layout, native: Native | None = None) -> None:
        self.layout = layout
        self.native = native
        self.hops = np.array([(one.hop, one.hops, definition.ring(one)) for one in definition.look_backs], np.int64)
        self.places = int(self.hops[:, 2].sum())
        self.begins = np.concatenate([[0], self.hops[:, 2].cumsum()[:-1]])
        self.ring = np.zeros((0, self.places), np.int32)
        self.top = np.zeros((0, len(self.hops)), np.int64)
        self.pool = layout.neutral[None].copy()
        self.free = np.zeros(0, np.int32)
        self.body = np.zeros((0, len(self.hops), layout.width))
        self.body_at = np.zeros((0, len(self.hops)), np.int64)
        self.counts = np.array([0, 1], np.int64)
        self.sketches = Sketches(len({one.track for one in layout.readings})) if layout.readings else None
        self._back = np.repeat(np.arange(len(self.hops)), self.hops[:, 2])  # the look-back of each place
        self._place = np.arange(self.places) - self.begins[self._back]
        self._words = -(-self.places // 64)
        self.head = HEAD + len(self.hops) + self._words  # cells of a key before its tiles

    def grow(self, slots: int) -> None:
        """Makes room for so many keys."""
        self.ring, self.top = grown(self.ring, slots, 0), grown(self.top, slots, NEVER)
        self.body, self.body_at = grown(self.body, slots, 0), grown(self.body_at, slots, NEVER)

    def reserve(self, tiles: int, freed: int = 0) -> None:
        """Makes room for so many more tiles, and for so many that become free."""
        if (wanted := tiles - int(self.counts[0])) > 0:
            self.pool = grown(self.pool, int(self.counts[1]) + wanted, 0)
        self.free = grown(self.free, min(int(self.counts[0]) + freed, len(self.pool)), 0)
        if self.sketches is not None:
            self.sketches.grow(len(self.pool))

    def take(self, number: int) -> Array:
        """Returns the numbers of so many tiles, whose cells hold anything. Room must be reserved."""
        again = min(number, int(self.counts[0]))
        self.counts[0] -= again
        found = self.free[self.counts[0] : self.counts[0] + again]
        new = np.arange(self.counts[1], self.counts[1] + number - again, dtype=np.int32)
        self.counts[1] += number - again
        return np.concatenate([found, new])

    def give(self, tiles: Array) -> None:
        """Takes back tiles. Room must be reserved."""
        begin = int(self.counts[0])
        self.free[begin : begin + len(tiles)] = tiles
        self.counts[0] += len(tiles)
        if self.sketches is not None:
            self.sketches.clear(tiles.tolist())

    def horizon(self, latest: int) -> Array:
        """Returns the oldest hop of each look-back that an event can see: int64 [look-backs]."""
        return latest // self.hops[:, 0] - self.hops[:, 2] + 1

    def live(self, slots: Array | slice, latest: int) -> tuple[Array, Array]:
        """Returns the rings of these keys, and which of their places hold a tile that is not stale: both [N, places]."""
        ring, top = self.ring[slots], self.top[slots][:, self._back]
        hop = top - (top - self._place) % self.hops[self._back, 2]
        return ring, (ring != 0) & (hop >= self.horizon(latest)[self._back])

    def sweep(self, begin: int, end: int, latest: int) -> Array:
        """Frees the stale tiles of the slots [begin, end), and returns which of them no event can see anymore: bool [N]."""
        ring, live = self.live(slice(begin, end), latest)
        stale = (ring != 0) & ~live
        if stale.any():
            tiles = ring[stale]
            self.reserve(0, len(tiles))
            self.give(tiles)
            self.ring[begin:end][stale] = 0
        return np.asarray((self.top[begin:end] < self.horizon(latest)).all(axis=1))

    def drop(self, slots: Array) -> None:
        """Frees everything of these slots."""
        ring = self.ring[slots]
        tiles = ring[ring != 0]
        self.reserve(0, len(tiles))
        self.give(tiles)
        self.ring[slots] = 0
        self.top[slots] = self.body_at[slots] = NEVER

    # -- the bytes of a key: 8 to a cell, little-endian: HEAD, the tops, bits of the places that have a tile, the tiles by place -----------

    def pack(self, slots: Array, heads: Array, latest: int) -> list[bytes]:
        """Returns the bytes of each slot, without what is stale. `heads` int64 [N, HEAD]."""
        cells = self._cells(slots, heads, latest)
        if self.sketches is None:
            return cells
        ring, live = self.live(slots, latest)
        tiles, ends = ring[live].tolist(), live.sum(axis=1).cumsum().tolist()
        return [one + self.sketches.pack(tiles[begin:end]) for one, begin, end in zip(cells, [0, *ends], ends, strict=False)]

    def _cells(self, slots: Array, heads: Array, latest: int) -> list[bytes]:
        if self.native is not None:
            return self.native.pack_windows((self.hops, self.ring, self.top, self.pool, slots, heads), latest)
        ring, live = self.live(slots, latest)
        number = live.sum(axis=1)
        sizes = self.head + number * self.layout.width
        begins = sizes.cumsum() - sizes
        bits = np.zeros((len(slots), self._words * 8), np.uint8)
        packed = np.packbits(live, axis=1, bitorder="little")
        bits[:, : packed.shape[1]] = packed
        top = self.top[slots]
        top[top < self.horizon(latest)] = NEVER  # a ring that is stale as a whole says the same as none
        cells = np.empty(int(sizes.sum()), "<i8")
        cells[begins[:, None] + np.arange(self.head)] = np.concatenate([heads, top, bits.view("<i8")], axis=1)
        tiles = self.pool[ring[live]].view("<i8")
        cells[self._at(begins, number)] = tiles
        data, ends = cells.tobytes(), ((begins + sizes) * 8).tolist()
        return [data[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]

    def unpack(self, slots: Array, values: Sequence[bytes]) -> Array:
        """Sets these slots, which are empty, to what was packed; returns the heads, int64 [N, HEAD]. Raises ValueError for other bytes."""
        sketches: list[bytes] = []
        if self.sketches is not None and values:
            values, sketches = map(list, zip(*map(self.sketches.split, values), strict=True))
        lengths = np.fromiter(map(len, values), np.int64, len(values))
        if (lengths % 8).any() or lengths.min(initial=self.head * 8) < self.head * 8:
            raise ValueError("the bytes of a key have another length")
        sizes = lengths // 8
        cells, begins = np.frombuffer(b"".join(values), "<i8"), sizes.cumsum() - sizes
        heads = cells[begins[:, None] + np.arange(self.head)]
        bits = np.ascontiguousarray(heads[:, HEAD + len(self.hops) :]).view(np.uint8)
        live = np.unpackbits(bits, axis=1, count=self.places, bitorder="little").view(bool)
        number = live.sum(axis=1)
        if (sizes != self.head + number * self.layout.width).any():
            raise ValueError("the bytes of a key have another length than its tiles")
        total = int(number.sum())
        self.reserve(total)
        tiles = self.take(total)
        self.pool[tiles] = cells[self._at(begins, number)].view("<f8")
        if self.sketches is not None:
            ends = number.cumsum().tolist()
            for begin, end, data in zip([0, *ends], ends, sketches, strict=False):
                self.sketches.unpack(tiles[begin:end].tolist(), data)
        ring = np.zeros(live.shape, np.int32)
        ring[live] = tiles
        self.ring[slots], self.top[slots] = ring, heads[:, HEAD : HEAD + len(self.hops)]
        return np.asarray(heads[:, :HEAD])

    def _at(self, begins: Array, number: Array) -> Array:
        """Returns the places of the tiles' cells in the bytes of all keys together: [tiles, width]."""
        width = self.layout.width
        before = np.arange(int(number.sum())) - np.repeat(number.cumsum() - number, number)
        return np.asarray((np.repeat(begins + self.head, number) + before * width)[:, None] + np.arange(width))

    def columns(self, slots: int) -> dict[str, Array]:
        """Returns the arrays, as far as they are used by so many slots."""
        free, used = self.counts.tolist()
        beside = {} if self.sketches is None else self.sketches.columns(used)
        return {"ring": self.ring[:slots], "top": self.top[:slots], "pool": self.pool[:used], "free": self.free[:free], **beside}

    def load(self, columns: Mapping[str, Array], slots: int) -> None:
        """Takes arrays that `columns` gave. Raises ValueError for others."""
        ring, top, pool, free = (columns[name] for name in ("ring", "top", "pool", "free"))
        shapes = (ring.shape, top.shape, pool.shape[1:], free.shape[1:])
        if shapes != ((slots, self.places), (slots, len(self.hops)), (self.layout.width,), ()) or not len(pool):
            raise ValueError("the arrays have other shapes")
        if not all(one.min(initial=0) >= 0 and one.max(initial=0) < len(pool) for one in (ring, free)):
            raise ValueError("a ring has a tile that is not there")
        if self.sketches is not None:
            self.sketches.load(columns, len(pool))
        self.ring, self.top, self.pool, self.free = ring, top, pool, free
        self.counts = np.array([len(free), len(pool)], np.int64)
        self.body, self.body_at = self.body[:0], self.body_at[:0]
        self.grow(slots)
