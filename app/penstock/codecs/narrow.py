"""Columns at the width of their fields first, and at the width that is asked for then: the half of a binary decoder that finds numbers
that do not fit, and the checks of single values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isfinite, isnan
from operator import attrgetter
from typing import Any

import numpy as np
from msgspec import structs

from penstock.batch import Array, Batch
from penstock.codecs.columns import FLOATS, Assembler, bounds, outside, shaped
from penstock.errors import DecodeError, RecordError
from penstock.schema import Column, Schema, innermost

__all__ = ["Narrowing", "check_value"]


class Narrowing:
    """The columns of a decoder. `wide` makes them, of the requested fields only, at the width of these; `narrow` casts them.

    Raises SchemaError for a column that its field cannot feed.
    """

    def __init__(self, schema: Schema, columns: Sequence[Column]) -> None:
        Assembler(schema, columns)  # raises clearer errors than the widened columns below would
        widened = [_widened(schema, column) for column in columns]
        self.wide = Assembler(_asked(schema, columns), widened)
        self._columns = [column for column, wider in zip(columns, widened, strict=True) if _narrows(schema, column, wider)]

    def narrow(self, batch: Batch) -> Batch:
        """Casts the columns to the requested width. A row with a number that does not fit or is not finite fails."""
        errors: dict[int, RecordError] = {}
        arrays = dict(batch.columns)
        for column in self._columns:
            wide = narrow = arrays[column.name]
            if None in column.shape:
                narrow = arrays[column.name] = _ragged(wide, column.dtype)
                pairs = zip(narrow, wide, strict=True)
                fit = np.fromiter((bool(np.all(_fits(ours, theirs))) for ours, theirs in pairs), bool, len(wide))
            elif wide.dtype.kind == "O":  # it holds nulls and has no width
                fit = np.fromiter((value is None or isfinite(value) for value in wide.tolist()), bool, len(wide))
            else:
                with np.errstate(over="ignore"):
                    narrow = arrays[column.name] = wide.astype(column.dtype, copy=False)
                fit = _fits(narrow, wide)
            if b"\0" in fit.tobytes():
                self._unfit(column, wide, narrow, fit, errors)
        narrowed = structs.replace(batch, columns=arrays)
        if not errors:
            return narrowed
        failed = narrowed.fail(errors)
        return structs.replace(failed, failures=tuple(sorted(failed.failures, key=attrgetter("row"))))

    def _unfit(self, column: Column, wide: Array, narrow: Array, fit: Array, errors: dict[int, RecordError]) -> None:
        nan = isinstance(column.missing.value, float) and isnan(column.missing.value)
        if nan:
            fit = fit | np.isnan(narrow)
        limits = bounds("long" if column.dtype.startswith(("int", "uint")) else "double", [column.dtype])
        for row in np.flatnonzero(~fit.reshape(len(fit), -1).all(axis=1)).tolist():
            value = wide[row].tolist() if isinstance(wide[row], np.ndarray | np.generic) else wide[row]
            errors.setdefault(row, DecodeError(outside(column.field, value, limits, nan=nan)))


def check_value(value: Any, column: Column) -> None:
    """Checks nulls and lengths of a value for the column. Raises DecodeError."""
    if value is None:
        if column.missing.action == "reject":
            raise DecodeError(f"field {column.field!r} is null, and the topology gives no value for nulls (add it under `missing:`)")
    elif column.shape and not shaped(value, column.shape):
        raise DecodeError(f"field {column.field!r} is not an array of {'x'.join(map(str, column.shape))}")


def _fits(narrow: Array, wide: Array) -> Array:
    """Returns which numbers a cast has kept: whole numbers that are equal, and others that are finite."""
    kept: Array = narrow == wide if wide.dtype.kind == "i" else np.isfinite(narrow)
    return kept


def _ragged(wide: Array, dtype: str) -> Array:
    made = np.empty(len(wide), object)
    with np.errstate(over="ignore"):
        for row, value in enumerate(wide):
            made[row] = value.astype(dtype, copy=False)
    return made


def _asked(schema: Schema, columns: Sequence[Column]) -> Schema:
    """Returns the schema with only the requested fields, in the order of the values that a writer reads."""
    found = (schema.field(name) for name in dict.fromkeys(column.field for column in columns))
    return replace(schema, fields=tuple(field for field in found if field is not None))


def _widened(schema: Schema, column: Column) -> Column:
    """Returns the column at the width of its field, so that a number too large for the tensor is found before it is cast."""
    field = schema.field(column.field)
    if field is not None and column.dtype == "float32" and innermost(field).kind == "double":
        return replace(column, dtype="float64")
    if column.dtype.startswith(("int", "uint")) and not (field is not None and column.dtype == field.dtype):
        return replace(column, dtype="int64")
    return column


def _narrows(schema: Schema, column: Column, wider: Column) -> bool:
    """Whether the column may hold a number that its tensor may not: too wide, or not finite."""
    field = schema.field(column.field)
    return wider.dtype != column.dtype or (field is not None and innermost(field).kind in FLOATS)
