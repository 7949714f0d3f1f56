"""Checks what a sink writes: output fields with the sink's schema once, and each row for values that no format can express."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import isfinite

import numpy as np

from penstock.batch import Array
from penstock.errors import EncodeError, Problem, RecordError, SchemaError
from penstock.schema import Field, Schema, innermost, writes
from penstock.signature import Tensor

__all__ = ["Outputs"]

_every = np.logical_and.reduce  # what `all` calls, by way of Python


class Outputs:
    """The fields of an output event; those in `gaps` may be NaN. Raises SchemaError when they do not fit the sink's schema."""

    def __init__(self, fields: Sequence[Tensor], schema: Schema | None, gaps: Collection[str] = ()) -> None:
        problems = [] if schema is None else _clashes(fields, schema)
        if problems:
            raise SchemaError(problems)
        self.fields = tuple(fields)
        self._gaps = frozenset(gaps)
        self._declared = [schema.leaf(field.name) if schema else None for field in fields]

    def check(self, columns: Sequence[Array]) -> dict[int, RecordError]:
        """Returns the rows that cannot be written: a non-finite number, a forbidden null, or a string that is not a symbol of its enum."""
        errors: dict[int, RecordError] = {}
        for field, declared, column in zip(self.fields, self._declared, columns, strict=True):
            if column.dtype.kind == "O" and column.ndim == 1 and field.shape:
                _check_ragged(field, column, errors)
            elif column.dtype.kind == "f":
                if column.size == 1 and isfinite(column.item()):  # numpy takes a hundred times as long for one number
                    continue
                fine = np.isfinite(column)
                if field.name in self._gaps:
                    fine |= np.isnan(column)
                if not _every(fine, axis=None):
                    _note_number(errors, ~fine, field.name)
            elif column.dtype.kind == "O" and (declared is not None or field.dtype != "string"):
                _check_objects(field, declared, column, errors)
        return errors


def _check_ragged(field: Tensor, column: Array, errors: dict[int, RecordError]) -> None:
    """Checks rows with arrays of different lengths."""
    if field.dtype.startswith("float") and len(column):
        lengths = [len(one) for one in column]
        bad = ~np.isfinite(np.concatenate(column)).reshape(sum(lengths), -1).all(axis=1)
        for row in np.unique(np.repeat(np.arange(len(column)), lengths)[bad]).tolist():
            errors.setdefault(row, EncodeError(f"field {field.name!r} is not a finite number", field=field.name))


def _check_objects(field: Tensor, declared: Field | None, column: Array, errors: dict[int, RecordError]) -> None:
    """Checks strings, and every column that may hold nulls."""
    values = column.ravel().tolist()
    if declared is not None and not declared.nullable and None in values:
        _note(errors, _where(column, [value is None for value in values]), f"field {field.name!r} is null, which the sink's schema forbids")
    if field.dtype in ("float32", "float64"):
        _note_number(errors, _where(column, [value is not None and not isfinite(value) for value in values]), field.name)
    elif declared is not None and (symbols := innermost(declared).symbols) and not set(values) <= {*symbols, None}:
        bad = [value is not None and value not in symbols for value in values]
        _note(errors, _where(column, bad), f"field {field.name!r} is not a symbol of the enum")


def _where(column: Array, bad: list[bool]) -> Array:
    return np.array(bad, bool).reshape(column.shape)


def _note_number(errors: dict[int, RecordError], bad: Array, field: str) -> None:
    for row in np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1)).tolist():
        place = "".join(f"[{at}]" for at in np.argwhere(bad[row])[0]) if bad.ndim > 1 else ""
        errors.setdefault(row, EncodeError(f"field {field + place!r} is not a finite number", field=field))


def _note(errors: dict[int, RecordError], bad: Array, message: str) -> None:
    for row in np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1)).tolist():
        errors.setdefault(row, EncodeError(message))


def _clashes(fields: Sequence[Tensor], schema: Schema) -> list[Problem]:
    file = schema.path or schema.name
    problems = []
    for output in fields:
        field = schema.leaf(output.name)
        if field is None:
            problems.append(Problem(file, 0, 0, f"the sink writes {output.name!r}, which is not a field", "declare it in the schema"))
        elif not writes(output.dtype, field) or not _same_axes(field, output):
            message = f"field {field.name!r} is {field.kind} and cannot hold {output}"
            problems.append(Problem(file, 0, 0, message, "declare a type that can hold it"))
    for path in schema.unwritten([output.name for output in fields]):
        message = f"field {path!r} has no default and the sink does not write it"
        problems.append(Problem(file, 0, 0, message, "give it a default, or write it"))
    return problems


def _same_axes(field: Field, output: Tensor) -> bool:
    pairs = zip(field.shape, output.shape, strict=False)
    return len(field.shape) == len(output.shape) and all(axis is None or asked in (None, axis) for axis, asked in pairs)
