"""Avro object containers: blocks of events behind the schema that wrote them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
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
    "timestamp-millis": pa.timestamp("ms", "UTC"), "timestamp-micros": pa.timestamp("us", "UTC"), "date": pa.date32(),
    "local-timestamp-millis": pa.timestamp("ms"), "local-timestamp-micros": pa.timestamp("us"),
    "time-millis": pa.time32("ms"), "time-micros": pa.time64("us"), "uuid": pa.string(),
}  # fmt: skip


def columns(place: Place) -> pa.Schema:
    """See `base`."""
    with readable(place, "Avro"), place.open() as file:
        return _schema(fastavro.reader(file).writer_schema)


def read(place: Place, start: int, stop: int | None, names: Sequence[str], seen: Seen) -> Iterator[Piece]:
    """See `base`. Columns whose type Arrow has no columns for (unions of several types) are passed over."""
    with readable(place, "Avro"), place.open() as file:
        reader = fastavro.reader(file)
        whole = _schema(reader.writer_schema)
        schema = pa.schema([field for field in whole if field.name in names])
        size = max(place.size() or 0, 1)
        events: Iterator[Any] = islice(reader, start, stop)
        while some := list(islice(events, ROWS)):
            seen(min(file.tell() / size, 1.0))
            if not schema.names:
                yield Piece(len(some), batch=pa.RecordBatch.from_arrays([pa.nulls(len(some))], [""]))
                continue
            rows = [{name: _plain(event.get(name)) for name in schema.names} for event in some]
            yield Piece(len(rows), batch=pa.RecordBatch.from_pylist(rows, schema=schema))


def _plain(value: Any) -> Any:
    return str(value) if type(value).__name__ == "UUID" else value


def _schema(written: Any) -> pa.Schema:
    if not isinstance(written, dict) or written.get("type") != "record":
        raise ValueError("it holds no records")
    named: dict[str, pa.DataType | None] = {}
    made = [(field["name"], _type(field["type"], named)) for field in written["fields"]]
    return pa.schema([(name, kind) for name, kind in made if kind is not None])


def _type(declared: Any, named: dict[str, pa.DataType | None]) -> pa.DataType | None:
    """Returns the Arrow type of an Avro type; None where Arrow has no such type."""
    if isinstance(declared, list):
        branches = [one for one in declared if one != "null"]
        return _type(branches[0], named) if len(branches) == 1 else None
    if isinstance(declared, str):
        return named[declared] if declared in named else _SCALARS.get(declared)
    logical, kind = declared.get("logicalType"), declared["type"]
    if logical in _LOGICAL:
        return _LOGICAL[logical]
    if logical == "decimal":
        return pa.decimal128(min(declared["precision"], 38), declared.get("scale", 0))
    if kind == "array":
        items = _type(declared["items"], named)
        return None if items is None else pa.list_(items)
    if kind == "map":
        values = _type(declared["values"], named)
        return None if values is None else pa.map_(pa.string(), values)
    if kind == "record":
        named[declared["name"]] = None  # a record inside itself
        fields = [(field["name"], _type(field["type"], named)) for field in declared["fields"]]
        made = pa.struct([(name, one) for name, one in fields if one is not None])
    else:
        made = _type(kind, named)
    if "name" in declared:
        space = declared.get("namespace")
        named[declared["name"]] = named[f"{space}.{declared['name']}" if space else declared["name"]] = made
    return made


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
