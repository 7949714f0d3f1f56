"""Arrow columns as a Table: each column becomes what a decoder would make of the same values in JSON, at once where its type allows it.

| the schema's kind | columns |
|---|---|
| int, long | whole numbers; with `coerce`, floats and text that are whole numbers |
| float, double | numbers, decimals; with `coerce`, text |
| boolean | booleans |
| timestamp | timestamps, dates and whole numbers of the field's unit; with `coerce`, text. A time without a zone is UTC |
| string, enum | text, also dictionaries |
| array | lists; their items alike |

A field inside others is read from structs, lists and maps, or from a column that is named by its path. Text of a format without types
(CSV) is read as any kind, arrays as JSON. A value that does not fit fails its row, never the table.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.batch import Array, Table
from penstock.codecs.coerce import coercion
from penstock.codecs.columns import FLOATS
from penstock.schema import Coercion, Column, Field, Schema, steps

__all__ = ["ArrowReader"]

_ALL: Final[tuple[Coercion, ...]] = ("whole_numbers", "dates", "decimals")  # what is read of text that has no types
_MANY: Final = 4  # rows for each different text, from which on it costs less to make each text once


class ArrowReader:
    """Makes Tables of Arrow record batches, with the columns that a stage reads of a source with this schema.

    `names` are the columns of the batches that are read. With `text`, the batches come from a format without types.
    """

    def __init__(self, schema: Schema, columns: Sequence[Column], *, coerce: Collection[Coercion] = (), text: bool = False) -> None:
        dtypes: dict[str, list[str]] = {}
        for column in columns:
            dtypes.setdefault(column.field, []).append(column.dtype)
        fields = [(path, schema.field(path)) for path in dtypes]
        self._fields = [(path, field) for path, field in fields if field is not None]
        self._values = {path: _Values(field, dtypes[path], _ALL if text else coerce, text=text) for path, field in self._fields}
        self._heads = {path: _names(schema, path) for path, _ in self._fields}
        self.names = [*dict.fromkeys(name for names in self._heads.values() for name in names)]

    def mapping(self, given: pa.Schema) -> list[tuple[Field, str]]:
        """Returns each field that is read with the column of `given` that feeds it; "" where it has its default, or fails every row."""
        return [(field, next((name for name in self._heads[path] if name in given.names), "")) for path, field in self._fields]

    def table(self, batch: pa.RecordBatch, topic: str, *, partition: int = 0, offset: int = 0, numbers: Array | None = None) -> Table:
        """Returns the rows of the batch. Never raises for what is in it."""
        columns: dict[str, Array] = {}
        nulls: dict[str, Array] = {}
        problems: dict[int, str] = {}
        for path, _ in self._fields:
            array = self._found(batch, path)
            if array is None:
                continue
            values, holes = self._values[path](array, problems)
            columns[path] = values
            if holes is not None:
                nulls[path] = holes
        if not columns and batch.num_rows:  # so that the table has rows, which then fail, or have their defaults
            columns[""] = np.zeros(batch.num_rows, np.int8)
        return Table(topic, columns, nulls, partition, offset, None, numbers, problems)

    def _found(self, batch: pa.RecordBatch, path: str) -> pa.Array | None:
        for name in self._heads[path]:
            if name in batch.schema.names:
                array = batch.column(name)
                return array if name == self._heads[path][0] or len(steps(path)) == 1 else _inside(array, steps(path)[1:])
        return None


def _names(schema: Schema, path: str) -> list[str]:
    """Returns the columns in which the field may be: its name or path, then its other names, or those of the field that it is in."""
    head = str(steps(path)[0]) if steps(path) else path
    declared = next((field for field in schema.fields if field.name == head), None)
    return [*dict.fromkeys((path, head, *(declared.aliases if declared is not None else ())))]


def _inside(array: pa.Array, path: Sequence[str | int]) -> pa.Array:
    """Returns what is at the path inside each value; null where anything on the way is null or absent."""
    for at, step in enumerate(path):
        if pa.types.is_struct(array.type) and isinstance(step, str) and array.type.get_field_index(step) >= 0:
            array = pc.struct_field(array, step)
            continue
        return pa.array([_walk(value, path[at:]) for value in array.to_pylist()])
    return array


def _walk(value: Any, path: Sequence[str | int]) -> Any:
    for step in path:
        if isinstance(value, list) and isinstance(step, int):
            value = value[step] if step < len(value) else None
        elif isinstance(value, list):  # a map
            value = next((inner for key, inner in value if key == step), None)
        else:
            value = value.get(step) if isinstance(value, dict) else None
    return value


class _Values:
    """Makes the numpy column of one field of an Arrow array."""

    def __init__(self, field: Field, dtypes: Sequence[str], coerce: Collection[Coercion], *, text: bool) -> None:
        self._field, self._kind, self._text = field, field.kind, text
        self._coerce: Callable[[Any], Any] | None = coercion(field, dtypes, coerce)
        self._whole = "whole_numbers" in coerce
        self._alike = True  # the texts seen so far repeat each other
        self._items = None if field.items is None else _Values(field.items, dtypes, coerce, text=text)

    def __call__(self, array: pa.Array, problems: dict[int, str]) -> tuple[Array, Array | None]:
        """Returns the values `[N, ...]` and which of them are null; None when none is. Notes the rows whose values do not fit."""
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        if self._text and array.null_count and self._kind == "string" and not self._field.optional:
            array = pc.fill_null(array, "")  # an empty cell is an empty text where there can be no null
        holes = array.is_null().to_numpy(zero_copy_only=False) if array.null_count else None
        if self._items is not None:
            return self._lists(array, problems), holes
        if self._kind in ("string", "enum"):
            return self._texts(array), holes
        values = self._numbers(array, holes)
        return (self._each(array, problems) if values is None else values), holes

    def _texts(self, array: pa.Array) -> Array:
        """Returns text as objects; other values as they are, which no text field takes."""
        if pa.types.is_dictionary(array.type):
            names = np.array([*array.dictionary.to_pylist(), None], object)
            return names[pc.fill_null(array.indices, len(names) - 1).to_numpy(zero_copy_only=False)]
        if _is_text(array.type) and self._alike and len(array) >= _MANY:
            packed = array.dictionary_encode()
            self._alike = len(packed.dictionary) * _MANY <= len(array)
            return self._texts(packed)
        made = np.empty(len(array), object)
        made[:] = array.to_pylist() if not _is_text(array.type) else array.to_numpy(zero_copy_only=False)
        return made

    def _numbers(self, array: pa.Array, holes: Array | None) -> Array | None:
        """Returns numbers, with 0 for nulls; None when each value has to be looked at."""
        kind, made = self._kind, array
        try:
            if self._text and _is_text(array.type):
                made = _of_text(array, self._field)
            elif kind == "timestamp" and (pa.types.is_timestamp(array.type) or pa.types.is_date(array.type)):
                made = array.cast(pa.timestamp(self._field.unit or "ms"), safe=False).cast(pa.int64())
            elif pa.types.is_decimal(array.type):
                made = array.cast(pa.float64() if kind in FLOATS else pa.int64())
            elif kind != "boolean" and pa.types.is_floating(array.type) and kind not in FLOATS:
                if not self._whole:
                    return None
                made = array.cast(pa.int64())
        except pa.ArrowInvalid:
            return None
        if not (pa.types.is_integer(made.type) or pa.types.is_floating(made.type) or pa.types.is_boolean(made.type)):
            return None
        if (kind == "boolean") is not pa.types.is_boolean(made.type):
            return None
        if holes is not None:
            made = pc.fill_null(made, False if kind == "boolean" else 0)
        return made.to_numpy(zero_copy_only=False)

    def _each(self, array: pa.Array, problems: dict[int, str]) -> Array:
        """Returns the values, each made by itself: where some of them do not fit, or none does."""
        made = np.zeros(len(array), np.float64 if self._kind in FLOATS else bool if self._kind == "boolean" else np.int64)
        for row, value in enumerate(array.to_pylist()):
            if value is None:
                continue
            try:
                made[row] = self._one(value)
            except (TypeError, ValueError, OverflowError) as error:
                problems.setdefault(row, f"field {self._field.name!r}: {error}")
        return made

    def _one(self, value: Any) -> Any:
        if self._text and self._kind == "boolean":
            if value.lower() not in ("true", "false", "1", "0"):
                raise ValueError(f"{value[:40]!r} is not a boolean")
            return value.lower() in ("true", "1")
        if isinstance(value, str) and self._coerce is None:
            raise ValueError(f"{value[:40]!r} is text, but {self._kind} in the schema (`coerce:` may allow it)")
        if isinstance(value, float) and self._kind not in FLOATS and not self._whole:
            raise ValueError(f"{value!r} is no whole number (`coerce: [whole_numbers]` allows those that are)")
        if isinstance(value, bool) or not isinstance(value, str | float | int):
            raise TypeError(f"{type(value).__name__}, but {self._kind} in the schema")
        return value if self._coerce is None else self._coerce(value)

    def _lists(self, array: pa.Array, problems: dict[int, str]) -> Array:
        """Returns lists: one array where all have one length and no nulls, else an object array with an array or list per row."""
        assert self._items is not None
        if self._text and _is_text(array.type):
            return self._written(array, problems)
        kind = array.type
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
            made = np.empty(len(array), object)
            made[:] = array.to_pylist()
            return made
        inner = array.flatten()  # of the lists that are not null
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        wrong: dict[int, str] = {}
        values, holes = self._items(inner, wrong)
        ends = np.cumsum(lengths)
        for at, why in wrong.items():
            problems.setdefault(int(np.searchsorted(ends, at, side="right")), why)
        if holes is not None:
            for at in np.flatnonzero(holes).tolist():
                problems.setdefault(int(np.searchsorted(ends, at, side="right")), f"field {self._field.name!r} has an item that is null")
        if len(lengths) and not array.null_count and lengths[0] and (lengths == lengths[0]).all():
            return values.reshape(len(lengths), int(lengths[0]), *values.shape[1:])
        made = np.empty(len(array), object)
        for row, piece in enumerate(np.split(values, ends[:-1]) if len(ends) else []):
            made[row] = piece
        if array.null_count:
            made[array.is_null().to_numpy(zero_copy_only=False)] = None
        return made

    def _written(self, array: pa.Array, problems: dict[int, str]) -> Array:
        made = np.empty(len(array), object)
        for row, text in enumerate(array.to_pylist()):
            try:
                made[row] = None if text is None else msgspec.json.decode(text, type=list)
            except (msgspec.DecodeError, RecursionError):
                problems.setdefault(row, f"field {self._field.name!r}: {text[:40]!r} is not an array in JSON")
        return made


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _of_text(array: pa.Array, field: Field) -> pa.Array:
    """Returns what the text of a whole column says. Raises ArrowInvalid when a value does not say it in the usual way."""
    if field.kind == "timestamp":
        return array.cast(pa.int64())
    target = pa.bool_() if field.kind == "boolean" else pa.float64() if field.kind in FLOATS else pa.int64()
    return array.cast(target)


