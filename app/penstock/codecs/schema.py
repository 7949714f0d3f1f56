"""Reads a schema file (`*.avsc`) into a Schema: one pass over the Avro JSON that collects every problem.

The Avro library then decides whether the file is valid Avro. The pass before it is needed because that library stops at the
first problem, reports no line, and drops the attribute `size` that fixes an array's length.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import fastavro
from fastavro.schema import SchemaParseException, UnknownType

from penstock.errors import Problem, SchemaError
from penstock.schema import REQUIRED, Field, Schema

__all__ = ["MAX_SCHEMA_BYTES", "fits", "load_schema"]

MAX_SCHEMA_BYTES: Final = 1_048_576
MAX_ITEMS: Final = 1_048_576  # of one value of an array, with those inside: as many as the bytes of an event, by default

_PRIMITIVES: Final = ("boolean", "int", "long", "float", "double", "string", "bytes")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_UNITS: Final[Mapping[str, Any]] = {"timestamp-millis": "ms", "timestamp-micros": "us"}
_RANGES: Final = {"int": 2**31, "long": 2**63, "timestamp": 2**63}


def load_schema(path: str | Path) -> Schema:
    """Loads the schema in the Avro file `path`. Raises SchemaError with all problems of the file."""
    file = str(path)
    text = _read(Path(path), file)
    reader = _Reader(file, text)
    try:
        raw = json.loads(text)
        fields = reader.record(raw)
        if reader.problems:
            raise SchemaError(reader.problems)
        _check_inside(raw)
        avro = fastavro.parse_schema(raw)
    except json.JSONDecodeError as error:
        fix = "schemas are JSON: no comments, no trailing commas"
        raise SchemaError(Problem(file, error.lineno, error.colno, f"not JSON: {error.msg}", fix)) from None
    except RecursionError:
        raise SchemaError(Problem(file, 0, 0, "nested too deeply", "flatten the schema")) from None
    except UnknownType as error:
        raise SchemaError(Problem(file, 0, 0, f"unknown type {error.name!r}", "define a named type before its first use")) from None
    except SchemaParseException as error:
        raise SchemaError(Problem(file, 0, 0, str(error), "see the Avro specification")) from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        # The pass above does not check nested records and maps, and the Avro library assumes that they are well-formed.
        message = f"not Avro: a type lacks {error}" if isinstance(error, KeyError) else f"not Avro: {error}"
        raise SchemaError(Problem(file, 0, 0, message, "see the Avro specification")) from None
    return Schema(name=raw["name"], fields=fields, avro=avro, path=file)


def _check_inside(declared: Any) -> None:
    """Checks what the Avro library takes as it is, in types that feed no column too, since their bytes are read. Raises ValueError."""
    if isinstance(declared, list):
        for branch in declared:
            _check_inside(branch)
    if not isinstance(declared, dict):
        return
    match declared.get("type"):
        case "record" | "error":
            for field in declared["fields"]:
                _check_inside(field["type"])
        case "array" | "map" as kind:
            _check_inside(declared["items" if kind == "array" else "values"])
        case "enum":
            symbols = declared["symbols"]
            if not isinstance(symbols, list) or not all(isinstance(symbol, str) for symbol in symbols):
                raise ValueError(f"an enum with the symbols {json.dumps(symbols)}")
        case "fixed":
            if type(declared["size"]) is not int or declared["size"] < 0:
                raise ValueError(f"a fixed type with the size {json.dumps(declared['size'])}")
        case inner:
            _check_inside(inner)


def _read(path: Path, file: str) -> str:
    try:
        with path.open("rb") as opened:
            data = opened.read(MAX_SCHEMA_BYTES + 1)
    except OSError as error:
        raise SchemaError(Problem(file, 0, 0, f"cannot be read: {error.strerror}", "check the path and its permissions")) from None
    if len(data) > MAX_SCHEMA_BYTES:
        raise SchemaError(Problem(file, 0, 0, f"larger than {MAX_SCHEMA_BYTES} bytes", "split it, or check that it is a schema"))
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SchemaError(Problem(file, line, 1, "not UTF-8", "save the file as UTF-8")) from None


class _Unusable(Exception):
    """A type that no field can have: what is wrong, and the fix."""


class _Reader:
    """Walks the Avro JSON of one file. Collects problems in `problems`, and omits fields with problems."""

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.text = text
        self.problems: list[Problem] = []
        self.named: dict[str, Any] = {}

    def record(self, raw: Any) -> tuple[Field, ...]:
        if not isinstance(raw, dict) or raw.get("type") != "record":
            self.problem("", "the top level is not a record", 'begin with {"type": "record", "name": ..., "fields": [...]}')
            return ()
        if not isinstance(raw.get("name"), str):
            self.problem("", "the record has no name", 'add "name"')
        self.named[raw.get("name", "")] = raw
        declared = raw.get("fields")
        if not isinstance(declared, list) or not declared:
            self.problem("", "the record has no fields", 'add "fields": [{"name": ..., "type": ...}]')
            return ()
        fields: dict[str, Field] = {}
        for entry in declared:
            field = self.field(entry)
            if field is not None and field.name in fields:
                self.problem(field.name, "declared twice", "rename or remove one")
            elif field is not None:
                fields[field.name] = field
        return tuple(fields.values())

    def field(self, entry: Any) -> Field | None:
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or "type" not in entry:
            self.problem("", f"a field without name or type: {json.dumps(entry)[:80]}", 'write {"name": ..., "type": ...}')
            return None
        if not _NAME.fullmatch(name):
            self.problem(name, "not an Avro name", "use letters, digits and _, and do not begin with a digit")
            return None
        try:
            attributes = self.type(entry["type"])
        except _Unusable as unusable:
            self.problem(name, *unusable.args)
            return None
        made = Field(name=name, default=entry.get("default", REQUIRED), doc=str(entry.get("doc", "")), **attributes)
        if made.default is not REQUIRED and not fits(made, made.default):
            self.problem(name, f"the default {json.dumps(made.default)} is not a valid {made.kind}", "give a default of the field's type")
            return None
        return made

    def type(self, declared: Any) -> dict[str, Any]:
        """Returns the attributes of a Field (all but name, default and doc) for an Avro type. Raises _Unusable."""
        if isinstance(declared, list):
            return self.union(declared)
        if isinstance(declared, str):
            if declared in _PRIMITIVES:
                return {"kind": declared}
            if (known := self.named.get(declared.rpartition(".")[2])) is not None:
                return self.type(known)
            raise _Unusable(f"unknown type {declared!r}", f"{', '.join(_PRIMITIVES)}, enum, array, or a type defined above")
        if not isinstance(declared, dict):
            raise _Unusable(f"{json.dumps(declared)} is not a type", "give a type's name, or an object with a type")
        return self.complex(declared)

    def union(self, branches: list[Any]) -> dict[str, Any]:
        others = [branch for branch in branches if branch != "null"]
        if len(others) != 1 or len(branches) > 2:
            raise _Unusable("a union other than null and one type", 'write ["null", TYPE], or split the field')
        return {**self.type(others[0]), "optional": len(branches) == 2}

    def complex(self, declared: dict[str, Any]) -> dict[str, Any]:
        match declared.get("type"):
            case "enum":
                symbols = declared.get("symbols")
                if not isinstance(symbols, list) or not symbols or not all(isinstance(symbol, str) for symbol in symbols):
                    raise _Unusable("an enum without symbols", 'add "symbols": ["A", "B"]')
                self.named[str(declared.get("name", ""))] = declared
                return {"kind": "enum", "symbols": tuple(symbols)}
            case "array":
                return self.array(declared)
            case "record" | "fixed" as kind:
                self.named[str(declared.get("name", ""))] = declared
                return {"kind": "bytes" if kind == "fixed" else kind}
            case "map":
                return {"kind": "map"}
            case inner:
                unit = _UNITS.get(declared.get("logicalType", "")) if inner == "long" else None
                return {"kind": "timestamp", "unit": unit} if unit else self.type(inner)

    def array(self, declared: dict[str, Any]) -> dict[str, Any]:
        size = declared.get("size")
        if size is not None and (type(size) is not int or size < 1):
            raise _Unusable(f'"size": {json.dumps(size)} is not a length', "write a whole number from 1")
        items = Field(name="items", **self.type(declared.get("items")))
        if math.prod(axis or 1 for axis in (size, *items.shape)) > MAX_ITEMS:
            raise _Unusable(
                f"an array of more than {MAX_ITEMS:,} items", "a column has room for all of them in every row: write a smaller size"
            )
        return {"kind": "array", "items": items, "size": size}

    def problem(self, name: str, message: str, fix: str) -> None:
        """Adds a problem of the field `name`, at the line of that name."""
        at = re.search(rf'"name"\s*:\s*{re.escape(json.dumps(name))}', self.text) if name else None
        line = self.text.count("\n", 0, at.start()) + 1 if at else 0
        column = at.start() - self.text.rfind("\n", 0, at.start()) if at else 0
        self.problems.append(Problem(self.file, line, column, f"field {name!r}: {message}" if name else message, fix))


def fits(field: Field, value: Any) -> bool:
    """Whether `value`, as parsed from JSON, is a value of the field."""
    if value is None:
        return field.optional
    match field.kind:
        case "boolean":
            return isinstance(value, bool)
        case "int" | "long" | "timestamp":
            return type(value) is int and -_RANGES[field.kind] <= value < _RANGES[field.kind]
        case "float" | "double":
            return type(value) in (int, float) and math.isfinite(value)
        case "enum":
            return value in field.symbols
        case "array":
            items = field.items
            sized = isinstance(value, list) and field.size in (None, len(value))
            return sized and items is not None and all(fits(items, item) for item in value)
        case "record" | "map":
            return isinstance(value, dict)
        case _:
            return isinstance(value, str)
