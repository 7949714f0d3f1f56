"""An event schema: the fields of a record, as a file declares them in Avro (`*.avsc`), for every format, as a JSON Schema, or of a
Protobuf message (`*.proto`).

Values only. `penstock.codecs` uses them to turn bytes into columns, `penstock.topology` to check wiring.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

__all__ = [
    "RAW", "REQUIRED", "Beside", "Coercion", "Column", "Field", "Kind", "Language", "Missing", "Schema", "Step",
    "fits", "innermost", "resolves", "steps", "with_paths", "writes",
]  # fmt: skip

Kind = Literal[
    "boolean", "int", "long", "float", "double", "string", "bytes", "enum", "array", "timestamp", "record", "map", "union", "byte"
]
Coercion = Literal["whole_numbers", "dates", "decimals"]
Language = Literal["AVRO", "JSON", "PROTOBUF"]  # of a schema file, as registries name it
Step = str | int  # the name of a record's field or the key of a map, or the place of an array's item

_RANGES: Final = {"int": 2**31, "long": 2**63, "timestamp": 2**63}
_ATTRIBUTE: Final = re.compile(r"[a-z0-9]+")  # the names that CloudEvents allows
_STEP: Final = re.compile(r"([^.\[\]]+)|\[([0-9]+)\]")


class _Required:
    """The default of a field without a default."""

    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED: Final = _Required()


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a schema.

    `kind` is the Avro type without its null; a logical timestamp is "timestamp" with `unit` "ms" or "us", carried as an
    integer since the epoch, UTC. `optional` allows null. An array has `items`, and `size` when the schema
    fixes its length (the attribute `"size": 8` beside `"items"`). A record has `fields`, except one inside itself, and a map
    has `values`. "union" is a union of several types, which is read past; "byte" is an item of RAW. `aliases` are other names that the
    field has in events, `fallback` is the symbol that replaces every symbol which the enum does not know.

    What only a JSON Schema declares: `dated` is a timestamp that events hold as a date of ISO 8601; `absent` is a field that may be absent
    and not null, which is read as null; `why` is the reason why a field of kind "union" has no type, and what to do.
    """

    name: str
    kind: Kind
    optional: bool = False
    default: Any = REQUIRED
    symbols: tuple[str, ...] = ()
    items: Field | None = None
    size: int | None = None
    unit: Literal["ms", "us", ""] = ""
    doc: str = ""
    aliases: tuple[str, ...] = ()
    fields: tuple[Field, ...] = ()
    values: Field | None = None
    fallback: str | None = None
    dated: bool = False
    absent: bool = False
    why: str = ""

    @property
    def nullable(self) -> bool:
        """Whether null may be written."""
        return self.optional and not self.absent

    @property
    def dtype(self) -> str:
        """The tensor dtype that holds the field (of an array: its innermost items) without loss; "" when there is no such dtype."""
        if self.items is not None:
            return "" if self.items.optional else self.items.dtype
        return _DTYPES.get(self.kind, "")

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The axes of one value: `()` of a scalar, `(8,)` of an array of size 8, `(None,)` when the size is open."""
        return (self.size, *self.items.shape) if self.items is not None else ()


_DTYPES = {
    "boolean": "bool", "int": "int32", "long": "int64", "timestamp": "int64",
    "float": "float32", "double": "float64", "string": "string", "enum": "string", "byte": "uint8",
}  # fmt: skip


# The dtypes that an output may write into a field: the kind can hold every value of the dtype.
_WRITES: Final = {
    "boolean": frozenset({"bool"}),
    "int": frozenset({"int8", "int16", "int32", "uint8", "uint16"}),
    "long": frozenset({"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"}),
    "timestamp": frozenset({"int32", "int64", "uint32"}),
    "float": frozenset({"float32"}),
    "double": frozenset({"float32", "float64"}),
    "string": frozenset({"string"}),
    "enum": frozenset({"string"}),
}


def innermost(field: Field) -> Field:
    """Returns the field itself, or the innermost items of an array."""
    return field if field.items is None else innermost(field.items)


def writes(dtype: str, field: Field) -> bool:
    """Whether values of `dtype` can be written to the field (of an array: to its innermost items, which are never null)."""
    if field.items is not None:
        return not field.items.optional and writes(dtype, field.items)
    return dtype == "string" if field.dated else dtype in _WRITES.get(field.kind, frozenset())


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
            return isinstance(value, dict) and _inside_fits(field, value)
        case _:
            return field.kind == "union" or isinstance(value, str)  # the default of a union is for the Avro library to judge


def _inside_fits(field: Field, value: dict[str, Any]) -> bool:
    if field.values is not None:
        return all(fits(field.values, one) for one in value.values())
    return all(fits(one, value[one.name]) if one.name in value else one.default is not REQUIRED for one in field.fields)


# Avro's promotions; a timestamp counts as a number of its unit.
_PROMOTES: Final = {
    "int": frozenset({"int", "long", "float", "double", "timestamp"}),
    "long": frozenset({"long", "float", "double", "timestamp"}),
    "timestamp": frozenset({"long", "float", "double", "timestamp"}),
    "float": frozenset({"float", "double"}),
    "string": frozenset({"string", "bytes"}),
    "bytes": frozenset({"string", "bytes"}),
}


def resolves(written: Field, read: Field) -> bool:
    """Whether Avro can read a field with the type `read` that was written with the type `written`."""
    if written.items is not None and read.items is not None:
        return resolves(written.items, read.items)
    if written.values is not None and read.values is not None:
        return resolves(written.values, read.values)
    return read.kind in _PROMOTES.get(written.kind, (written.kind,)) and (not written.unit or read.unit in ("", written.unit))


def steps(path: str) -> tuple[Step, ...]:
    """Returns the steps of a path: `payload.items[0].price` is `("payload", "items", 0, "price")`."""
    return tuple(name or int(index) for name, index in _STEP.findall(path))


@dataclass(frozen=True, slots=True)
class Beside:
    """What a record has beside its value: `key` as text, or its fields (`key.id`) by the schema `key`; and headers (`header.x-tenant`).

    Of `events` it has the attributes of a CloudEvent (`ce.type`) too, and `ce`, its source and id together.
    """

    key: Schema | None = None
    events: bool = False

    def field(self, path: str) -> Field | None:
        """Returns the field that the path leads to: null where the record has no key, or no such header."""
        head, _, rest = path.partition(".")
        if head == "header" and rest:
            return Field(path, "string", optional=True)
        if head == "ce" and self.events:
            if rest and (rest == "data" or not _ATTRIBUTE.fullmatch(rest)):
                return None
            if rest == "time":
                return Field(path, "timestamp", optional=True, unit="ms", dated=True)
            return Field(path, "string", optional=rest not in ("id", "source", "type", "specversion"))
        if head != "key" or (not rest) is not (self.key is None):
            return None
        found = Field(path, "string") if self.key is None else self.key.field(rest)
        return None if found is None else replace(found, name=path, optional=True, aliases=())


@dataclass(frozen=True, slots=True)
class Schema:
    """A record schema. Of a file in Avro, `avro` is the parsed JSON for fastavro, of a message `protobuf` its descriptors. `path` is the
    file, for messages.

    `beside` is set where the events come as records of a topic. `certain` are the paths of records that are not null in any event that is
    scored, although the schema allows it.
    """

    name: str
    fields: tuple[Field, ...]
    avro: Any = None
    path: str = ""
    protobuf: Any = None
    beside: Beside | None = None
    certain: frozenset[str] = frozenset()
    language: Language = "AVRO"

    def in_records(self, key: Schema | None = None, certain: frozenset[str] = frozenset(), *, events: bool = False) -> Schema:
        """Returns the schema of events that come as records, whose keys have the schema `key` or are text; `events` are CloudEvents."""
        return replace(self, beside=Beside(key, events), certain=certain)

    def alone(self, path: str) -> Schema:
        """Returns the schema with nothing but the field at the path through records, in them."""
        return replace(self, fields=_alone(self.fields, path.split(".")))

    def has(self, name: str) -> bool:
        """Whether the event itself has a field of this name."""
        return any(field.name == name for field in self.fields)

    def is_beside(self, path: str) -> bool:
        """Whether the path leads to the record's key or headers. A field of the event of that name comes first."""
        return self.beside is not None and not self.has(str(next(iter(steps(path)), ""))) and self.beside.field(path) is not None

    def field(self, path: str) -> Field | None:
        """Returns the field of this name, or the field inside others that a path (`after.amount`, `items[0].price`) leads to.

        The latter has the path as its name, and is optional if anything on the way may be null or absent.
        """
        if self.beside is not None and self.is_beside(path):
            return self.beside.field(path)
        found = next((field for field in self.fields if field.name == path), None)
        return found if found is not None or path.isidentifier() else self._inside(path)

    def leaf(self, path: str) -> Field | None:
        """Returns the field that a path through records leads to, as it is declared: what a writer writes there."""
        inside, found = self.fields, None
        for name in path.split("."):
            found = next((field for field in inside if field.name == name), None)
            inside = found.fields if found is not None else ()
        return found

    def scalars(self) -> Iterator[Field]:
        """Yields the fields that hold one value each, those inside records too, each with its path as its name."""
        for path in _paths(self.fields, ""):
            field = self.field(path)
            if field is not None and field.items is None and field.dtype:
                yield field

    def unwritten(self, paths: Collection[str]) -> list[str]:
        """Returns the paths of the fields that an event of these lacks: those without a default, also inside records that are written."""
        return list(_unwritten(self.fields, paths, ""))

    def _inside(self, path: str) -> Field | None:
        first, *rest = steps(path) or ("",)
        found = next((field for field in self.fields if field.name == first), None)
        absent, at = False, str(first)
        for step in rest:
            if found is None:
                return None
            absent |= found.optional and at not in self.certain
            at += f"[{step}]" if isinstance(step, int) else f".{step}"
            if isinstance(step, int):
                absent |= found.size is None
                found = found.items if found.kind == "array" and step < (found.size or step + 1) else None
            elif found.kind == "record":
                found = next((field for field in found.fields if field.name == step), None)
            else:
                absent, found = True, found.values
        return None if found is None else replace(found, name=path, optional=found.optional or absent, aliases=())


RAW: Final = Schema("bytes", (Field("value", "array", items=Field("items", "byte")),))  # of records that are bytes, as they are


def _alone(fields: Iterable[Field], names: Sequence[str]) -> tuple[Field, ...]:
    name, *rest = names
    return tuple(replace(field, fields=_alone(field.fields, rest)) if rest else field for field in fields if field.name == name)


def _paths(fields: Iterable[Field], at: str) -> Iterator[str]:
    for field in fields:
        yield f"{at}{field.name}"
        yield from _paths(field.fields, f"{at}{field.name}.")


def _unwritten(fields: Iterable[Field], paths: Collection[str], at: str) -> Iterator[str]:
    for field in fields:
        path = at + field.name
        if any(one.startswith(f"{path}.") for one in paths):
            yield from _unwritten(field.fields, paths, f"{path}.")
        elif field.default is REQUIRED and path not in paths:
            yield path


def with_paths(schema: Schema, paths: Iterable[str]) -> Schema:
    """Returns the schema with the fields inside others that `paths` lead to, after its own fields, as fields of their own."""
    own = {field.name for field in schema.fields}
    inside = (schema.field(path) for path in dict.fromkeys(paths) if path not in own)
    return replace(schema, fields=(*schema.fields, *(field for field in inside if field is not None)))


@dataclass(frozen=True, slots=True)
class Missing:
    """The replacement of a null in a column: `action` "reject" makes the row a failure, "fill" puts `value` in its place.

    `nan` in YAML is Missing("fill", float("nan")): then NaN is also allowed in the data. Missing("fill", None) keeps null
    as None, for a scalar that is only copied to a sink: its column is an object array, whatever its dtype.
    """

    action: Literal["reject", "fill"] = "reject"
    value: Any = None


@dataclass(frozen=True, slots=True)
class Column:
    """A field of the event as a column of the batch: the output of a decoder.

    The array has `dtype` and the shape `[N, *shape]`; strings are object arrays of `str`. When the first axis is open (None), rows have
    arrays of different lengths: an object array `[N]` of arrays. A value that does not fit (wrong length, out of range, not finite, null
    without a fill) fails its row with a DecodeError that names the field.
    """

    name: str
    field: str
    dtype: str
    shape: tuple[int | None, ...] = ()
    missing: Missing = Missing()
