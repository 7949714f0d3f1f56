"""Raw bytes: the whole value of a record is the array of its bytes, `value`. There is no schema file and nothing to parse."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from penstock.batch import Array, Batch, Failure
from penstock.codecs.columns import Assembler
from penstock.errors import DecodeError
from penstock.schema import RAW, Column, steps

__all__ = ["RawDecoder"]

WHOLE = RAW.fields[0].name


class RawDecoder:
    """Decodes values into columns of `value` (all bytes: of one length, or an array of arrays), and of single bytes (`value[0]`)."""

    spread = 1

    def __init__(self, columns: Sequence[Column], *, max_bytes: int) -> None:
        Assembler(RAW, columns)  # raises SchemaError for columns that bytes cannot feed
        self._whole = [column for column in columns if column.field == WHOLE]
        self._single = Assembler(RAW, [column for column in columns if column.field != WHOLE])
        self._places = [(field.name, int(steps(field.name)[1])) for field in self._single.fields[1:]]
        self._lengths = {column.shape[0] for column in self._whole} - {None}
        self._max_bytes = max_bytes

    def decode(self, values: Sequence[bytes | None]) -> Batch:
        """Returns the values as columns, and a Failure for each that is null, too long, or not of the length that is read."""
        good: list[bytes] = []
        failures: list[Failure] = []
        for row, value in enumerate(values):
            try:
                good.append(self._checked(value))
            except DecodeError as error:
                failures.append(Failure(row, error))
        arrays = {column.name: _column(good, column) for column in self._whole}
        singles = [[value[place] if place < len(value) else None for value in good] for _, place in self._places]
        arrays |= self._single.arrays([(), *singles], len(good))
        rows = np.delete(np.arange(len(values)), [failure.row for failure in failures]) if failures else None
        return Batch(len(good), arrays, rows, tuple(failures))

    def _checked(self, value: bytes | None) -> bytes:
        if value is None:
            raise DecodeError("the value is null (a tombstone), not an event")
        if len(value) > self._max_bytes:
            raise DecodeError(f"{len(value)} bytes, more than the {self._max_bytes} allowed (max_bytes of the source)")
        for length in self._lengths:
            if len(value) != length:
                raise DecodeError(f"{len(value)} bytes, and the model takes {length}")
        for name, place in self._places:
            if place >= len(value) and self._single.rejects_null(name):
                raise DecodeError(f"field {name!r} is null, and the topology gives no value for nulls (add it under `missing:`)")
        return value


def _column(values: Sequence[bytes], column: Column) -> Array:
    if column.shape != (None,):
        joined = np.frombuffer(b"".join(values), np.uint8).reshape(len(values), *map(int, filter(None, column.shape)))
        return joined.astype(column.dtype, copy=False)
    made = np.empty(len(values), object)
    for row, value in enumerate(values):
        made[row] = np.frombuffer(value, np.uint8).astype(column.dtype, copy=False)
    return made
