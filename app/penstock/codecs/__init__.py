"""Bytes to columns and back: one file per format. `decoder` and `encoder` select it by name."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal, assert_never

from penstock.codecs.avro import AvroDecoder
from penstock.codecs.avro_write import AvroEncoder
from penstock.codecs.base import Decoder, Encoder
from penstock.codecs.beside import BesideDecoder
from penstock.codecs.columnar import ColumnEncoder
from penstock.codecs.event import event_reader, event_writer
from penstock.codecs.json import JsonDecoder, JsonEncoder
from penstock.codecs.json_framed import FramedJsonDecoder
from penstock.codecs.raw import RawDecoder
from penstock.codecs.schema import load_schema
from penstock.codecs.table import TableDecoder
from penstock.codecs.writers import Writers, ids_folder, sink_frame
from penstock.errors import SchemaError
from penstock.schema import Coercion, Column, Schema
from penstock.signature import Tensor

__all__ = [
    "BesideDecoder",
    "ColumnEncoder",
    "Decoder",
    "Encoder",
    "Format",
    "TableDecoder",
    "Writers",
    "decoder",
    "encoder",
    "event_reader",
    "event_writer",
    "load_schema",
]

Format = Literal["json", "json-confluent", "avro", "avro-confluent", "protobuf", "protobuf-confluent", "bytes"]


def decoder(
    format: Format,
    schema: Schema,
    columns: Sequence[Column],
    *,
    max_bytes: int = 1_048_576,
    ids: str | Path | None = None,
    writers: Writers | None = None,
    coerce: Collection[Coercion] = (),
) -> Decoder:
    """Returns a decoder of events of `schema` into `columns`.

    For `avro-confluent` and `protobuf-confluent`, `writers` are the schemas of its writers; without them, they are those of `ids`, the
    directory of schemas named by their id (`17.avsc`); the default is `ids/` beside the schema's file. `coerce` is what `json` may write
    otherwise than the schema has it. Raises SchemaError when a column cannot be fed from its field, or a writer schema does not resolve.
    """
    match format:
        case "json":
            return JsonDecoder(schema, columns, max_bytes=max_bytes, coerce=coerce)
        case "avro":
            return AvroDecoder(schema, columns, max_bytes=max_bytes)
        case "bytes":
            return RawDecoder(columns, max_bytes=max_bytes)
        case "json-confluent":
            return FramedJsonDecoder(JsonDecoder(schema, columns, max_bytes=max_bytes, coerce=coerce))
        case "avro-confluent":
            return AvroDecoder(schema, columns, max_bytes=max_bytes, writers=writers or _writers(schema, ids))
        case "protobuf":
            return _protobuf_decoder(schema, columns, max_bytes)
        case "protobuf-confluent":
            return _protobuf_decoder(schema, columns, max_bytes, writers or _writers(schema, ids))
        case _:
            assert_never(format)


def encoder(
    format: Format,
    fields: Sequence[Tensor],
    schema: Schema | None = None,
    *,
    ids: str | Path | None = None,
    frame: bytes = b"",
    gaps: Collection[str] = (),
) -> Encoder:
    """Returns an encoder of rows with these fields; all but `json` need a schema. Raises SchemaError when the fields do not fit it.

    For the formats with a frame, `frame` goes before each datum; without it, the schema must be among those of `ids` (see `decoder`).
    The fields in `gaps` may be NaN in Avro.
    """
    if format == "json":
        return JsonEncoder(fields, schema)
    if schema is None:
        raise SchemaError(f"a sink with format {format} needs a schema: add `schema: FILE` to the sink")
    if format.endswith("-confluent") and not frame:
        frame = sink_frame(schema, ids_folder(schema) if ids is None else Path(ids))
    if format == "json-confluent":
        return JsonEncoder(fields, schema, prefix=frame)
    if format.startswith("avro"):
        return AvroEncoder(fields, schema, prefix=frame, gaps=gaps)
    _protobuf(schema)
    from penstock.codecs.protobuf.write import ProtobufEncoder  # imports the library

    return ProtobufEncoder(fields, schema, prefix=frame)


def _protobuf(schema: Schema) -> None:
    if schema.protobuf is None:
        raise SchemaError(f"{schema.path or schema.name} is no schema of Protobuf: name FILE.proto, or FILE.proto#MESSAGE")


def _writers(schema: Schema, ids: str | Path | None) -> Writers:
    return Writers.load(schema, ids_folder(schema) if ids is None else Path(ids))


def _protobuf_decoder(schema: Schema, columns: Sequence[Column], max_bytes: int, writers: Writers | None = None) -> Decoder:
    _protobuf(schema)
    from penstock.codecs.protobuf.decode import ProtobufDecoder  # imports the library

    return ProtobufDecoder(schema, columns, max_bytes=max_bytes, writers=writers)
