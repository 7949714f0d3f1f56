"""Parcel: outputs for one partition of a topic, as columns; what they share is stored once.

A worker makes hundreds of thousands of outputs per second, so there is no object per output: a parcel holds lists of the
inputs and of the values, and the headers that all outputs share. A transport writes these as they are; `records` returns
single records where speed does not matter.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, overload

import msgspec
import numpy as np
from msgspec.structs import replace

from penstock.batch import Array, Table
from penstock.record import Header, Outgoing, RecordLike

__all__ = ["Cause", "Columns", "Parcel", "chosen"]


@dataclass(frozen=True, slots=True, eq=False)
class Columns(Sequence[bytes]):
    """Values that stay columns, for a sink that writes columns: by the output's field, arrays of `size` rows.

    As a sequence it yields each row as JSON. A slice is over the same memory.
    """

    size: int
    columns: Mapping[str, Array]

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, at: int) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> Columns: ...
    def __getitem__(self, at: int | slice) -> bytes | Columns:
        if isinstance(at, slice):
            return Columns(len(range(*at.indices(self.size))), {name: column[at] for name, column in self.columns.items()})
        return Table("", self.columns)[at].value or b""

    def take(self, rows: Sequence[int]) -> Columns:
        """Returns these rows."""
        return Columns(len(rows), {name: column[np.asarray(rows, np.intp)] for name, column in self.columns.items()})

    @classmethod
    def joined(cls, parts: Sequence[Columns]) -> Columns:
        """Returns the rows of all parts, at least one. Where an axis is of another length in each, a column has an array per row."""
        columns = {name: _joined([one.columns[name] for one in parts]) for name in parts[0].columns}
        return cls(sum(map(len, parts)), columns)


def _joined(parts: Sequence[Array]) -> Array:
    if len(parts) == 1:
        return parts[0]
    if len({one.shape[1:] for one in parts}) == 1:
        return np.concatenate(parts)
    made = np.empty(sum(map(len, parts)), object)
    for at, value in enumerate(value for one in parts for value in one):
        made[at] = value
    return made


def chosen(values: Sequence[bytes], rows: Sequence[int]) -> Sequence[bytes]:
    """Returns the values at these places, columns as columns."""
    return values.take(rows) if isinstance(values, Columns) else [values[row] for row in rows]


class Cause(NamedTuple):
    """How many `letters` have this cause: the failed step (read, decode, a node, encode or send) and the class of the error."""

    step: str
    reason: str
    letters: int


class Parcel(msgspec.Struct, frozen=True):
    """One output for each of `inputs`, in order.

    An output has its input's timestamp, and its key unless `keys` gives others. Its headers are `common`, then (when `which` is
    given) those of `variants` that `which` points at, then (when `origin` is given) one named `origin[0]` that holds `origin[1]`
    followed by the input's offset in decimal, then (when `identity` is given) one named `identity[0]` with the event's id, then what
    `extra` has for it. The id is that of `ids`; without them it is `identity[1]` followed by the input's offset. `dead` marks dead
    letters, and `causes` counts their causes; parts of a parcel have none.
    """

    topic: str
    partition: int
    inputs: Sequence[RecordLike]
    values: Sequence[bytes | None]
    keys: Sequence[bytes] | None = None
    common: tuple[Header, ...] = ()
    origin: tuple[str, bytes] | None = None
    identity: tuple[str, str] | None = None
    ids: Sequence[str] | None = None
    extra: Sequence[Sequence[Header]] | None = None
    dead: bool = False
    causes: tuple[Cause, ...] = ()
    variants: tuple[tuple[Header, ...], ...] = ()
    which: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def records(self) -> list[Outgoing]:
        """Returns the outputs as single records."""
        return [
            (
                one.timestamp,
                one.key if self.keys is None else self.keys[at],
                self.values[at],
                [
                    *self.common,
                    *(self.variants[self.which[at]] if self.which is not None else ()),
                    *([(self.origin[0], self.origin[1] + b"%d" % one.offset)] if self.origin else []),
                    *([(self.identity[0], self._id(at, one).encode())] if self.identity else []),
                    *(self.extra[at] if self.extra is not None else ()),
                ],
            )
            for at, one in enumerate(self.inputs)
        ]

    def _id(self, at: int, one: RecordLike) -> str:
        assert self.identity is not None
        return f"{self.identity[1]}{one.offset}" if self.ids is None else self.ids[at]

    def part(self, start: int, stop: int) -> Parcel:
        """Returns the outputs [start, stop)."""
        return replace(
            self,
            inputs=self.inputs[start:stop],
            values=self.values[start:stop],
            keys=None if self.keys is None else self.keys[start:stop],
            ids=None if self.ids is None else self.ids[start:stop],
            extra=None if self.extra is None else self.extra[start:stop],
            causes=(),
            which=None if self.which is None else self.which[start:stop],
        )

    def halves(self) -> tuple[Parcel, Parcel]:
        """Returns the same outputs in two parcels."""
        middle = len(self) // 2
        return self.part(0, middle), self.part(middle, len(self))

    def without(self, gone: Collection[int]) -> Parcel:
        """Returns the parcel without the outputs at these places."""
        keep = [at for at in range(len(self)) if at not in gone]
        return replace(
            self,
            inputs=[self.inputs[at] for at in keep],
            values=[self.values[at] for at in keep],
            keys=None if self.keys is None else [self.keys[at] for at in keep],
            ids=None if self.ids is None else [self.ids[at] for at in keep],
            extra=None if self.extra is None else [self.extra[at] for at in keep],
            causes=(),
            which=None if self.which is None else [self.which[at] for at in keep],
        )
