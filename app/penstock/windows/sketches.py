"""Sketches of the values of a track: what a tile has beside its cells, and what is read of several of them.

1. A sketch is a digest of the library, and the recent values that the digest does not have yet, 8 bytes each. `ROOM` recent values go
   into the digest at once. Both are bytes that never change, so they are the same after a restore.
2. Where no sketch has a digest, and there are no more than `MOST` values, the answer is exact: `read`, which exact windows use as well.
3. Otherwise sketches are merged, the oldest first. What is merged is a copy: the library's t-digest reorganises itself when it is read or
   written, and a tile must not depend on how often that happens.

The library is DataSketches: its CPC sketch for distinct counts, its t-digest for quantiles. It ends the process over some bytes that it
has not written, so those of a changelog have a checksum. Why these two: docs/decisions/0047-sketches-in-windows.md
"""

from __future__ import annotations

import math
import struct
import sys
import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import pairwise
from typing import Any, Final, NamedTuple, cast

import numpy as np

from penstock.batch import Array
from penstock.windows.definition import Sketch
from penstock.windows.partials import Reading

__all__ = ["CELL", "NOTHING", "Kept", "Sketches", "added", "estimate", "plain", "read", "tokens"]

ROOM: Final = 64  # recent values of a tile, at which they go into its digest
MOST: Final = 1024  # values that are read as they are
CELL: Final = 8  # bytes of a value
_LG_K: Final = 10  # of the CPC sketch: 1024 bins, a standard error of 2.2 %, up to 0.7 kB
_K: Final = 100  # of the t-digest of a tile: up to 2.4 kB
_WIDER: Final = 400  # of one that others are merged into: with 100, the rank of a median would be off four times as much
_HEAD: Final = struct.Struct("<8xI4xdd")  # of the bytes of a t-digest: the number of its centroids, its smallest and its greatest value
_CENTROID: Final = np.dtype([("mean", "<f8"), ("weight", "<u8")])
_SINGLE: Final = 2  # the flag of a t-digest of one value: it is at byte 8, with nothing else
_HUGE: Final = 1e300
_GREATEST: Final = sys.float_info.max
_TAIL: Final = struct.Struct("<II")  # behind the sketches of a key: their size, and their checksum


class Kept(NamedTuple):
    """The sketch of a tile and a track: its digest, b"" for none, and its recent values."""

    digest: bytes
    recent: bytes


NOTHING: Final = Kept(b"", b"")


def tokens(column: Array) -> tuple[Array, Array]:
    """Returns what a distinct count compares of each value, as the bits of float64 [N], and which values are there: bool [N].

    The column is of numbers, bool, or objects: text, whole numbers or bool, and None. Numbers are compared as they are, a text by 64 bits
    of its digest. A float that is not finite is not there.
    """
    if column.dtype != object:
        if column.dtype.kind == "f":
            column = column.astype(np.float64) + 0.0  # one zero
            return column, np.isfinite(column)
        return column.astype(np.int64).view(np.float64), np.ones(len(column), bool)
    there = np.fromiter((one is not None for one in column.tolist()), bool, len(column))
    made, given = np.zeros(len(column)), column[there].tolist()
    if given and type(given[0]) is str:
        digests = (blake2b(one.encode("utf-8", "surrogatepass"), digest_size=CELL).digest() for one in given)
        made[there] = np.frombuffer(b"".join(digests), "<f8")
    elif given:
        made[there], _ = tokens(np.array(given))
    return made, there


def read(reading: Reading, values: Array, rows: Array, into: Array) -> None:
    """Sets the rows of `into` (float64 [N]) that have values to the exact answer: `values` float64 [M], `rows` int64 [M].

    A quantile lies between two values where its place does (linear interpolation, the default of `numpy.quantile`).
    """
    if not len(values):
        return
    if reading.kind == "distinct":
        bits = np.ascontiguousarray(values).view(np.int64)
        order = np.lexsort((bits, rows))
        rows, bits = rows[order], bits[order]
        new = np.r_[True, (rows[1:] != rows[:-1]) | (bits[1:] != bits[:-1])]
        found, counts = np.unique(rows[new], return_counts=True)
        into[found] = counts
        return
    order = np.lexsort((values, rows))
    rows, values = rows[order], values[order]
    first = np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]])
    last = np.diff(np.r_[first, len(rows)]) - 1
    place = last * reading.q
    low = np.floor(place).astype(np.int64)
    below, above, part = values[first + low], values[first + np.minimum(low + 1, last)], place - low
    apart = above - below
    into[rows[first]] = np.where(part >= 0.5, above - apart * (1 - part), below + apart * part) + 0.0  # one zero, however they were sorted


def added(kind: Sketch, kept: Kept, value: bytes) -> Kept:
    """Returns the sketch with one more value."""
    if kind == "distinct" and _has(kept.recent, value):
        return kept
    recent = kept.recent + value
    if len(recent) < ROOM * CELL:
        return Kept(kept.digest, recent)
    return Kept(_together(kind, (kept.digest,), recent, _K).serialize(), b"")


def plain(sketches: Sequence[Kept]) -> bytes | None:
    """Returns the values of these sketches, to be read as they are; None where they have to be merged."""
    for one in sketches:
        if one.digest:
            return None
    recent = b"".join([one.recent for one in sketches])
    return recent if len(recent) <= MOST * CELL else None


def estimate(kind: Sketch, before: Sequence[Kept], own: Kept, qs: Sequence[float]) -> list[float]:
    """Returns what is read of the sketches of the hops before, the oldest first, and of that of a row's own hop: a number for each `q`."""
    sketch = _together(kind, (_merged(kind, tuple(before)), own.digest), own.recent)
    return [float(round(sketch.get_estimate()))] if kind == "distinct" else _quantiles(sketch.serialize(), qs)


def _quantiles(digest: bytes, qs: Sequence[float]) -> list[float]:
    """Returns a quantile for each `q`, of the bytes of a t-digest: they ascend with `q`, from the smallest value to the greatest.

    Half the weight of a centroid lies on each side of its mean; between two means, and between an extreme and a mean, a quantile lies where
    its place does. The `get_quantile` of the library (5.2.0) descends between two means.
    """
    if digest[5] & _SINGLE:
        return [struct.unpack_from("<d", digest, 8)[0] + 0.0] * len(qs)
    number, *extremes = _HEAD.unpack_from(digest)
    least, most = (min(max(one, -_GREATEST), _GREATEST) for one in extremes)
    centroids = np.frombuffer(digest, _CENTROID, number, _HEAD.size)
    weights = centroids["weight"].astype(np.float64)
    ends = weights.cumsum()
    places, total = ends - weights / 2, float(ends[-1])
    # a mean of values near the greatest float64 overflows in the library, which takes it for an extreme as well
    means = np.fmax.accumulate(centroids["mean"])
    scale = 1 / 16 if max(-least, most) > _HUGE else 1.0  # so that the difference of two values is finite

    def point(at: int) -> tuple[float, float]:
        if at < 0:
            return 0.0, least
        return (float(places[at]), min(max(least, float(means[at])), most)) if at < number else (total, most)

    found = []
    for q, at in zip(qs, places.searchsorted([q * total for q in qs], "right").tolist(), strict=True):
        (left, below), (right, above) = point(at - 1), point(at)
        part = (q * total - left) / (right - left)
        value = (below * scale + (above * scale - below * scale) * part) / scale
        found.append((min(max(below, value), above) if part < 1 else above) + 0.0)  # rounding does not take it past a mean
    return found


@lru_cache(maxsize=1024)
def _merged(kind: Sketch, sketches: tuple[Kept, ...]) -> bytes:
    """Returns the digest of all of these. It is kept: the earlier hops of a key seldom change, and a row reads them once more."""
    digests, recent = [one.digest for one in sketches], b"".join([one.recent for one in sketches])
    return cast(bytes, _together(kind, digests, recent).serialize()) if sketches else b""


def _together(kind: Sketch, digests: Iterable[bytes], values: bytes, k: int = _WIDER) -> Any:
    """Returns the sketch of the library of what the digests have, in their order, and then of these values. `k` is that of a t-digest."""
    import datasketches  # who has no sketches does not need it

    if kind == "distinct":
        union, own = datasketches.cpc_union(_LG_K), datasketches.cpc_sketch(_LG_K)
        for digest in filter(None, digests):
            union.update(datasketches.cpc_sketch.deserialize(digest))
        for token in np.frombuffer(values, "<i8").tolist():
            own.update(token)
        union.update(own)
        return union.get_result()
    sketch = datasketches.tdigest_double(k)
    for digest in filter(None, digests):
        sketch.merge(datasketches.tdigest_double.deserialize(digest))
    if values:
        sketch.update(np.frombuffer(bytearray(values), "<f8"))  # it takes only what may be written
    return sketch


def _has(recent: bytes, value: bytes) -> bool:
    at = recent.find(value)
    while at > 0 and at % CELL:  # across two others
        at = recent.find(value, at + 1)
    return at >= 0


class Sketches:
    """The sketches of the tiles of a partition, of so many tracks: digests and recent values, by track and tile. Tile 0 has none."""

    def __init__(self, tracks: int) -> None:
        self._digests: list[list[bytes]] = [[b""] for _ in range(tracks)]
        self._recent: list[list[bytes]] = [[b""] for _ in range(tracks)]
        self._all = [*self._digests, *self._recent]

    def grow(self, tiles: int) -> None:
        """Makes room for so many tiles."""
        for one in self._all:
            one.extend([b""] * (tiles - len(one)))

    def clear(self, tiles: Iterable[int]) -> None:
        """Forgets what tiles hold that are free."""
        for tile in tiles:
            for one in self._all:
                one[tile] = b""

    def at(self, tile: int) -> list[Kept]:
        """Returns the sketch of each track."""
        return [Kept(digests[tile], recent[tile]) for digests, recent in zip(self._digests, self._recent, strict=True)]

    def put(self, tile: int, sketches: Iterable[Kept]) -> None:
        """Sets the sketch of each track."""
        for track, (digest, recent) in enumerate(sketches):
            self._digests[track][tile], self._recent[track][tile] = digest, recent

    # -- the bytes of a key: behind its cells, the sizes of digests and recent values of its tiles (uint32), these, and the tail -----------

    def pack(self, tiles: Sequence[int]) -> bytes:
        """Returns the bytes of these tiles' sketches."""
        parts = [one[tile] for one in self._all for tile in tiles]
        data = b"".join([np.fromiter(map(len, parts), "<u4", len(parts)).tobytes(), *parts])
        return data + _TAIL.pack(len(data), zlib.crc32(data))

    @staticmethod
    def split(value: bytes) -> tuple[bytes, bytes]:
        """Returns the cells of a key's bytes, and the bytes of its sketches. Raises ValueError for what `pack` has not returned."""
        size, checksum = _TAIL.unpack(value[-_TAIL.size :]) if len(value) >= _TAIL.size else (math.inf, 0)
        begin = len(value) - _TAIL.size - size
        if begin < 0 or zlib.crc32(value[int(begin) : -_TAIL.size]) != checksum:
            raise ValueError("the bytes of a key have another checksum than their sketches")
        return value[: int(begin)], value[int(begin) : -_TAIL.size]

    def unpack(self, tiles: Sequence[int], data: bytes) -> None:
        """Sets these tiles to what was packed. Raises ValueError for other bytes."""
        number = len(tiles) * len(self._all)
        sizes = np.frombuffer(data, "<u4", number) if len(data) >= 4 * number else np.zeros(0, "<u4")
        self._set(tiles, sizes, data[4 * number :])

    def columns(self, tiles: int) -> dict[str, Array]:
        """Returns the arrays of so many tiles."""
        parts = [part for one in self._all for part in one[:tiles]]
        sizes = np.fromiter(map(len, parts), np.int32, len(parts))
        return {"sketches": np.frombuffer(b"".join(parts), np.uint8), "sketch_sizes": sizes}

    def load(self, columns: Mapping[str, Array], tiles: int) -> None:
        """Takes arrays that `columns` gave. Raises KeyError or ValueError for others."""
        sizes, data = columns["sketch_sizes"], columns["sketches"].tobytes()
        for one in self._all:
            one[:] = [b""] * tiles
        self._set(range(tiles), sizes, data)

    def _set(self, tiles: Sequence[int], sizes: Array, data: bytes) -> None:
        if len(sizes) != len(tiles) * len(self._all) or sizes.min(initial=0) < 0 or int(sizes.sum(dtype=np.int64)) != len(data):
            raise ValueError("the bytes of a key, or the arrays, have other sizes than their sketches")
        ends = sizes.cumsum(dtype=np.int64).tolist()
        places = ((one, tile) for one in self._all for tile in tiles)
        for (one, tile), (begin, end) in zip(places, pairwise([0, *ends]), strict=True):
            one[tile] = data[begin:end]
