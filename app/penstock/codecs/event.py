"""One event at a time, as a mapping: for tests, examples and tools, which need clear errors rather than speed."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import fastavro

from penstock.codecs.avro_resolve import frame, load_ids
from penstock.errors import SchemaError
from penstock.schema import Schema

__all__ = ["event_reader", "event_writer"]


def event_writer(format: str, schema: Schema | None) -> Callable[[Mapping[str, Any]], bytes]:
    """Returns a function that writes events in a format: JSON as given, Avro by the schema. It raises ValueError for a bad event."""
    if format == "json":
        return lambda event: json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()
    prefix, avro = _avro(format, schema)

    def write(event: Mapping[str, Any]) -> bytes:
        buffer = io.BytesIO(prefix)
        buffer.seek(len(prefix))
        fastavro.schemaless_writer(buffer, avro, dict(event))
        return buffer.getvalue()

    return write


def event_reader(format: str, schema: Schema | None) -> Callable[[bytes], dict[str, Any]]:
    """Returns a function that reads events in a format, by the schema that they were written with."""
    if format == "json":
        return json.loads
    if format == "avro" or schema is None:
        _, avro = _avro(format, schema)
        return lambda value: _datum(value, avro)
    writers = load_ids(_ids(schema))

    def read(value: bytes) -> dict[str, Any]:
        number = int.from_bytes(value[1:5])
        if value[:1] != b"\0" or len(value) < 5 or number not in writers:
            raise ValueError(f"the value does not begin with the id of a schema in {_ids(schema)}")
        return _datum(value[5:], writers[number].avro)

    return read


def _datum(body: bytes, avro: Any) -> dict[str, Any]:
    return cast(dict[str, Any], fastavro.schemaless_reader(io.BytesIO(body), avro, None))


def _avro(format: str, schema: Schema | None) -> tuple[bytes, Any]:
    if schema is None:
        raise SchemaError(f"format {format} needs a schema")
    return frame(schema, _ids(schema)) if format == "avro-confluent" else b"", schema.avro


def _ids(schema: Schema) -> Path:
    return Path(schema.path).parent / "ids"
