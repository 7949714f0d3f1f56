"""Windows whose begin lies on a hop: each key keeps a partial per hop, however many events it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from penstock.batch import Array
from penstock.native import native
from penstock.windows import rounds, sketching
from penstock.windows.definition import Definition
from penstock.windows.partition import Partition
from penstock.windows.rings import Rings
from penstock.windows.rows import Rows

__all__ = ["Sawtooth"]


class Sawtooth(Partition):
    """The windows of one partition, as tiles in rings. `portable`: computed in numpy, even if there is a native part."""

    def __init__(self, definition: Definition, *, portable: bool = False) -> None:
        super().__init__(definition)
        self._rings = Rings(definition, self._layout, None if portable else native)

    def _kept(self, times: Array, latest: Array) -> Array:
        hops = self._rings.hops
        return np.asarray((times[:, None] // hops[:, 0] >= latest[:, None] // hops[:, 0] - hops[:, 2] + 1).any(axis=1))

    def _fold(self, rows: Rows, into: Array, answers: Array) -> None:
        rings = self._rings
        rings.reserve(len(rows) * len(rings.hops), len(rows) * rings.places)
        include = self.definition.include_self
        changes = sketching.fold(rings, self._newest, rows, answers, include_self=include) if rings.sketches is not None else None
        if rings.native is None:
            into[:] = rings.layout.neutral
            rounds.fold(rings, self._newest, self._counted, rows, into, include_self=include)
        else:
            tiles = (rings.layout.numbers, rings.hops, rings.ring, rings.top, rings.pool, rings.free, rings.counts)
            keys = (rings.body, rings.body_at, self._newest, self._counted)
            batch = (rows.slots, rows.times, rows.offsets, rows.latest, rows.marks, rows.values, rows.takes, into)
            rings.native.fold_windows((*tiles, *keys, *batch), include)
        if changes is not None:
            sketching.keep(rings, changes)

    def _grow(self, slots: int) -> None:
        self._rings.grow(slots)

    def _dead(self, begin: int, end: int) -> Array:
        return self._rings.sweep(begin, end, self.standing.latest)

    def _drop(self, slots: Array) -> None:
        self._rings.drop(slots)

    def _pack(self, slots: Array, heads: Array) -> list[bytes]:
        return self._rings.pack(slots, heads, self.standing.latest)

    def _unpack(self, slots: Array, values: Sequence[bytes]) -> Array:
        return self._rings.unpack(slots, values)

    def _columns(self, slots: int) -> dict[str, Array]:
        return self._rings.columns(slots)

    def _load(self, columns: Mapping[str, Array], slots: int) -> None:
        self._rings.load(columns, slots)
