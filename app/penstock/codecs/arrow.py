"""Columns of Arrow to arrays and back: what a pyarrow Table or RecordBatch holds, as rows of a source, and answers as its columns."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.batch import Array, Table
from penstock.schema import Schema, steps

__all__ = ["column", "rows", "texts"]


def rows(table: Any, topic: str, schema: Schema, fields: Collection[str]) -> Table:
    """Returns the columns of a pyarrow Table or RecordBatch that are `fields` of the schema, as rows of `topic`.

    A field inside others is read by its path from structs, maps and lists, or from a column that is called by the path. Without any of the
    fields, a Table of as many rows without values. Copies text and what has nulls; numbers without nulls stay where they are.
    """
    names = set(table.schema.names)
    columns: dict[str, Array] = {}
    nulls: dict[str, Array] = {}
    units = {name: leaf.unit for name in fields if (leaf := schema.leaf(name)) is not None and leaf.kind == "timestamp"}
    aliases = {alias: field.name for field in schema.fields for alias in field.aliases}
    for name in [*fields, *(alias for alias, field in aliases.items() if field in fields and field not in names)]:
        if (found := _found(table, name, names)) is not None:
            field = aliases.get(name, name)
            columns[field], holes = _array(found, units.get(field, "ms"))
            if holes is not None:
                nulls[field] = holes
    if not columns:
        columns[next(iter(fields), "")] = np.full(table.num_rows, None, object)
    return Table(topic, columns, nulls)


def _found(table: Any, path: str, names: Collection[str]) -> Any:
    """Returns the column of the field at this path; None where the table has none."""
    if path in names:
        return table.column(path)
    first, *rest = steps(path) or ("",)
    found = table.column(first) if first in names else None
    for step in rest:
        found = None if found is None else _inside(found, step)
    return found


def _inside(found: Any, step: str | int) -> Any:
    """Returns the field of a struct, the value of a map's key, or the item of a list; None where the column has no such field."""
    kind = found.type
    if isinstance(step, int):
        items = (None if one is None or len(one) <= step else one[step] for one in found.to_pylist())
        return pa.array(items, kind.value_type) if hasattr(kind, "value_type") else None
    if pa.types.is_map(kind):
        return pc.map_lookup(found, pa.scalar(step), "last")
    if not pa.types.is_struct(kind) or kind.get_field_index(step) < 0:
        return None
    return pc.struct_field(found, step)


def _array(found: Any, unit: str) -> tuple[Array, Array | None]:
    """Returns a column as an array `[N, ...]`, and which rows are null."""
    whole = found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
    if isinstance(whole, pa.ChunkedArray):  # of a type whose chunks do not combine
        whole = pa.concat_arrays(whole.chunks) if whole.num_chunks else pa.array([], found.type)
    kind = whole.type
    holes = whole.is_null().to_numpy(zero_copy_only=False) if whole.null_count else None
    if pa.types.is_dictionary(kind):
        words, holes_in = _array(whole.dictionary, unit)
        at = whole.indices.fill_null(0).to_numpy(zero_copy_only=False) if holes is not None else whole.indices.to_numpy()
        if len(words) == 0:
            return np.full(len(whole), None, object), holes
        if holes_in is not None:
            holes = holes_in[at] | (False if holes is None else holes)
        return words[at], holes
    if pa.types.is_timestamp(kind):
        whole, kind = whole.cast(pa.timestamp(unit, kind.tz), safe=False).view(pa.int64()), pa.int64()
    if pa.types.is_fixed_size_list(kind) and not whole.flatten().null_count and holes is None:
        inside, _ = _array(whole.flatten(), unit)
        return inside.reshape(len(whole), kind.list_size, *inside.shape[1:]), None
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        if holes is not None:
            whole = whole.fill_null(False if pa.types.is_boolean(kind) else 0)
        return whole.to_numpy(zero_copy_only=False), holes
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return whole.to_numpy(zero_copy_only=False), holes
    made = np.empty(len(whole), object)
    made[:] = whole.to_pylist()
    return made, holes


def column(values: Array, dtype: str, shape: Sequence[int | None], places: Sequence[int], size: int) -> Any:
    """Returns an Arrow array of `size` rows with `values` `[N, ...]` in the rows `places`, and null in all others.

    Axes inside a row are lists, of a fixed size where the axis is fixed.
    """
    kind: Any = pa.string() if dtype == "string" else pa.from_numpy_dtype(np.dtype(dtype))
    for axis in reversed(shape):
        kind = pa.list_(kind) if axis is None else pa.list_(kind, axis)
    listed: Any = values if values.ndim == 1 and values.dtype != object else [_listed(value) for value in values]
    made = pa.array(listed, kind)
    if len(places) == size:
        return made
    at = np.full(size, -1, np.int64)
    at[np.asarray(places, np.int64)] = np.arange(len(places))
    return made.take(pa.array(at, pa.int64(), mask=at < 0))


def texts(given: Mapping[int, str], size: int) -> Any:
    """Returns an Arrow array of `size` texts: those given by row, and null in all others."""
    if not given:
        return pa.nulls(size, pa.string())
    return pa.array([given.get(row) for row in range(size)], pa.string())


def _listed(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
