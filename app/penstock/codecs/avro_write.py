"""Columns to Avro datums, a column at a time: each column becomes a list of cells, and a row is its joined cells."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import fastavro
import numpy as np

from penstock.batch import Array
from penstock.codecs.outputs import Outputs
from penstock.errors import EncodeError, Problem, RecordError, SchemaError
from penstock.schema import Field, Schema
from penstock.signature import Tensor

__all__ = ["AvroEncoder"]


def _varint(number: int) -> bytes:
    """Returns a whole number of at most 64 bits as Avro's zigzag varint."""
    rest = number << 1 ^ number >> 63
    out = bytearray()
    while rest > 127:
        out.append(rest & 127 | 128)
        rest >>= 7
    out.append(rest)
    return bytes(out)


# Most whole numbers and nearly all lengths and indexes are small.
_SMALL: Final = [_varint(number) for number in range(8192)]


class AvroEncoder:
    """Encodes rows as datums of `schema`, with `prefix` before each. The fields in `gaps` may be NaN."""

    def __init__(self, fields: Sequence[Tensor], schema: Schema, *, prefix: bytes = b"", gaps: Collection[str] = ()) -> None:
        self._outputs = Outputs(fields, schema, gaps)
        place = {field.name: i for i, field in enumerate(fields)}
        self._prefix = prefix
        self._plan = _plan(schema.fields, schema.avro, place, "", schema)

    def encode(self, columns: Sequence[Array]) -> tuple[list[bytes], Mapping[int, RecordError]]:
        """Returns one datum per row. A row with a non-finite number or a bad string has b"" and an EncodeError."""
        errors = self._outputs.check(columns)
        size = len(columns[0])
        cells: list[Sequence[bytes]] = [[self._prefix] * size]
        for field, constant, at in self._plan:
            # A null in a field that is not optional has failed its row, so nulls are searched only when rows have failed.
            holed = at >= 0 and columns[at].dtype.kind == "O" and (field.optional or errors)
            nulls = [value is None for value in columns[at].tolist()] if holed and field.items is None else []
            if any(nulls):
                cells.append(_optional_cells(field, constant, columns[at], nulls, errors))
                continue
            if constant or at < 0:
                cells.append([constant] * size)
            if at >= 0:
                cells.append(_cells(field, columns[at], errors))
        written = list(map(b"".join, zip(*cells, strict=True)))
        for row in errors:
            written[row] = b""
        return written, errors


def _plan(fields: Sequence[Field], avro: Any, place: Mapping[str, int], at: str, schema: Schema) -> list[tuple[Field, bytes, int]]:
    """Returns, for the fields of a record in their order, what comes before each value, and the column of the value; -1 for a constant.

    Fields inside a record follow each other as in a flat event. `at` is the path of the record, with a dot.
    """
    made: list[tuple[Field, bytes, int]] = []
    declared = schema.avro["__named_schemas"][avro] if isinstance(avro, str) else avro
    for field, raw in zip(fields, declared["fields"], strict=True):
        path, union = at + field.name, isinstance(raw["type"], list)
        branch = _SMALL[_branch(raw["type"])] if union else b""
        if any(one.startswith(f"{path}.") for one in place):
            inner = raw["type"][_branch(raw["type"])] if union else raw["type"]
            made += [(field, branch, -1), *_plan(field.fields, inner, place, f"{path}.", schema)]
        elif path in place:
            made.append((field, branch, place[path]))
        else:
            made.append((field, _default(field, raw, schema), -1))
    return made


def _optional_cells(field: Field, branch: bytes, column: Array, nulls: list[bool], errors: dict[int, RecordError]) -> Sequence[bytes]:
    """Returns the values of a column with nulls, each after its branch index in the union of null and one type."""
    held = np.where(nulls, "" if field.dtype == "string" else 0, column)
    null = b"" if not branch else b"\0" if branch == b"\2" else b"\2"  # b"": the schema forbids it, and the row has failed
    return [null if hole else branch + cell for hole, cell in zip(nulls, _cells(field, held, errors), strict=True)]


def _cells(field: Field, column: Array, errors: dict[int, RecordError]) -> Sequence[bytes]:
    """Returns the values of a column, each as bytes."""
    if field.items is not None:
        return _arrays(field.items, column, errors)
    match field.kind:
        case "boolean":
            return [b"\1" if value else b"\0" for value in column.tolist()]
        case "float" | "double":
            width = 4 if field.kind == "float" else 8
            packed = column.astype(f"<f{width}", copy=False).tobytes()
            return [packed[at : at + width] for at in range(0, len(packed), width)]
        case "string":
            return _strings(column.tolist(), errors)
        case "enum":
            index = {symbol: _varint(i) for i, symbol in enumerate(field.symbols)}
            return [index.get(value, b"") for value in column.tolist()]
        case _:
            return [_SMALL[value] if 0 <= value < 8192 else _varint(value) for value in column.tolist()]


def _strings(values: list[str], errors: dict[int, RecordError]) -> list[bytes]:
    cells = []
    for row, value in enumerate(values):
        try:
            raw = value.encode()
        except UnicodeEncodeError as error:
            errors.setdefault(row, EncodeError(f"a string is not valid Unicode: {error.reason}"))
            raw = b""
        cells.append((_SMALL[len(raw)] if len(raw) < 8192 else _varint(len(raw))) + raw)
    return cells


def _arrays(items: Field, column: Array, errors: dict[int, RecordError]) -> list[bytes]:
    """One block per array; the cells of all rows are made together and then distributed."""
    if column.ndim == 1:  # the rows have arrays of different lengths
        return [_arrays(items, one[np.newaxis], errors)[0] for one in column]
    size = column.shape[1]
    if size == 0:
        return [b"\0"] * len(column)
    if items.kind in ("float", "double") and column.ndim == 2:
        head, packed = _varint(size), column.astype("<f4" if items.kind == "float" else "<f8", copy=False).tobytes()
        width = size * (4 if items.kind == "float" else 8)
        return [head + packed[at : at + width] + b"\0" for at in range(0, len(packed), width)]
    inner: dict[int, RecordError] = {}
    cells = _cells(items, column.reshape(len(column) * size, *column.shape[2:]), inner)
    for at, error in inner.items():
        errors.setdefault(at // size, error)
    return [_varint(size) + b"".join(cells[at : at + size]) + b"\0" for at in range(0, len(cells), size)]


def _branch(union: list[Any]) -> int:
    """Returns the index of the branch that is not null."""
    return next(i for i, branch in enumerate(union) if branch != "null")


def _default(field: Field, raw: Mapping[str, Any], schema: Schema) -> bytes:
    """Returns the cell of a field that the sink leaves at its default."""
    value = field.default.encode("latin-1") if field.kind == "bytes" and isinstance(field.default, str) else field.default
    one = fastavro.parse_schema({"type": "record", "name": "Default", "fields": [raw]}, named_schemas=dict(schema.avro["__named_schemas"]))
    out = io.BytesIO()
    try:
        fastavro.schemaless_writer(out, one, {field.name: value})
    except (ValueError, TypeError) as error:
        message = f"the default of field {field.name!r} cannot be written: {error}"
        raise SchemaError(Problem(schema.path or schema.name, 0, 0, message, "correct it, or write the field")) from None
    return out.getvalue()
