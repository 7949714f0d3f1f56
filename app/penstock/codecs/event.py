"""One event at a time, as a mapping: for tests, examples and tools, where speed is no matter and a stack trace is welcome."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import fastavro

from penstock.codecs.avro_resolve import frame
from penstock.errors import SchemaError
from penstock.schema import Schema

__all__ = ["event_reader", "event_writer"]


def event_writer(format: str, schema: Schema | None) -> Callable[[Mapping[str, Any]], bytes]:
    """Writes events in a format: JSON as it is given, Avro by the schema. The function raises ValueError for what does not fit it."""
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
    """Reads events in a format, by the schema they were written with."""
    if format == "json":
        return json.loads
    prefix, avro = _avro(format, schema)
    return lambda value: cast(dict[str, Any], fastavro.schemaless_reader(io.BytesIO(value[len(prefix) :]), avro, None))


def _avro(format: str, schema: Schema | None) -> tuple[bytes, Any]:
    if schema is None:
        raise SchemaError(f"format {format} needs a schema")
    return frame(schema, Path(schema.path).parent / "ids") if format == "avro-confluent" else b"", schema.avro
