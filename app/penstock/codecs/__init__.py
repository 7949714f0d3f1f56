"""Bytes to columns and back: one file a format. `decoder` and `encoder` pick it by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from penstock.codecs.base import Decoder, Encoder
from penstock.codecs.json import JsonDecoder, JsonEncoder
from penstock.codecs.schema import load_schema
from penstock.schema import Column, Schema
from penstock.signature import Tensor

__all__ = ["Decoder", "Encoder", "Format", "decoder", "encoder", "load_schema"]

Format = Literal["json", "avro", "avro-confluent"]


def decoder(format: Format, schema: Schema, columns: Sequence[Column], *, max_bytes: int = 1_048_576) -> Decoder:
    """A decoder of events of `schema` into `columns`. Raises SchemaError when a column cannot be fed from its field."""
    if format == "json":
        return JsonDecoder(schema, columns, max_bytes=max_bytes)
    raise ValueError(f"no format {format!r}")


def encoder(format: Format, fields: Sequence[Tensor], schema: Schema | None = None) -> Encoder:
    """An encoder of rows with these fields. Raises SchemaError when the fields do not fit `schema`."""
    if format == "json":
        return JsonEncoder(fields, schema)
    raise ValueError(f"no format {format!r}")
