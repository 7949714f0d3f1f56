"""Avro schemas that are made of columns: of outputs in a file, where the sink has none or one of another language, and between stages."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import groupby
from typing import Any, Final

from penstock.codecs.schema import read_schema
from penstock.errors import SchemaError
from penstock.schema import Schema
from penstock.signature import Tensor

__all__ = ["column_schema", "container_schema", "plain_avro"]

_TYPES: Final = {
    "bool": "boolean", "int8": "int", "int16": "int", "int32": "int", "uint8": "int", "uint16": "int", "int64": "long", "uint32": "long",
    "float32": "float", "float64": "double", "string": "string",
}  # fmt: skip

_RESERVED: Final = frozenset(
    ("null", "boolean", "int", "long", "float", "double", "bytes", "string", "record", "error", "enum", "array", "map", "fixed", "union")
)


def container_schema(name: str, fields: Sequence[Tensor], schema: Schema | None) -> Schema:
    """Returns a schema of Avro for these outputs. A field that it makes may be null. Raises SchemaError for uint64, which Avro has not."""
    if schema is not None and schema.language == "AVRO":
        return schema
    _check(fields)
    return read_schema(_record(_named(name), [(field.name.split("."), field) for field in fields]))


def column_schema(name: str, fields: Sequence[Tensor], nullable: Collection[str]) -> Schema:
    """Returns a schema of Avro for these columns, which a later stage reads as they are. Raises SchemaError for uint64."""
    _check(fields)
    made = []
    for field in fields:
        kind: Any = _TYPES[field.dtype]
        for axis in reversed(field.shape):
            kind = {"type": "array", "items": kind, **({} if axis is None else {"size": axis})}
        made.append({"name": field.name, "type": ["null", kind] if field.name in nullable else kind})
    return read_schema({"type": "record", "name": _named(name), "fields": made})


def _named(name: str) -> str:
    """Returns the name as one of a record: not that of a type of Avro, which fields would then mean."""
    cleaned = re.sub(r"\W", "_", name)
    return f"{cleaned}_" if cleaned in _RESERVED else cleaned


def _check(fields: Sequence[Tensor]) -> None:
    if (wide := next((field.name for field in fields if field.dtype not in _TYPES), None)) is not None:
        raise SchemaError(f"the field {wide!r} has whole numbers of 64 bits without a sign, which Avro has not: write another format")


def _record(name: str, parts: Sequence[tuple[Sequence[str], Tensor]]) -> dict[str, Any]:
    order = {head: at for at, head in reversed([*enumerate(path[0] for path, _ in parts)])}
    ordered = sorted(parts, key=lambda one: order[one[0][0]])
    fields = []
    for head, group in groupby(ordered, key=lambda one: one[0][0]):
        inside = [(path[1:], field) for path, field in group]
        if inside[0][0]:
            fields.append({"name": head, "type": _record(f"{name}_{head}", inside)})
            continue
        kind: Any = _TYPES[inside[0][1].dtype]
        for _ in inside[0][1].shape:
            kind = {"type": "array", "items": kind}
        fields.append({"name": head, "type": ["null", kind], "default": None})
    return {"type": "record", "name": name, "fields": fields}


def plain_avro(schema: Schema) -> Any:
    """Returns the JSON of a schema of Avro, as a file has it."""
    return {key: value for key, value in schema.avro.items() if not key.startswith("__")}
