"""Decodes rows that are columns already: checks and casts each column to what a decoder would make, without converting rows to bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from penstock.batch import Array, Batch, Failure, Table
from penstock.codecs.columns import FLOATS, NUMBERS, Assembler, Axes, bounds, outside
from penstock.errors import DecodeError
from penstock.schema import REQUIRED, Column, Field, Schema, innermost

__all__ = ["TableDecoder", "holds_truth"]

_NULL: Final = type(None)
_FEW: Final = 32  # values that Python compares sooner than numpy
_TRUTHS: Final = frozenset((bool, np.bool_))
_LISTS: Final = frozenset((list, tuple))


class TableDecoder:
    """Turns the columns of a Table, by field name (of a field inside others: by its path), into the columns that a stage reads.

    A column of arrays is one array, or an object array with an array or list per row, which may differ in length where the axis is open.

    A field that the table lacks has its default in every row; without a default every row fails. A null is what an absent field is where
    the field has a default and cannot be null; whole numbers may be floats, as they are beside nulls in many tools. Raises SchemaError for
    columns that their fields cannot feed.
    """

    spread = 16  # as of a `Decoder`: nearly all that it costs is per call

    def __init__(self, schema: Schema, columns: Sequence[Column]) -> None:
        self._assembler = Assembler(schema, columns)
        read = {column.field for column in columns}
        self._fields = [(field, field.name in read) for field in self._assembler.fields]
        self._limits = {field.name: self._limits_of(field) for field, read in self._fields if read}
        self._shapes = {field.name: self._assembler.shape(field.name) for field, read in self._fields if read}

    def decode(self, table: Table) -> Batch:
        """Returns the rows as one batch, and a Failure (DecodeError) per row that the columns cannot hold. Never raises for its content."""
        size = len(table)
        errors = {row: DecodeError(why) for row, why in table.problems.items()}
        given: list[Any] = []
        nulls: list[Array | None] = []
        for field, read in self._fields:
            if not read:
                given.append(())
                nulls.append(None)
                continue
            values, holes = self._given(table, field, size)
            if holes is not None and not field.optional and field.default is not REQUIRED:
                values, holes = _defaulted(field, values, holes), None
            if holes is not None and self._assembler.rejects_null(field.name):
                what = "is null" if field.name in table.columns else "has no column"
                self._fail(errors, np.flatnonzero(holes), f"field {field.name!r} {what}")
            if self._fine(field, values, holes, table):
                given.append(values)
                nulls.append(holes)
                continue
            live = np.ones(size, bool) if holes is None else ~holes
            if field.items is not None and values.ndim == 1:
                given.append(self._lists(field, values, live, errors))
            else:
                values = _with_fallback(innermost(field), values)
                if values.dtype == object and innermost(field).dtype != "string":
                    values = self._numbers(field, values, live, errors)
                self._check(field, values, live, np.arange(size), errors)
                given.append(values)
            nulls.append(holes)
        if not errors:
            return Batch(size, self._assembler.arrays(given, size, nulls))
        keep = np.array([row for row in range(size) if row not in errors], dtype=np.intp)
        left = [values[keep] if len(values) else values for values in given]
        columns = self._assembler.arrays(left, len(keep), [None if holes is None else holes[keep] for holes in nulls])
        return Batch(len(keep), columns, keep, tuple(Failure(row, errors[row]) for row in sorted(errors)))

    def _limits_of(self, field: Field) -> tuple[float, float] | None:
        """Returns the least and the greatest number of a field; None where it holds something else."""
        kind = innermost(field).kind
        return bounds(kind, self._assembler.dtypes(field.name)) if kind in NUMBERS and kind != "boolean" else None

    def _fine(self, field: Field, values: Array, holes: Array | None, table: Table) -> bool:
        """Whether all values certainly fit. It looks at a column, not at its rows: nearly all columns of nearly all tables are fine."""
        if values.shape[1:] != self._shapes[field.name]:
            return False
        inner = innermost(field)
        if inner.kind == "string":
            return field.name in table.texts or (holes is None and _all_texts(values, None))
        if inner.kind == "enum":
            return inner.fallback is None and holes is None and _all_texts(values, inner.symbols)
        limits, kind = self._limits[field.name], values.dtype.kind
        if limits is None:
            return inner.kind == "boolean" and kind == "b"
        if kind not in ("iuf" if inner.kind in FLOATS else "iu"):
            return False
        if kind != "f" and limits[0] <= np.iinfo(values.dtype).min and np.iinfo(values.dtype).max <= limits[1]:
            return True
        least, most = limits  # compared by Python, which rounds neither side; NaN is neither
        if values.size <= _FEW:
            return all(least <= one <= most for one in values.ravel().tolist())
        return bool(values.min().item() >= least and values.max().item() <= most)

    def _given(self, table: Table, field: Field, size: int) -> tuple[Array, Array | None]:
        """Returns the field's values, and which of them are null."""
        values = table.columns.get(field.name)
        holes = table.nulls.get(field.name)
        if values is not None:
            if values.dtype == object and holes is None and field.name not in table.texts and _NULL in {*map(type, values.tolist())}:
                holes = np.fromiter((value is None for value in values), bool, size)
            return values, holes if holes is not None and holes.any() else None
        absent = field.default is REQUIRED or field.default is None
        dtype = object if innermost(field).dtype == "string" else innermost(field).dtype
        made = np.full((size,), "" if dtype is object else 0, dtype) if absent else np.array([field.default] * size, dtype)
        return made, np.ones(size, bool) if absent else None

    def _lists(self, field: Field, values: Array, live: Array, errors: dict[int, DecodeError]) -> Array:
        """Returns a column of lists or arrays, one per row, as one array; rows that do not fit fail.

        Rows of one shape are checked together.
        """
        shape = self._shapes[field.name]
        alike: dict[tuple[tuple[int, ...], np.dtype[Any]], list[int]] = {}
        arrays: dict[int, Array] = {}
        for row in np.flatnonzero(live).tolist():
            try:
                array = arrays[row] = _array_of(values[row], innermost(field).dtype, shape)
                alike.setdefault((array.shape, array.dtype), []).append(row)
            except (TypeError, ValueError, RecursionError) as error:
                errors.setdefault(row, DecodeError(f"field {field.name!r} is no array: {error}"))
        ragged = None in shape
        made = np.empty(len(values), object) if ragged else np.zeros([len(values), *(axis or 0 for axis in shape)], object)
        for rows in alike.values():
            stacked = _with_fallback(innermost(field), np.stack([arrays[row] for row in rows]))
            self._check(field, stacked, np.ones(len(rows), bool), np.array(rows), errors)
            if ragged:
                for row, value in zip(rows, stacked, strict=True):
                    made[row] = value
            elif stacked.shape[1:] == shape:
                made[rows] = stacked
        return made

    def _check(self, field: Field, values: Array, live: Array, rows: Array, errors: dict[int, DecodeError]) -> None:
        """Fails the live rows whose value the columns of the field cannot hold; `rows` has the number of each."""
        shape = self._shapes[field.name]
        axes = values.shape[1:]
        if len(axes) != len(shape) or any(asked not in (None, axis) for axis, asked in zip(axes, shape, strict=True)):
            self._fail(
                errors, rows[live], f"field {field.name!r} has the shape {list(axes)}, but {[axis or 'N' for axis in shape]} is read"
            )
            return
        kind = innermost(field).kind
        if kind in ("string", "enum"):
            known = innermost(field).symbols if kind == "enum" else None
            if _all_texts(values, known):
                return
            texts = _flat(values).tolist()
            wrong = np.array(
                [any(not isinstance(one, str) or (known is not None and one not in known) for one in row) for row in texts], bool
            )
            self._fail(errors, rows[wrong & live], f"field {field.name!r} is not a valid {kind} of the schema")
            return
        if values.dtype.kind not in ("b" if kind == "boolean" else "iuf"):  # numpy would take a truth value for a number
            self._fail(errors, rows[live], f"field {field.name!r} is {values.dtype}, but {kind} in the schema")
            return
        if kind == "boolean":
            return
        if values.dtype.kind == "f" and kind not in FLOATS:
            parts = _flat(np.isfinite(values) & (np.floor(values) != values)).any(axis=1)
            self._fail(errors, rows[live & parts], f"field {field.name!r} is no whole number, but {kind} in the schema")
        least, most = self._limits[field.name] or (0, 0)
        # Floats are compared as doubles, which hold both ends of a range of whole numbers when the upper one is that above the last number.
        wide = values.astype(np.float64) if values.dtype.kind == "f" and values.dtype.itemsize < 8 else values
        with np.errstate(invalid="ignore"):
            below_top = wide < most + 1 if values.dtype.kind == "f" and kind not in FLOATS else wide <= most
            beyond = ~((wide >= least) & below_top)
        if nan := self._assembler.takes_nan(field.name):
            beyond &= ~np.isnan(values) if values.dtype.kind == "f" else True
        for at in np.flatnonzero(live & _flat(beyond).any(axis=1)).tolist():
            errors.setdefault(int(rows[at]), DecodeError(outside(field.name, values[at].tolist(), (least, most), nan=nan)))

    def _numbers(self, field: Field, values: Array, live: Array, errors: dict[int, DecodeError]) -> Array:
        """Returns a column of objects as one of numbers; rows that hold something else fail, and hold 0 then."""
        truth = innermost(field).kind == "boolean"
        kinds = (bool, np.bool_) if truth else (int, float, np.number)
        found: list[Any] = [value if isinstance(value, kinds) and (truth or type(value) is not bool) else None for value in values.tolist()]
        wrong = np.fromiter((value is None for value in found), bool, len(found)) & live
        self._fail(errors, np.flatnonzero(wrong), f"field {field.name!r} is not a valid {innermost(field).kind} of the schema")
        nothing = False if truth else 0
        made = np.array([nothing if value is None else value for value in found])
        if made.dtype != object:
            return made
        large = np.fromiter((abs(value or 0) >= 1 << 63 for value in found), bool, len(found)) & live
        self._fail(errors, np.flatnonzero(large), f"field {field.name!r} is outside of what {innermost(field).kind} holds")
        return np.array([0 if value is None or abs(value) >= 1 << 63 else value for value in found])

    @staticmethod
    def _fail(errors: dict[int, DecodeError], rows: Array, why: str) -> None:
        for row in rows.tolist():
            errors.setdefault(row, DecodeError(why))


def _all_texts(values: Array, known: Sequence[str] | None) -> bool:
    """Whether all values are text, and among the symbols `known`: found at once, without a look at each row."""
    listed = values.ravel().tolist()
    return {*map(type, listed)} <= {str} and (known is None or {*listed} <= {*known})


def _defaulted(field: Field, values: Array, holes: Array) -> Array:
    """Returns the values with the field's default in the holes."""
    if values.ndim > 1 or values.dtype == object or isinstance(field.default, list | dict | str):
        made = np.empty(len(values), object)
        made[:] = [field.default if hole else value for value, hole in zip(values, holes.tolist(), strict=True)]
        return made
    return np.where(holes, field.default, values)


def _array_of(value: Any, dtype: str, shape: Axes) -> Array:
    """Returns the list or array of one row as an array; text as objects. Raises TypeError, ValueError."""
    if not isinstance(value, list | tuple | np.ndarray):
        raise TypeError(f"it is of the type {type(value).__name__}")
    if len(value) == 0:
        return np.empty((0, *(axis or 0 for axis in shape[1:])), object if dtype == "string" else dtype)
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value
    listed = _listed(value)
    made: Array = np.array(listed, object if dtype == "string" else None)
    if made.dtype.kind in "iuf" and holds_truth(listed):
        raise TypeError("it has truth values among its numbers")
    return made


def holds_truth(values: Any) -> bool:
    """Whether nested lists hold a truth value, which numpy makes a number beside numbers."""
    kinds = {*map(type, values)}
    if not kinds.isdisjoint(_TRUTHS):
        return True
    return not kinds.isdisjoint(_LISTS) and any(holds_truth(one) for one in values if isinstance(one, list | tuple))


def _listed(value: Any) -> Any:
    """Returns nested lists of lists or arrays, which columnar formats nest in each other."""
    return [_listed(item) for item in value] if isinstance(value, list | tuple | np.ndarray) else value


def _with_fallback(field: Field, values: Array) -> Array:
    """Returns the values with an enum's default in place of symbols that it does not know."""
    if field.fallback is None or values.dtype != object:
        return values
    made = values.copy()
    for at, value in np.ndenumerate(values):
        if isinstance(value, str) and value not in field.symbols:
            made[at] = field.fallback
    return made


def _flat(values: Array) -> Array:
    """`[N, everything else]`, also of no rows."""
    return values.reshape(len(values), math.prod(values.shape[1:]))
