"""JSON objects: each value is decoded separately by one C call, so a bad record cannot affect its neighbours.

Joining a batch into one document and decoding that was measured too: it is not faster (0.42 µs per event either way)
and it is not safe, since `{"a":1},{"a":[{}` and `{}]}` are not events alone, but two events when joined.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np

from penstock.batch import Array, Batch, Failure
from penstock.codecs.columns import FLOATS, Assembler, bounds
from penstock.codecs.json_native import plain_columns
from penstock.codecs.outputs import Outputs
from penstock.errors import DecodeError, EncodeError, RecordError
from penstock.schema import REQUIRED, Column, Field, Schema
from penstock.signature import Tensor

__all__ = ["JsonDecoder", "JsonEncoder"]

# msgspec allows as much nesting as the interpreter's stack, which differs between versions and callers. This limit does not.
_MAX_DEPTH: Final = 500
_TOO_DEEP: Final = f"nested too deeply, more than {_MAX_DEPTH} levels"
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.?)*+(?:"|\Z)', re.DOTALL)
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))

_PLAIN: Final[Mapping[str, Any]] = {"boolean": bool, "string": str, "bytes": str, "record": dict, "map": dict}


class JsonDecoder:
    """Decodes JSON objects by a schema: checks every field of it, and makes the requested columns.

    The native part, where it is installed and `native` allows it, decodes the plain rows. Python decodes all others; only
    Python rejects events.
    """

    spread = 1

    def __init__(self, schema: Schema, columns: Sequence[Column], *, max_bytes: int, native: bool = True) -> None:
        self._assembler = Assembler(schema, columns)
        self._plain = plain_columns(schema, self._assembler, max_bytes) if native else None
        self._decode = msgspec.json.Decoder(_row_type(schema, self._assembler)).decode
        self._max_bytes = max_bytes

    def decode(self, values: Sequence[bytes | None]) -> Batch:
        """Returns the values as columns, and a Failure per value that is not an event of the schema. Never raises for a value's content."""
        if self._plain is None:
            return self._decode_each(values)
        columns, left = self._plain.decode(values)
        if not left:
            return Batch(len(values), columns)
        batch = self._decode_each([values[row] for row in left])
        number = np.array(left)
        good = number if batch.rows is None else number[batch.rows]
        for name, column in batch.columns.items():
            columns[name][good] = column
        failures = tuple(Failure(left[failure.row], failure.error) for failure in batch.failures)
        whole = Batch(len(values), columns, failures=failures)
        return whole.take(np.delete(np.arange(len(values)), [failure.row for failure in failures])) if failures else whole

    def _decode_each(self, values: Sequence[bytes | None]) -> Batch:
        decode: Callable[[Any], Any] = self._decode if self._harmless(values) else self._decode_checked
        rows: list[Any] = []
        failures: list[Failure] = []
        pending: Iterator[bytes | None] = iter(values)
        while True:
            try:
                # Values before the bad one are kept in `rows`, and `pending` continues after it: a bad row costs one exception.
                rows.extend(map(decode, pending))
                break
            except (ValueError, RecursionError) as error:
                failures.append(Failure(len(rows) + len(failures), _explain(error)))
            except DecodeError as error:
                failures.append(Failure(len(rows) + len(failures), error))
        columns = self._assembler.arrays(list(zip(*map(msgspec.structs.astuple, rows), strict=True)), len(rows))
        if not failures:
            return Batch(len(rows), columns)
        good = np.delete(np.arange(len(values)), [failure.row for failure in failures])
        return Batch(len(rows), columns, good, tuple(failures))

    def _harmless(self, values: Sequence[bytes | None]) -> bool:
        """Whether no value is null or long enough to nest too deeply, and all are ASCII: one check of the batch saves four per row."""
        try:
            joined = b"".join(values)  # type: ignore[arg-type]  # the except handles a None
        except TypeError:
            return False
        few = min(self._max_bytes, 2 * _MAX_DEPTH)  # every level has an opening and a closing bracket
        short = len(joined) <= few or max(map(len, values)) <= few  # type: ignore[arg-type]  # no value is None here
        return short and joined.isascii()

    def _decode_checked(self, value: bytes | None) -> Any:
        if value is None:
            raise DecodeError("the value is null (a tombstone), not an event")
        if len(value) > self._max_bytes:
            raise DecodeError(f"{len(value)} bytes, more than the {self._max_bytes} allowed (max_bytes of the source)")
        if not value.isascii():
            value.decode()
        if value.count(b"[") + value.count(b"{") > _MAX_DEPTH and _depth(value) > _MAX_DEPTH:
            raise DecodeError(_TOO_DEEP)
        return self._decode(value)


def _depth(value: bytes) -> int:
    """Returns the depth of nested brackets outside strings."""
    brackets = np.frombuffer(_STRING.sub(b"", value).translate(None, _NO_BRACKETS), np.uint8)
    opening = (brackets == ord("[")) | (brackets == ord("{"))
    return int(np.cumsum(np.where(opening, 1, -1)).max(initial=0))


def _explain(error: Exception) -> DecodeError:
    if isinstance(error, RecursionError):
        return DecodeError(_TOO_DEEP)
    if isinstance(error, UnicodeDecodeError):
        return DecodeError(f"invalid UTF-8: {error.reason} (byte {error.start})")
    return DecodeError(str(error))


def _row_type(schema: Schema, assembler: Assembler) -> type[msgspec.Struct]:
    """Returns a struct with one slot per field of the schema, in order. Slots have numbers, because a field may have any Avro name."""
    slots: list[tuple[str, Any, Any]] = []
    for i, field in enumerate(schema.fields):
        nullable = field.optional and not assembler.rejects_null(field.name)
        declared = _type(field, assembler.dtypes(field.name), assembler.shape(field.name))
        if field.default is REQUIRED or (field.default is None and not nullable):
            default: Any = msgspec.NODEFAULT
        elif isinstance(field.default, list | dict):
            default = msgspec.field(default_factory=_always(field.default))
        else:
            default = field.default
        slots.append((f"f{i}", declared | None if nullable else declared, default))
    rename = {f"f{i}": field.name for i, field in enumerate(schema.fields)}
    return msgspec.defstruct("Event", slots, rename=rename, kw_only=True, gc=False)


def _always(value: Any) -> Callable[[], Any]:
    return lambda: value


def _type(field: Field, dtypes: Sequence[str], shape: tuple[int, ...]) -> Any:
    """Returns the msgspec type of a field's values, narrowed to the range of its columns."""
    if field.kind in _PLAIN:
        return _PLAIN[field.kind]
    if field.kind == "enum":
        return Literal[field.symbols]
    if field.items is not None:
        items = _type(field.items, dtypes, shape[1:])
        if field.items.optional:
            items = items | None
        size = shape[0] if shape else field.size
        return Annotated[list[items], msgspec.Meta(min_length=size, max_length=size)]  # type: ignore[valid-type]  # made at run time
    low, high = bounds(field.kind, dtypes)
    number = float if field.kind in FLOATS else int
    return Annotated[number, msgspec.Meta(ge=low, le=high)]


class JsonEncoder:
    """Encodes rows as JSON objects with the fields in the order given."""

    def __init__(self, fields: Sequence[Tensor], schema: Schema | None) -> None:
        self._outputs = Outputs(fields, schema)
        slots = [(f"f{i}", Any) for i in range(len(fields))]
        rename = {f"f{i}": field.name for i, field in enumerate(fields)}
        self._row = msgspec.defstruct("Event", slots, rename=rename, gc=False)
        self._encode = msgspec.json.Encoder().encode

    def encode(self, columns: Sequence[Array]) -> tuple[list[bytes], Mapping[int, RecordError]]:
        """Returns one JSON object per row. A row with a non-finite number or a bad string has b"" and an EncodeError."""
        errors = self._outputs.check(columns)
        written: list[bytes] = []
        pending = map(self._row, *map(np.ndarray.tolist, columns))
        while True:
            try:
                written.extend(map(self._encode, pending))
                break
            except UnicodeEncodeError as error:
                errors.setdefault(len(written), EncodeError(f"a string is not valid Unicode: {error.reason}"))
                written.append(b"")
        for row in errors:
            written[row] = b""
        return written, errors
