"""The Avro schema of outputs in a file: that of the sink, or one made of its fields, where it has none or one of another language."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

from penstock.codecs.schema import read_schema
from penstock.errors import SchemaError
from penstock.schema import Schema
from penstock.signature import Tensor

__all__ = ["container_schema", "plain_avro"]

_TYPES: Final = {
    "bool": "boolean", "int8": "int", "int16": "int", "int32": "int", "uint8": "int", "uint16": "int", "int64": "long", "uint32": "long",
    "float32": "float", "float64": "double", "string": "string",
}  # fmt: skip


def container_schema(name: str, fields: Sequence[Tensor], schema: Schema | None) -> Schema:
    """Returns a schema of Avro for these outputs. A field that it makes may be null. Raises SchemaError for uint64, which Avro has not."""
    if schema is not None and schema.language == "AVRO":
        return schema
    if (wide := next((field.name for field in fields if field.dtype not in _TYPES), None)) is not None:
        raise SchemaError(f"the field {wide!r} has whole numbers of 64 bits without a sign, which Avro has not: write another format")
    return read_schema(_record(re.sub(r"\W", "_", name), [(field.name.split("."), field) for field in fields]))


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
