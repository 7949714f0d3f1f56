"""Columns of Arrow to arrays and back: what a pyarrow Table or RecordBatch holds, as rows of a source, and answers as its columns.

A column becomes what a decoder would make of the same values in JSON, at once where its type allows that:

| the schema's kind | columns |
|---|---|
| int, long | whole numbers, also floats and decimals that are |
| float, double | numbers, decimals |
| boolean | booleans |
| timestamp | timestamps, dates, and whole numbers of the field's unit. A time without a zone is UTC |
| string, enum | text, also in a dictionary |
| array | lists, whose items follow the same rules |

`coerce` allows text for numbers and timestamps, as in JSON. Text of a format without types (CSV) is read as any kind, arrays as JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.batch import Array, Table
from penstock.codecs.coerce import coercion
from penstock.codecs.columns import FLOATS
from penstock.schema import Coercion, Field, Schema, steps

__all__ = ["ArrowReader", "column", "texts"]

_ALL: Final[tuple[Coercion, ...]] = ("whole_numbers", "dates", "decimals")  # what is read of text that has no types
_MANY: Final = 4  # rows for each different text, from which on it costs less to make each text once


class ArrowReader:
    """Makes Tables of Arrow record batches: of those columns that hold `fields` of the schema, by name or by path.

    `names` are the columns that may. With `text`, the batches come from a format without types. Copies text and what has nulls; numbers
    without nulls stay where they are.
    """

    def __init__(self, schema: Schema, fields: Collection[str], *, coerce: Collection[Coercion] = (), text: bool = False) -> None:
        found = [(path, schema.field(path)) for path in fields]
        self._fields = [(path, field) for path, field in found if field is not None]
        self._values = {path: _Values(field, _ALL if text else coerce, text=text) for path, field in self._fields}
        self._heads = {path: _names(schema, path) for path, _ in self._fields}
        self.names = [*dict.fromkeys(name for names in self._heads.values() for name in names)]

    def mapping(self, given: Any) -> list[tuple[Field, str]]:
        """Returns each field that is read with the column of the schema `given` that holds it; "" where no column does."""
        return [(field, next((name for name in self._heads[path] if name in given.names), "")) for path, field in self._fields]

    def heads(self, field: Field) -> list[str]:
        """Returns the columns in which a field may be."""
        return self._heads[field.name]

    def table(self, batch: Any, topic: str, *, partition: int = 0, offset: int = 0) -> Table:
        """Returns the rows of a Table or RecordBatch; without any of the fields, as many rows without values. Never raises for a value.

        Raises ValueError where two columns have the name of a field.
        """
        columns: dict[str, Array] = {}
        nulls: dict[str, Array] = {}
        problems: dict[int, str] = {}
        texts: list[str] = []
        for path, _ in self._fields:
            if (array := self._found(batch, path)) is not None:
                columns[path], holes = self._values[path](array, problems)
                if _is_text(array.type) or (pa.types.is_dictionary(array.type) and _is_text(array.type.value_type)):
                    texts.append(path)
                if holes is not None:
                    nulls[path] = holes
        if not columns:
            columns[""] = np.full(batch.num_rows, None, object)  # the name of no field: the table has as many rows
        return Table(topic, columns, nulls, partition, offset, None, None, problems, texts)

    def _found(self, batch: Any, path: str) -> Any:
        """Returns the column of the field at this path; None where the batch has none."""
        for name in self._heads[path]:
            if (times := batch.schema.names.count(name)) > 1:
                raise ValueError(f"there are {times} columns {name!r}")
            if times:
                found = batch.column(name)
                for step in () if name == path else steps(path)[1:]:
                    found = None if found is None else _inside(found, step)
                if isinstance(found, pa.ChunkedArray):
                    whole = found.combine_chunks()
                    # Of a type whose chunks do not combine, they are still chunks.
                    found = pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole
                return found
        return None


def _names(schema: Schema, path: str) -> list[str]:
    """Returns the columns in which the field may be: its name or path, then that of the field that it is in, with their other names."""
    head = str(steps(path)[0]) if steps(path) else path
    declared = next((field for field in schema.fields if field.name in (path, head)), None)
    return [*dict.fromkeys((path, head, *(declared.aliases if declared is not None else ())))]


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


class _Values:
    """Makes the numpy column of one field of an Arrow array."""

    def __init__(self, field: Field, coerce: Collection[Coercion], *, text: bool) -> None:
        self._field, self._kind, self._text = field, field.kind, text
        self._coerce: Callable[[Any], Any] | None = None if field.kind == "enum" else coercion(field, (), coerce)
        self._alike = True  # the texts that have been seen repeat each other
        self._items = None if field.items is None else _Values(field.items, coerce, text=text)

    def __call__(self, array: Any, problems: dict[int, str]) -> tuple[Array, Array | None]:
        """Returns the values `[N, ...]` and which of them are null; None when none is. Notes the rows whose text says something else."""
        try:
            return self._made(array, problems)
        except (UnicodeDecodeError, pa.ArrowException):  # a look at each row costs too much where all are fine
            return self._made(self._unicode(array, problems), problems)

    def _unicode(self, array: Any, problems: dict[int, str]) -> Any:
        """Returns the rows with null for those whose text is not in UTF-8, and notes these."""
        rows: list[int | None] = []
        for row in range(len(array)):
            try:
                array[row].as_py()
                rows.append(row)
            except UnicodeDecodeError:
                problems.setdefault(row, f"field {self._field.name!r} is no text in UTF-8")
                rows.append(None)
        taken = array.take(pa.array(rows, pa.int64()))
        return taken.dictionary_decode() if pa.types.is_dictionary(array.type) else taken

    def _made(self, array: Any, problems: dict[int, str]) -> tuple[Array, Array | None]:
        exact = pa.types.is_decimal(array.type) or getattr(array.type, "type_name", "") == "numeric"  # the latter: text, of PostgreSQL
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        if pa.types.is_dictionary(array.type) and (array.dictionary.null_count or self._kind not in ("string", "enum")):
            array = array.dictionary_decode()
        if self._text and array.null_count and self._kind == "string" and not self._field.optional:
            array = pc.fill_null(array, "")  # an empty cell is an empty text where there is no null
        holes = array.is_null().to_numpy(zero_copy_only=False) if array.null_count else None
        if self._items is not None:
            return self._lists(array, problems), holes
        if self._kind in ("string", "enum"):
            return self._texts(array), holes
        values = self._exact(array, holes, problems) if exact and self._kind != "boolean" else self._numbers(array, holes)
        return (self._each(array, problems) if values is None else values), holes

    def _texts(self, array: Any) -> Array:
        """Returns text as objects; other values as they are, which no field of text takes."""
        if pa.types.is_dictionary(array.type):
            words = np.array([*array.dictionary.to_pylist(), None], object)
            found: Array = words[pc.fill_null(array.indices.cast(pa.int64()), len(words) - 1).to_numpy(zero_copy_only=False)]
            return found
        if not _is_text(array.type):
            return _objects(array)
        if self._alike and len(array) >= _MANY:
            packed = array.dictionary_encode()
            self._alike = len(packed.dictionary) * _MANY <= len(array)
            return self._texts(packed)
        made: Array = array.to_numpy(zero_copy_only=False)
        return made

    def _numbers(self, array: Any, holes: Array | None) -> Array | None:
        """Returns numbers, with 0 for nulls; None when each value has to be looked at."""
        kind, made = self._kind, array
        try:
            if self._text and _is_text(array.type):
                made = array.cast(pa.bool_() if kind == "boolean" else pa.float64() if kind in FLOATS else pa.int64())
            elif kind == "timestamp" and (pa.types.is_timestamp(array.type) or pa.types.is_date(array.type)):
                made = _ticks(array, self._field.unit or "ms")
            elif pa.types.is_decimal(array.type):
                made = array.cast(pa.float64())
        except pa.ArrowInvalid:
            return None
        if not (pa.types.is_integer(made.type) or pa.types.is_floating(made.type) or pa.types.is_boolean(made.type)):
            return None
        if holes is not None:
            made = pc.fill_null(made, pa.scalar(0).cast(made.type))
        numbers: Array = made.to_numpy(zero_copy_only=False)
        return numbers

    def _exact(self, array: Any, holes: Array | None, problems: dict[int, str]) -> Array:
        """Returns decimals as numbers, with 0 for nulls. Not by way of floats, where whole numbers are wanted: those are rounded."""
        try:
            made = array.cast(pa.float64() if self._kind in FLOATS else pa.int64())
        except pa.ArrowInvalid:
            return self._decimals(array, problems)
        if holes is not None:
            made = pc.fill_null(made, pa.scalar(0).cast(made.type))
        numbers: Array = made.to_numpy(zero_copy_only=False)
        return numbers

    def _decimals(self, array: Any, problems: dict[int, str]) -> Array:
        """Returns decimals one by one, and notes those that do not fit."""
        made = np.full(len(array), None, object)
        for row, text in enumerate(array.to_pylist()):
            value = None if text is None else Decimal(text)
            if value is None or self._kind in FLOATS:
                made[row] = None if value is None else float(value)
            elif value.is_infinite() or (not value.is_nan() and abs(value) >= 1 << 63):
                problems.setdefault(row, f"field {self._field.name!r} is {text}, outside of what {self._kind} holds")
            elif value.is_nan() or value != int(value):
                problems.setdefault(row, f"field {self._field.name!r} is {text}, no whole number")
            else:
                made[row] = int(value)
        return made

    def _each(self, array: Any, problems: dict[int, str]) -> Array:
        """Returns values that have to be looked at: text that is allowed becomes numbers, others stay as they are."""
        if self._coerce is None and not self._text:
            return _objects(array)
        made = np.full(len(array), None, object)
        for row, value in enumerate(array.to_pylist()):
            try:
                made[row] = value if value is None else self._one(value)
            except (TypeError, ValueError, OverflowError) as error:
                problems.setdefault(row, f"field {self._field.name!r}: {error}")
        return made

    def _one(self, value: Any) -> Any:
        if isinstance(value, str) and self._kind == "boolean":
            if value.lower() not in ("true", "false", "1", "0"):
                raise ValueError(f"{value[:40]!r} is not a boolean")
            return value.lower() in ("true", "1")
        return value if self._coerce is None else self._coerce(value)

    def _lists(self, array: Any, problems: dict[int, str]) -> Array:
        """Returns lists: one array where all have one length and none is null, else an object array with an array or list per row."""
        assert self._items is not None
        kind = array.type
        if self._text and _is_text(kind):
            return self._written(array, problems)
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
            return _objects(array)
        inner = array.flatten()  # of the lists that are not null
        if inner.null_count or not len(array):
            return _objects(array)
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        ends, wrong = np.cumsum(lengths), dict[int, str]()
        values, _ = self._items(inner, wrong)
        for at, why in wrong.items():
            problems.setdefault(int(np.searchsorted(ends, at, side="right")), why)
        if not array.null_count and lengths[0] and (lengths == lengths[0]).all():
            return values.reshape(len(lengths), int(lengths[0]), *values.shape[1:])
        made = np.empty(len(array), object)
        for row, piece in enumerate(np.split(values, ends[:-1])):
            made[row] = piece
        if array.null_count:
            made[array.is_null().to_numpy(zero_copy_only=False)] = None
        return made

    def _written(self, array: Any, problems: dict[int, str]) -> Array:
        """Returns lists that are written as JSON."""
        made = np.empty(len(array), object)
        for row, text in enumerate(array.to_pylist()):
            try:
                made[row] = None if text is None else msgspec.json.decode(text, type=list)
            except (msgspec.DecodeError, RecursionError):
                problems.setdefault(row, f"field {self._field.name!r}: {text[:40]!r} is not an array in JSON")
        return made


def _ticks(array: Any, unit: str) -> Any:
    """Returns times as numbers of the unit since 1970: whole ones, or floats where some lie beyond these, so that no field takes them."""
    try:
        return array.cast(options=pc.CastOptions(pa.timestamp(unit), allow_time_truncate=True)).cast(pa.int64())
    except pa.ArrowInvalid:
        per = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
        seconds = 86400.0 if pa.types.is_date32(array.type) else 1 / per["ms" if pa.types.is_date64(array.type) else array.type.unit]
        whole = array.cast(pa.int32() if pa.types.is_date32(array.type) else pa.int64())
        return pc.multiply(whole.cast(pa.float64(), safe=False), seconds * per[unit])


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _objects(array: Any) -> Array:
    made = np.empty(len(array), object)
    made[:] = array.to_pylist()
    return made


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
