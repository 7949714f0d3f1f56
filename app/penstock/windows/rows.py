"""The rows of a batch as a window sees them: by key, with what was decided about each of them before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import Any

import msgspec
import numpy as np

from penstock.batch import Array

__all__ = ["Mark", "Rows", "keys_of"]


class Mark(IntFlag):
    """What happened to a row, as bits of a uint8. The numbers are those of _native.c."""

    COUNTED = 1  # later rows see it
    LATE = 2  # further behind the newest of the partition than allowed
    FUTURE = 4  # its time cannot be: it has no features, and nothing counts it
    REPLAYED = 8  # it was counted, or decided about, before
    DISORDERED = 16  # not late, but a later event of its key came before it: it sees whole hops only


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one partition, ascending by offset.

    `slots` int64 [N]: the place of the key, -1 where it has no state. `times` int64 [N]: ms since the epoch. `offsets` int64 [N]. `latest`
    int64 [N]: the newest time before each row. `marks` uint8 [N]. `values` float64 [columns, N]. `takes` bool [tracks, N]: which rows a
    track counts.
    """

    slots: Array
    times: Array
    offsets: Array
    latest: Array
    marks: Array
    values: Array
    takes: Array

    def __len__(self) -> int:
        return len(self.slots)

    def cut(self, begin: int, end: int) -> Rows:
        """Returns some of the rows; `marks` is a view, so that what is marked there is marked here."""
        at = slice(begin, end)
        values, takes = np.ascontiguousarray(self.values[:, at]), np.ascontiguousarray(self.takes[:, at])
        return Rows(self.slots[at], self.times[at], self.offsets[at], self.latest[at], self.marks[at], values, takes)


def keys_of(columns: Sequence[Array]) -> list[bytes]:
    """Returns the key of each row, from the columns of the fields `by`: equal bytes are equal fields.

    Text in one column is its UTF-8. Anything else is MessagePack, so the bytes do not depend on the host. Half of a surrogate pair is
    encoded as if it were a character.
    """
    lists = [column.tolist() for column in columns]
    if len(lists) > 1:
        rows = [*zip(*lists, strict=True)]
        try:
            return [msgspec.msgpack.encode(row) for row in rows]
        except UnicodeEncodeError:
            return [_packed(row) for row in rows]
    return [one.encode("utf-8", "surrogatepass") if type(one) is str else msgspec.msgpack.encode(one) for one in lists[0]]


def _packed(row: tuple[Any, ...]) -> bytes:
    """Returns the MessagePack of a row, as `msgspec` writes it, and of text that has no UTF-8."""
    parts = [msgspec.msgpack.encode([None] * len(row))[: -len(row)]]
    for one in row:
        if type(one) is str:
            text = one.encode("utf-8", "surrogatepass")
            parts += [msgspec.msgpack.encode("-" * len(text)).removesuffix(b"-" * len(text)), text]
        else:
            parts.append(msgspec.msgpack.encode(one))
    return b"".join(parts)
