"""One event at a time, as a mapping: for tests, examples and tools, which need clear errors rather than speed."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from typing import Any, cast

import fastavro

from penstock.codecs.framing import UNREGISTERED, frame_in
from penstock.codecs.raw import WHOLE
from penstock.codecs.writers import Writers, ids_folder, sink_frame
from penstock.errors import DecodeError, SchemaError
from penstock.schema import Schema

__all__ = ["event_reader", "event_writer"]


def event_writer(format: str, schema: Schema | None, writers: Writers | None = None) -> Callable[[Mapping[str, Any]], bytes]:
    """Returns a function that writes events in a format: JSON as given, others by the schema. It raises ValueError for a bad event.

    For `avro-confluent` and `protobuf-confluent`, `writers` choose schema and frame (`Writers.writing`); without them, the schema must be
    in `ids/` beside it.
    """
    if format.startswith("json"):
        before = UNREGISTERED if format == "json-confluent" else b""
        return lambda event: before + json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()
    if format == "bytes":
        return lambda event: bytes(event[WHOLE])
    schema, prefix = _needed(format, schema), b""
    if format.endswith("-confluent"):
        prefix, schema = writers.writing() if writers is not None else (sink_frame(schema, ids_folder(schema)), schema)
    if format.startswith("protobuf"):
        return _message_writer(schema, prefix)
    avro = schema.avro

    def write(event: Mapping[str, Any]) -> bytes:
        buffer = io.BytesIO(prefix)
        buffer.seek(len(prefix))
        fastavro.schemaless_writer(buffer, avro, dict(event))
        return buffer.getvalue()

    return write


def event_reader(
    format: str, schema: Schema | None, writers: Writers | None = None, *, frame: bytes = b""
) -> Callable[[bytes], dict[str, Any]]:
    """Returns a function that reads events in a format, by the schema that they were written with.

    For `avro-confluent` it is that of `writers`, by default those of `ids/` beside the schema; `frame` is one more, of the schema itself.
    Protobuf's messages are read by the schema itself.
    """
    if format == "json":
        return json.loads
    if format == "json-confluent":
        return lambda value: json.loads(value[len(frame_in(value)) :])
    if format == "bytes":
        return lambda value: {WHOLE: [*value]}
    schema = _needed(format, schema)
    if format.startswith("protobuf"):
        return _message_reader(schema, framed=format == "protobuf-confluent")
    if format == "avro":
        avro = schema.avro
        return lambda value: _datum(value, avro)
    known = writers or Writers(schema, {frame: schema} if frame else {}, directory=ids_folder(schema))

    def read(value: bytes) -> dict[str, Any]:
        try:
            found = frame_in(value)
            return _datum(value[len(found) :], known.written_by(found).avro)
        except (DecodeError, SchemaError) as error:
            raise ValueError(str(error)) from None

    return read


def _message_writer(schema: Schema, frame: bytes) -> Callable[[Mapping[str, Any]], bytes]:
    from penstock.codecs.protobuf.event import write_message  # this and the imports below: they import the library
    from penstock.codecs.protobuf.indexes import indexes_of, own_indexes

    before = frame + indexes_of(own_indexes(schema.protobuf)) if frame else b""
    return lambda event: before + write_message(event, schema)


def _message_reader(schema: Schema, *, framed: bool) -> Callable[[bytes], dict[str, Any]]:
    from penstock.codecs.protobuf.event import read_message
    from penstock.codecs.protobuf.indexes import indexes_in

    def read(value: bytes) -> dict[str, Any]:
        try:
            return read_message(value[indexes_in(value, len(frame_in(value)))[1] :], schema)
        except DecodeError as error:
            raise ValueError(str(error)) from None

    return read if framed else lambda value: read_message(value, schema)


def _datum(body: bytes, avro: Any) -> dict[str, Any]:
    return cast(dict[str, Any], fastavro.schemaless_reader(io.BytesIO(body), avro, None))


def _needed(format: str, schema: Schema | None) -> Schema:
    if schema is None:
        raise SchemaError(f"format {format} needs a schema")
    return schema
