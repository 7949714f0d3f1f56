"""What a sink may write: output fields checked against the sink's schema once, and their rows for what no format can say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from penstock.batch import Array
from penstock.errors import EncodeError, Problem, RecordError, SchemaError
from penstock.schema import REQUIRED, Field, Schema
from penstock.signature import Tensor

__all__ = ["Outputs"]

_FITTING: Final = {
    "boolean": {"bool"},
    "int": {"int8", "int16", "int32", "uint8", "uint16"},
    "long": {"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"},
    "timestamp": {"int64", "uint32", "int32"},
    "float": {"float32"},
    "double": {"float32", "float64"},
    "string": {"string"},
    "enum": {"string"},
}  # fmt: skip


class Outputs:
    """The fields of an output event. Raises SchemaError when they do not fit the sink's schema."""

    def __init__(self, fields: Sequence[Tensor], schema: Schema | None) -> None:
        problems = [] if schema is None else _clashes(fields, schema)
        if problems:
            raise SchemaError(problems)
        self.fields = tuple(fields)
        declared = [schema and schema.field(field.name) for field in fields]
        self._symbols = [frozenset(_inner(field).symbols) if field else frozenset() for field in declared]

    def check(self, columns: Sequence[Array]) -> dict[int, RecordError]:
        """The rows that cannot be written: a number that is not finite, a string that is none or no symbol of its enum."""
        errors: dict[int, RecordError] = {}
        for field, symbols, column in zip(self.fields, self._symbols, columns, strict=True):
            if column.dtype.kind == "f":
                fine = np.isfinite(column)
                if not fine.all():
                    _note(errors, ~fine, f"field {field.name!r} is not a finite number")
            elif symbols:
                fine = np.array([value in symbols for value in column.ravel().tolist()], bool).reshape(column.shape)
                if not fine.all():
                    _note(errors, ~fine, f"field {field.name!r} is none of the enum's symbols")
        return errors


def _note(errors: dict[int, RecordError], bad: Array, message: str) -> None:
    for row in np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1)).tolist():
        errors.setdefault(row, EncodeError(message))


def _inner(field: Field) -> Field:
    return field if field.items is None else _inner(field.items)


def _clashes(fields: Sequence[Tensor], schema: Schema) -> list[Problem]:
    file = schema.path or schema.name
    problems = []
    for output in fields:
        field = schema.field(output.name)
        if field is None:
            problems.append(Problem(file, 0, 0, f"the sink writes {output.name!r}, which is no field", "declare it in the schema"))
        elif output.dtype not in _FITTING.get(_inner(field).kind, ()) or not _same_axes(field, output):
            message = f"field {field.name!r} is {field.kind} and cannot hold {output}"
            problems.append(Problem(file, 0, 0, message, "declare a type that holds it"))
    written = {output.name for output in fields}
    for field in schema.fields:
        if field.default is REQUIRED and field.name not in written:
            message = f"field {field.name!r} has no default and the sink does not write it"
            problems.append(Problem(file, 0, 0, message, "give it a default, or write it"))
    return problems


def _same_axes(field: Field, output: Tensor) -> bool:
    pairs = zip(field.shape, output.shape, strict=False)
    return len(field.shape) == len(output.shape) and all(axis is None or asked in (None, axis) for axis, asked in pairs)
