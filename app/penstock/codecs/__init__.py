"""Bytes to columns and back: one file per format. `decoder` and `encoder` select it by name."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal, assert_never

from penstock.codecs.avro import AvroDecoder
from penstock.codecs.avro_resolve import frame, load_ids
from penstock.codecs.avro_write import AvroEncoder
from penstock.codecs.base import Decoder, Encoder
from penstock.codecs.beside import BesideDecoder
from penstock.codecs.event import event_reader, event_writer
from penstock.codecs.json import JsonDecoder, JsonEncoder
from penstock.codecs.schema import load_schema
from penstock.codecs.table import TableDecoder
from penstock.errors import SchemaError
from penstock.schema import Coercion, Column, Schema
from penstock.signature import Tensor

__all__ = [
    "BesideDecoder",
    "Decoder",
    "Encoder",
    "Format",
    "TableDecoder",
    "decoder",
    "encoder",
    "event_reader",
    "event_writer",
    "load_schema",
]

Format = Literal["json", "avro", "avro-confluent"]


def decoder(
    format: Format,
    schema: Schema,
    columns: Sequence[Column],
    *,
    max_bytes: int = 1_048_576,
    ids: str | Path | None = None,
    coerce: Collection[Coercion] = (),
) -> Decoder:
    """Returns a decoder of events of `schema` into `columns`.

    For `avro-confluent`, `ids` is the directory of writer schemas named by their id (`17.avsc`); the default is `ids/` beside the
    schema's file. `coerce` is what `json` may write otherwise than the schema has it. Raises SchemaError when a column cannot be fed
    from its field, or a writer schema does not resolve.
    """
    match format:
        case "json":
            return JsonDecoder(schema, columns, max_bytes=max_bytes, coerce=coerce)
        case "avro":
            return AvroDecoder(schema, columns, max_bytes=max_bytes)
        case "avro-confluent":
            return AvroDecoder(schema, columns, max_bytes=max_bytes, writers=load_ids(_ids(schema, ids)))
        case _:
            assert_never(format)


def encoder(format: Format, fields: Sequence[Tensor], schema: Schema | None = None, *, ids: str | Path | None = None) -> Encoder:
    """Returns an encoder of rows with these fields; Avro needs a schema. Raises SchemaError when the fields do not fit it.

    For `avro-confluent`, the schema must be among those of `ids` (see `decoder`): its id goes before each datum.
    """
    if format == "json":
        return JsonEncoder(fields, schema)
    if schema is None:
        raise SchemaError(f"a sink with format {format} needs a schema: add `schema: FILE.avsc` to the sink")
    prefix = frame(schema, _ids(schema, ids)) if format == "avro-confluent" else b""
    return AvroEncoder(fields, schema, prefix=prefix)


def _ids(schema: Schema, ids: str | Path | None) -> Path:
    return Path(schema.path).parent / "ids" if ids is None else Path(ids)
