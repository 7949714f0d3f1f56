"""Outputs as Arrow record batches: what the writers of columns share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Final, cast

import msgspec
import numpy as np
import pyarrow as pa

from penstock.batch import Array
from penstock.parcel import Columns
from penstock.schema import innermost
from penstock.signature import Tensor
from penstock.transports.files.base import Shape

__all__ = ["ROWS", "Gathered", "flat_batch", "schema_of"]

ROWS: Final = 1 << 16  # rows of a batch that is written: enough that its fixed cost does not count, and little memory

_Parts = Sequence[tuple[Sequence[str], Tensor]]


class Gathered:
    """Columns of many small outputs, until there are enough rows for a batch."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._held: list[Columns] = []
        self._rows = 0
        self.schema = schema_of(shape)

    def add(self, values: Sequence[bytes | None]) -> Iterator[pa.RecordBatch]:
        """Takes columns; yields a batch when there are ROWS rows."""
        self._held.append(cast(Columns, values))
        self._rows += len(values)
        if self._rows >= ROWS:
            yield from self.rest()

    def rest(self) -> Iterator[pa.RecordBatch]:
        """Yields what is left as a batch, if anything is."""
        if self._rows:
            columns = Columns.joined(self._held).columns
            self._held, self._rows = [], 0
            yield _batch(columns, self._shape, self.schema)


def schema_of(shape: Shape) -> pa.Schema:
    """Returns the Arrow schema of the outputs: the fields of one record are a struct."""
    return pa.schema([(name, kind) for name, kind in _types(_paths(shape), shape)])


def _paths(shape: Shape) -> _Parts:
    return [(field.name.split("."), field) for field in shape.fields]


def _types(parts: _Parts, shape: Shape) -> Iterator[tuple[str, pa.DataType]]:
    for name, inside in _by_head(parts):
        yield name, _type(inside[0][1], shape) if not inside[0][0] else pa.struct(list(_types(inside, shape)))


def _by_head(parts: _Parts) -> Iterator[tuple[str, list[tuple[Sequence[str], Tensor]]]]:
    """Yields each name at the top, with what is inside of it, in the order of the first."""
    order = {head: at for at, head in reversed([*enumerate(path[0] for path, _ in parts)])}
    for name, group in groupby(sorted(parts, key=lambda one: order[one[0][0]]), key=lambda one: one[0][0]):
        yield name, [(path[1:], field) for path, field in group]


def _type(field: Tensor, shape: Shape) -> pa.DataType:
    declared = shape.declared.get(field.name)
    kind = pa.string() if field.dtype == "string" else pa.from_numpy_dtype(np.dtype(field.dtype))
    if declared is not None and (unit := innermost(declared).unit):
        kind = pa.timestamp(unit, "UTC")
    for _ in field.shape:
        kind = pa.list_(kind)
    return kind


def _batch(columns: Mapping[str, Array], shape: Shape, schema: pa.Schema) -> pa.RecordBatch:
    made = [_made(inside, columns, kind.type) for (_, inside), kind in zip(_by_head(_paths(shape)), schema, strict=True)]
    return pa.RecordBatch.from_arrays(made, schema=schema)


def _made(inside: _Parts, columns: Mapping[str, Array], kind: pa.DataType) -> pa.Array:
    path, field = inside[0]
    if not path:
        return _array(columns[field.name], kind)
    fields = [kind.field(at) for at in range(kind.num_fields)]
    made = [_made(part, columns, one.type) for (_, part), one in zip(_by_head(inside), fields, strict=True)]
    return pa.StructArray.from_arrays(made, fields=fields)


def _array(values: Array, kind: pa.DataType) -> pa.Array:
    """Returns a column; None is null. Arrays of rows become lists."""
    if pa.types.is_list(kind):
        if values.dtype == object and values.ndim == 1:  # an array per row
            lengths = [0 if one is None else len(one) for one in values]
            flat = np.concatenate([one for one in values if one is not None]) if sum(lengths) else np.empty(0, object)
            holes = pa.array([one is None for one in values]) if any(one is None for one in values) else None
        else:
            lengths = [values.shape[1]] * len(values)
            flat, holes = values.reshape(-1, *values.shape[2:]), None
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
        return pa.ListArray.from_arrays(offsets, _array(flat, kind.value_type), mask=holes)
    if pa.types.is_timestamp(kind):
        return pa.array(values if values.dtype == object else values.astype(np.int64), pa.int64()).cast(kind)
    return pa.array(values, kind)


def flat_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Returns the batch without structs and lists, for formats of cells: fields inside others by their path, lists as JSON."""
    while any(pa.types.is_struct(field.type) for field in batch.schema):
        batch = _unnested(batch)
    for at, field in enumerate(batch.schema):
        if pa.types.is_list(field.type):
            texts = [None if one is None else msgspec.json.encode(one).decode() for one in _lists(batch.column(at))]
            batch = batch.set_column(at, pa.field(field.name, pa.string()), pa.array(texts, pa.string()))
    return batch


def _lists(array: pa.Array) -> list[Any]:
    """Returns the lists; numbers with the digits that they have as float32."""
    flat = array
    while pa.types.is_list(flat.type):
        flat = flat.flatten()
    if pa.types.is_float32(flat.type):
        return [None if one is None else _short(one) for one in array.to_pylist()]
    return cast(list[Any], array.to_pylist())


def _short(value: Any) -> Any:
    return [_short(one) for one in value] if isinstance(value, list) else float(str(np.float32(value)))


def _unnested(batch: pa.RecordBatch) -> pa.RecordBatch:
    names: list[str] = []
    arrays: list[pa.Array] = []
    for field, array in zip(batch.schema, batch.columns, strict=True):
        if pa.types.is_struct(field.type):
            names += [f"{field.name}.{one.name}" for one in field.type]
            arrays += array.flatten()
        else:
            names.append(field.name)
            arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, names)
