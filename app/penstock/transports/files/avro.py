"""Avro object containers: blocks of events behind the schema that wrote them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import IO, Any, Final

import fastavro
import pyarrow as pa

from penstock.transports.files.base import Piece, Seen, Shape, readable
from penstock.transports.files.places import Place

__all__ = ["Writer", "columns", "read"]

ROWS: Final = 4096  # events of a piece: each is an object until it is in columns
BLOCK: Final = 1 << 16  # bytes of a block that is written
_SCALARS: Final = {
    "null": pa.null(), "boolean": pa.bool_(), "int": pa.int32(), "long": pa.int64(), "float": pa.float32(), "double": pa.float64(),
    "bytes": pa.binary(), "string": pa.string(), "enum": pa.string(), "fixed": pa.binary(),
}  # fmt: skip
_LOGICAL: Final = {
    "timestamp-millis": pa.timestamp("ms", "UTC"), "timestamp-micros": pa.timestamp("us", "UTC"),
    "timestamp-nanos": pa.timestamp("ns", "UTC"),
    "local-timestamp-millis": pa.timestamp("ms"), "local-timestamp-micros": pa.timestamp("us"), "local-timestamp-nanos": pa.timestamp("ns"),
    "date": pa.date32(), "time-millis": pa.time32("ms"), "time-micros": pa.time64("us"), "uuid": pa.large_string(),
}  # fmt: skip
# What Arrow has no columns for: unions of several types, records inside themselves. No field takes it, so that rows with a value fail, and
# are not read as null.
_OTHER: Final = pa.binary(1)


def columns(place: Place) -> pa.Schema:
    """See `base`."""
    with readable(place, "Avro"), place.open() as file:
        return _schema(fastavro.reader(file).writer_schema)


def read(place: Place, start: int, stop: int | None, names: Sequence[str], seen: Seen) -> Iterator[Piece]:
    """See `base`."""
    with readable(place, "Avro"), place.open() as file:
        reader = fastavro.reader(file)
        whole = _schema(reader.writer_schema)
        schema = pa.schema([field for field in whole if field.name in names])
        plain = [(name, _plain(kind)) for name, kind in zip(schema.names, schema.types, strict=True)]
        size = max(place.size() or 0, 1)
        events: Iterator[Any] = islice(reader, start, stop)
        while some := list(islice(events, ROWS)):
            seen(min(file.tell() / size, 1.0))
            if not schema.names:
                yield Piece(len(some), batch=pa.RecordBatch.from_arrays([pa.nulls(len(some))], [""]))
                continue
            rows = [{name: event.get(name) if made is None else made(event.get(name)) for name, made in plain} for event in some]
            yield Piece(len(rows), batch=pa.RecordBatch.from_pylist(rows, schema=schema))


def _plain(kind: pa.DataType) -> Callable[[Any], Any] | None:
    """Returns what makes a value of Avro one that Arrow takes for this type; None where each is."""
    if kind in (_OTHER, pa.large_string()):
        return lambda value: None if value is None else b"?" if kind == _OTHER else str(value)
    if pa.types.is_struct(kind):
        made = {field.name: inside for field in kind if (inside := _plain(field.type)) is not None}
        return (lambda value: value and {**value, **{name: inside(value.get(name)) for name, inside in made.items()}}) if made else None
    if pa.types.is_list(kind):
        return _each(_plain(kind.value_type), lambda item, value: [item(one) for one in value])
    if pa.types.is_map(kind):
        return _each(_plain(kind.item_type), lambda item, value: {name: item(one) for name, one in value.items()})
    return None


def _each(item: Callable[[Any], Any] | None, made: Callable[[Callable[[Any], Any], Any], Any]) -> Callable[[Any], Any] | None:
    return None if item is None else lambda value: value and made(item, value)


def _schema(written: Any) -> pa.Schema:
    if not isinstance(written, dict) or written.get("type") != "record":
        raise ValueError("it holds no records")
    named: dict[str, pa.DataType] = {}
    return pa.schema([(field["name"], _type(field["type"], named)) for field in written["fields"]])


def _type(declared: Any, named: dict[str, pa.DataType]) -> pa.DataType:
    """Returns the Arrow type of an Avro type."""
    if isinstance(declared, list):
        return _union({_type(one, named) for one in declared if one != "null"})
    if isinstance(declared, str):
        return named[declared] if declared in named else _SCALARS.get(declared, _OTHER)
    logical, kind = declared.get("logicalType"), declared["type"]
    if logical in _LOGICAL:
        return _LOGICAL[logical]
    if logical == "decimal":
        digits, scale = declared["precision"], declared.get("scale", 0)
        return pa.decimal128(digits, scale) if digits <= 38 else pa.decimal256(min(digits, 76), scale)
    if kind == "array":
        return pa.list_(_type(declared["items"], named))
    if kind == "map":
        return pa.map_(pa.string(), _type(declared["values"], named))
    if kind == "record":
        named[declared["name"]] = _OTHER  # a record inside itself
        made = pa.struct([(field["name"], _type(field["type"], named)) for field in declared["fields"]])
    else:
        made = _type(kind, named)
    if "name" in declared:
        space = declared.get("namespace")
        named[declared["name"]] = named[f"{space}.{declared['name']}" if space else declared["name"]] = made
    return made


def _union(kinds: set[pa.DataType]) -> pa.DataType:
    """Returns the one type that holds the values of all of them without loss."""
    if len(kinds) <= 1:
        return next(iter(kinds), pa.null())
    if kinds <= {pa.int32(), pa.int64()}:
        return pa.int64()
    return pa.float64() if kinds <= {pa.int32(), pa.float32(), pa.float64()} else _OTHER


class Writer:
    """Writes datums in blocks. The mark between blocks is that of the schema, so that equal outputs are equal files."""

    def __init__(self, file: IO[bytes], shape: Shape) -> None:
        schema = json.dumps(shape.avro, separators=(",", ":")).encode()
        self._file = file
        self._mark = hashlib.md5(schema, usedforsecurity=False).digest()
        self._held: list[bytes] = []
        self._bytes = 0
        about = (b"avro.schema", schema), (b"avro.codec", b"null")
        head = b"Obj\x01" + _long(len(about)) + b"".join(_long(len(one)) + one for pair in about for one in pair) + b"\0" + self._mark
        file.write(head)
        self.size = len(head)

    def write(self, values: Sequence[bytes | None]) -> None:
        """See `base.Writer`."""
        self._held += [value or b"" for value in values]
        self._bytes += sum(map(len, self._held[-len(values) :])) if values else 0
        if self._bytes >= BLOCK:
            self._block()

    def _block(self) -> None:
        if self._held:
            data = b"".join(self._held)
            self._file.write(_long(len(self._held)) + _long(len(data)) + data + self._mark)
            self.size += len(data)
        self._held, self._bytes = [], 0

    def close(self) -> None:
        """See `base.Writer`."""
        self._block()


def _long(number: int) -> bytes:
    """Returns a whole number that is not negative as Avro writes it."""
    rest, out = number << 1, bytearray()
    while rest > 127:
        out.append(rest & 127 | 128)
        rest >>= 7
    out.append(rest)
    return bytes(out)
