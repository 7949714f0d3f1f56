"""Reads a schema file into a Schema: Avro (`*.avsc`) in one pass over its JSON that collects every problem; `json_schema` and `protobuf`
read the others.

The Avro library then decides whether the file is valid Avro. The pass before it is needed because that library stops at the
first problem, reports no line, and drops the attribute `size` that fixes an array's length.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import fastavro
from fastavro.schema import SchemaParseException, UnknownType

from penstock.codecs.json_schema import MAX_FIELDS, MAX_ITEMS, few, fields_of, is_json_schema
from penstock.codecs.names import NAME, NO_ALIAS
from penstock.errors import Problem, SchemaError
from penstock.schema import REQUIRED, Field, Schema, fits

__all__ = ["MAX_FIELDS", "MAX_ITEMS", "MAX_SCHEMA_BYTES", "PROTOBUF", "load_schema", "read_file", "read_schema"]

PROTOBUF: Final = (".proto", ".binpb", ".pb", ".desc")  # endings of its files: text, and sets of descriptors

MAX_SCHEMA_BYTES: Final = 1_048_576

_KEYWORDS: Final = frozenset({"record", "error", "enum", "array", "map", "fixed", "null"})
_PRIMITIVES: Final = ("boolean", "int", "long", "float", "double", "string", "bytes")
_OF_TYPES: Final = ("logicalType", "items", "values", "symbols", "size", "precision", "scale")  # attributes of a type, not of a field
_UNITS: Final[Mapping[str, Any]] = {"timestamp-millis": "ms", "timestamp-micros": "us"}


def load_schema(path: str | Path) -> Schema:
    """Loads the schema in the file `path`: Avro, a JSON Schema, or the message in a Protobuf file, `shop.proto` or `shop.proto#Order`.

    Raises SchemaError with all problems of the file.
    """
    file = str(path)
    if Path(file.partition("#")[0]).suffix in PROTOBUF:
        try:
            from penstock.codecs.protobuf.files import load_protobuf  # imports the library
        except ImportError:
            fix = "pip install 'penstock[protobuf]'"
            raise SchemaError(Problem(file, 0, 0, "the library of Protobuf is not installed, or too old", fix)) from None
        return load_protobuf(file)
    text = _read(Path(path), file)
    reader = _Reader(file, text)
    try:
        parsed = json.loads(text)
        if is_json_schema(parsed):
            name, fields = fields_of(parsed, file)
            return Schema(name=name, fields=fields, path=file, language="JSON")
        raw = _unwrapped(parsed)
        fields = reader.record(raw)
        if reader.problems:
            raise SchemaError(reader.problems)
        few(fields, file, {})
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


def read_schema(raw: dict[str, Any]) -> Schema:
    """Returns the schema of a record in Avro's JSON, which a program has made. Raises SchemaError."""
    reader = _Reader(raw["name"], "")
    fields = reader.record(raw)
    if reader.problems:
        raise SchemaError(reader.problems)
    return Schema(name=raw["name"], fields=fields, avro=fastavro.parse_schema(raw))


def _unwrapped(declared: Any) -> Any:
    """Returns the type without objects that only hold another one (`{"type": {"type": "string"}}`), which the Avro library refuses."""
    if isinstance(declared, list):
        return [_unwrapped(branch) for branch in declared]
    if not isinstance(declared, dict):
        return declared
    if isinstance(inner := declared.get("type"), dict | list):
        return _unwrapped(inner)
    made = {key: _unwrapped(value) if key in ("items", "values") else value for key, value in declared.items()}
    if isinstance(fields := declared.get("fields"), list):
        made["fields"] = [
            {**field, "type": _unwrapped(field["type"])} if isinstance(field, dict) and "type" in field else field for field in fields
        ]
    return made


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


def read_file(path: Path, file: str) -> bytes:
    """Returns what a schema file holds. Raises SchemaError, which names it `file`, for one that cannot be read or is too large."""
    try:
        with path.open("rb") as opened:
            data = opened.read(MAX_SCHEMA_BYTES + 1)
    except OSError as error:
        raise SchemaError(Problem(file, 0, 0, f"cannot be read: {error.strerror}", "check the path and its permissions")) from None
    if len(data) > MAX_SCHEMA_BYTES:
        raise SchemaError(Problem(file, 0, 0, f"larger than {MAX_SCHEMA_BYTES} bytes", "split it, or check that it is a schema"))
    return data


def _read(path: Path, file: str) -> str:
    data = read_file(path, file)
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
        self._named: dict[str, dict[str, Any]] = {}  # what each named type makes of a Field
        self._space = ""  # the namespace around
        self._at = ""  # the path of the record around

    def record(self, raw: Any) -> tuple[Field, ...]:
        """Returns the fields of the record at the top level."""
        if not isinstance(raw, dict) or raw.get("type") != "record":
            self.problem("", "the top level is not a record", 'begin with {"type": "record", "name": ..., "fields": [...]}')
            return ()
        if not isinstance(raw.get("name"), str):
            self.problem("", "the record has no name", 'add "name"')
            raw = {**raw, "name": ""}
        try:
            made = self.named(raw, lambda: {"kind": "record", "fields": self.fields(raw)})
        except _Unusable as unusable:
            self.problem("", *unusable.args)
            return ()
        fields: tuple[Field, ...] = made["fields"]
        return fields

    def fields(self, raw: dict[str, Any]) -> tuple[Field, ...]:
        """Returns the fields of a record. Raises _Unusable when it has none."""
        declared = raw.get("fields")
        if not isinstance(declared, list) or (not declared and not self._at):
            raise _Unusable("the record has no fields", 'add "fields": [{"name": ..., "type": ...}]')
        fields: dict[str, Field] = {}
        taken: dict[str, str] = {}
        for entry in declared:
            field = self.field(entry)
            if field is None:
                continue
            if field.name in fields:
                self.problem(field.name, "declared twice", "rename or remove one")
                continue
            fields[field.name] = field
            for alias in field.aliases:
                if alias in taken:
                    self.problem(field.name, f"the alias {alias!r} is an alias of {taken[alias]!r} too", "an event's field has one reader")
                taken[alias] = field.name
        for alias in [alias for alias in taken if alias in fields]:
            self.problem(taken[alias], f"the alias {alias!r} is the name of another field", "an event's field has one reader")
        return tuple(fields.values())

    def field(self, entry: Any) -> Field | None:
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or "type" not in entry:
            self.problem("", f"a field without name or type: {json.dumps(entry)[:80]}", 'write {"name": ..., "type": ...}')
            return None
        if not NAME.fullmatch(name):
            fix = f'use letters, digits and _, and give the events\' name as an alias: "aliases": [{json.dumps(name)}]'
            self.problem(name, "not an Avro name", fix)
            return None
        aliases = entry.get("aliases", [])
        if not isinstance(aliases, list) or not all(isinstance(alias, str) and alias for alias in aliases):
            self.problem(name, f"the aliases {json.dumps(aliases)} are not a list of names", 'write "aliases": ["NAME"]')
            return None
        if unreadable := [alias for alias in aliases if NO_ALIAS.search(alias)]:
            self.problem(name, f"the alias {json.dumps(unreadable[0])} has a quote, a backslash or a control character", "leave it out")
            return None
        if misplaced := [key for key in _OF_TYPES if key in entry]:
            inside = ", ".join(f'"{key}": {json.dumps(entry[key])}' for key in misplaced)
            fix = f'write "type": {{"type": {json.dumps(entry["type"])}, {inside}}}'
            self.problem(name, f"{misplaced[0]!r} is beside the type, where Avro ignores it", fix)
            return None
        around, self._at = self._at, f"{self._at}.{name}" if self._at else name
        try:
            attributes, unusable = self.type(entry["type"]), None
        except _Unusable as found:
            attributes, unusable = {}, found
        finally:
            self._at = around
        if unusable is not None:
            self.problem(name, *unusable.args)
            return None
        default = entry.get("default", REQUIRED)
        others = tuple(alias for alias in dict.fromkeys(aliases) if alias != name)
        made = Field(name=name, default=default, doc=str(entry.get("doc", "")), aliases=others, **attributes)
        if made.default is not REQUIRED and not fits(made, made.default):
            self.problem(name, f"the default {json.dumps(made.default)} is not a valid {made.kind}", "give a default of the field's type")
            return None
        return made

    def type(self, declared: Any) -> dict[str, Any]:
        """Returns the attributes of a Field (all but name, default, doc and aliases) for an Avro type. Raises _Unusable."""
        if isinstance(declared, list):
            return self.union(declared)
        if isinstance(declared, str):
            if declared in _PRIMITIVES:
                return {"kind": declared}
            if (known := self._known(declared)) is not None:
                return known
            raise _Unusable(f"unknown type {declared!r}", f"{', '.join(_PRIMITIVES)}, enum, array, or a type defined above")
        if not isinstance(declared, dict):
            raise _Unusable(f"{json.dumps(declared)} is not a type", "give a type's name, or an object with a type")
        return self.complex(declared)

    def union(self, branches: list[Any]) -> dict[str, Any]:
        others = [self.type(branch) for branch in branches if branch != "null"]
        nullable = len(others) < len(branches)
        if not others or len(branches) - len(others) > 1:
            raise _Unusable("a union without a type beside null", 'write ["null", TYPE]')
        if len(others) > 1:
            return {"kind": "union", "optional": nullable}
        return {**others[0], "optional": nullable}

    def complex(self, declared: dict[str, Any]) -> dict[str, Any]:
        match declared.get("type"):
            case "enum":
                return self.named(declared, lambda: self.enum(declared))
            case "array":
                return self.array(declared)
            case "record" | "error":
                return self.named(declared, lambda: {"kind": "record", "fields": self.fields(declared)})
            case "fixed":
                return self.named(declared, lambda: {"kind": "bytes"})
            case "map":
                if "values" not in declared:
                    raise _Unusable("a map without values", 'add "values": TYPE')
                return {"kind": "map", "values": Field(name="values", **self.type(declared["values"]))}
            case inner:
                unit = _UNITS.get(declared.get("logicalType", "")) if inner == "long" else None
                return {"kind": "timestamp", "unit": unit} if unit else self.type(inner)

    def named(self, declared: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Returns what `make` makes of a type with a name, under which other fields find it. Inside itself a record has no fields."""
        name = str(declared.get("name", ""))
        if name in _KEYWORDS:
            raise _Unusable(f"a type called {name!r}, which is a type of Avro", "rename it")
        space = str(declared.get("namespace") or "") or self._space
        full = name if "." in name or not space else f"{space}.{name}"
        self._named[full] = {"kind": declared.get("type") if declared.get("type") != "error" else "record"}
        around, self._space = self._space, full.rpartition(".")[0]
        try:
            self._named[full] = make()
        finally:
            self._space = around
        return self._named[full]

    def _known(self, name: str) -> dict[str, Any] | None:
        if "." not in name and self._space and (near := self._named.get(f"{self._space}.{name}")) is not None:
            return near
        return self._named.get(name)

    def enum(self, declared: dict[str, Any]) -> dict[str, Any]:
        symbols, fallback = declared.get("symbols"), declared.get("default")
        if not isinstance(symbols, list) or not symbols or not all(isinstance(symbol, str) for symbol in symbols):
            raise _Unusable("an enum without symbols", 'add "symbols": ["A", "B"]')
        if fallback is not None and fallback not in symbols:
            raise _Unusable(f"the enum's default {json.dumps(fallback)} is not one of its symbols", "name one of the symbols")
        return {"kind": "enum", "symbols": tuple(symbols), "fallback": fallback}

    def array(self, declared: dict[str, Any]) -> dict[str, Any]:
        size = declared.get("size")
        if size is not None and (type(size) is not int or size < 1):
            raise _Unusable(f'"size": {json.dumps(size)} is not a length', "write a whole number from 1")
        if "items" not in declared:
            raise _Unusable("an array without items", 'add "items": TYPE')
        items = Field(name="items", **self.type(declared["items"]))
        if math.prod(axis or 1 for axis in (size, *items.shape)) > MAX_ITEMS:
            raise _Unusable(
                f"an array of more than {MAX_ITEMS:,} items", "a column has room for all of them in every row: write a smaller size"
            )
        return {"kind": "array", "items": items, "size": size}

    def problem(self, name: str, message: str, fix: str) -> None:
        """Adds a problem of the field `name`, at the line of that name."""
        at = re.search(rf'"name"\s*:\s*{re.escape(json.dumps(name))}', self.text) if name else None
        whole = f"{self._at}.{name}" if self._at else name
        line = self.text.count("\n", 0, at.start()) + 1 if at else 0
        column = at.start() - self.text.rfind("\n", 0, at.start()) if at else 0
        self.problems.append(Problem(self.file, line, column, f"field {whole!r}: {message}" if name else message, fix))
