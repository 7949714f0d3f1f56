"""A JSON Schema (draft-07, 2020-12) as fields: the types that it declares become theirs. Its rules:

1. A property that is not required may be absent, which is read as null. One that has a default and is not required has that default.
2. Text with the format `date` or `date-time` is a timestamp, in ms. All other text is text; an enum of texts is an enum.
3. What is no type of a column (several types, no type, a schema in another file) has the kind "union" and the reason in `why`: the
   events may hold anything there, and only a topology that reads it is refused.
4. What restricts values further (ranges, patterns, lengths, conditions) is not checked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import PurePath
from typing import Any, Final
from urllib.parse import unquote, urljoin

from penstock.codecs.coerce import coercion
from penstock.codecs.names import NAME, NO_ALIAS, NO_UNICODE, free, plain
from penstock.errors import Problem, SchemaError
from penstock.schema import REQUIRED, Field, fits, innermost

__all__ = ["MAX_FIELDS", "MAX_ITEMS", "SUFFIX", "few", "fields_of", "is_json_schema"]

SUFFIX: Final = ".schema.json"
MAX_ITEMS: Final = 1_048_576  # of one value of an array, with those inside: as many as the bytes of an event, by default

MAX_FIELDS: Final = 100_000  # with those inside others, where a type with a name counts each time that it is used

MAX_PARTS: Final = 1_000  # of all `allOf`s together: parts inside parts multiply
MAX_STEPS: Final = 1_000_000  # over one file, which has a million bytes at most: choices inside choices multiply

_KINDS: Final = {"boolean": "boolean", "integer": "long", "number": "double", "string": "string"}
_SIGNS: Final = ("properties", "$ref", "$defs", "definitions", "allOf")
_TYPED: Final = frozenset(("type", "properties", "required", "$ref", "anyOf", "oneOf", "enum", "const", "items"))
# A choice without any of these only restricts: `"anyOf": [{"required": ["a"]}, {"required": ["b"]}]` beside the properties.
_SHAPING: Final = (_TYPED - {"required"}) | {"format", "minItems", "maxItems", "prefixItems", "additionalProperties", "allOf"}
_SHARED: Final = ("$defs", "definitions")
_OF_PYTHON: Final[Mapping[type, str]] = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}


class _Unusable(Exception):
    """Why a schema is no type of a column, and what to do."""


def is_json_schema(raw: Any) -> bool:
    """Whether parsed JSON is a JSON Schema, and not Avro: Avro's `type` of a whole file is record, enum, and so on."""
    if not isinstance(raw, dict):
        return False
    return "$schema" in raw or raw.get("type") == "object" or ("type" not in raw and any(sign in raw for sign in _SIGNS))


def fields_of(raw: dict[str, Any], file: str) -> tuple[str, tuple[Field, ...]]:
    """Returns the name and the fields of the object that the schema describes. Raises SchemaError when it describes no object."""
    reader = _Reader(raw, file)
    try:
        made = reader.type(raw, raw, "#")
    except _Unusable as unusable:
        raise SchemaError(Problem(file, 0, 0, *unusable.args)) from None
    except ValueError as error:  # of urllib: for an "$id" that is no address
        raise SchemaError(Problem(file, 0, 0, f"a reference cannot be followed: {error}", 'check "$id" and "$ref"')) from None
    if made["kind"] != "record" or not made.get("fields"):
        fix = 'declare "type": "object" with "properties"'
        raise SchemaError(Problem(file, 0, 0, "the schema describes no object with properties", fix))
    title = raw.get("title")
    return title if isinstance(title, str) and title else PurePath(file).name.removesuffix(SUFFIX), made["fields"]


def few(fields: tuple[Field, ...], file: str, known: dict[int, int]) -> int:
    """Returns the number of fields, those inside others counted. Raises SchemaError when they are too many.

    `known` has the numbers of tuples that have been counted and still exist, by their `id`.
    """
    if (weight := _weight(fields, known)) > MAX_FIELDS:
        fix = "types inside types multiply: use fewer"
        raise SchemaError(Problem(file, 0, 0, f"more than {MAX_FIELDS:,} fields, those inside others counted", fix))
    return weight


def _weight(fields: tuple[Field, ...], known: dict[int, int]) -> int:
    if id(fields) not in known:
        inside = ((innermost(field), field.values) for field in fields)
        known[id(fields)] = len(fields) + sum(_weight((values or inner).fields, known) for inner, values in inside)
    return known[id(fields)]


class _Reader:
    """Walks one file. `root` is the schema around, which a `$ref` with # alone is about; `at` is the place, as a JSON Pointer."""

    def __init__(self, raw: dict[str, Any], file: str) -> None:
        self._file = file
        self._inside = {str(one["$id"]): one for one in _shared(raw) if "$id" in one}
        self._known: dict[int, dict[str, Any] | _Unusable] = {id(raw): {"kind": "record"}}  # inside itself a record has no fields
        self._parts = 0
        self._steps = 0
        self._weights: dict[int, int] = {}
        self._made: list[tuple[Field, ...]] = []  # those in `_weights`: an `id` may come again
        self._anchored: dict[int, dict[str, dict[str, Any]]] = {}  # the schemas with an anchor, by the `id` of what is around

    def _spend(self, steps: int) -> None:
        self._steps += steps
        if self._steps > MAX_STEPS:
            fix = 'schemas inside "anyOf", "oneOf" and "allOf" multiply: use fewer'
            raise SchemaError(Problem(self._file, 0, 0, f"it takes more than {MAX_STEPS:,} steps to read", fix))

    def type(self, raw: Any, root: dict[str, Any], at: str) -> dict[str, Any]:
        """Returns the attributes of a Field for a schema. Raises _Unusable."""
        if not isinstance(raw, dict) or not raw:
            raise _Unusable("allows any value" if raw in (True, {}) else "is no schema", 'give it a "type"')
        self._spend(10 + len(raw))  # so that there are no more than about MAX_FIELDS of them
        if "allOf" in raw:
            return self.type(self._merged(raw, root), root, at)
        if "$ref" in raw:
            return self._referred(raw, root, at)
        for key in ("anyOf", "oneOf"):
            if isinstance(raw.get(key), list):
                self._spend(len(raw) * len(raw[key]))
                around = _without(raw, key)
                if _SHAPING & {*around} and not any(_shapes(one) for one in raw[key]):
                    return self.type(around, root, at)
                return self._choice([{**around, **one} if isinstance(one, dict) else one for one in raw[key]], root, f"{at}/{key}")
        if "const" in raw or isinstance(raw.get("enum"), list):
            values = [raw["const"]] if "const" in raw else raw["enum"]
            self._spend(len(values))
            return _listed(values)
        return self._plain(raw, root, at)

    def _plain(self, raw: dict[str, Any], root: dict[str, Any], at: str) -> dict[str, Any]:
        named = raw.get("type", "object" if "properties" in raw else "array" if "items" in raw else [])
        kinds = {one if isinstance(one, str) else str(one) for one in (named if isinstance(named, list) else [named])}
        optional = "null" in kinds
        kinds -= {"null"}
        if kinds == {"integer", "number"}:
            kinds = {"number"}
        if len(kinds) != 1:
            raise _Unusable(f"has {'several types' if kinds else 'no type'}", 'give it one "type", or that and "null"')
        (kind,) = kinds
        if kind == "object":
            return {**self._object(raw, root, at), "optional": optional}
        if kind == "array":
            return {**self._array(raw, root, at), "optional": optional}
        if kind == "string" and raw.get("format") in ("date", "date-time"):
            return {"kind": "timestamp", "unit": "ms", "dated": True, "optional": optional}
        if kind not in _KINDS:
            raise _Unusable(f"has the type {kind!r}", f"use one of {', '.join(_KINDS)}, object and array")
        return {"kind": _KINDS[kind], "optional": optional}

    def _object(self, raw: dict[str, Any], root: dict[str, Any], at: str) -> dict[str, Any]:
        if isinstance(raw.get("properties"), dict) and raw["properties"]:
            fields = self._fields(raw, root, at)
            few(fields, self._file, self._weights)
            self._made.append(fields)
            return {"kind": "record", "fields": fields}
        if isinstance(values := raw.get("additionalProperties"), dict) and values:
            return {"kind": "map", "values": Field(name="values", **self.type(values, root, f"{at}/additionalProperties"))}
        raise _Unusable("is an object without properties", 'declare them under "properties"')

    def _fields(self, raw: dict[str, Any], root: dict[str, Any], at: str) -> tuple[Field, ...]:
        properties = {name: declared for name, declared in raw["properties"].items() if name and not NO_ALIAS.search(name)}
        required = {*_texts(raw.get("required"))}
        taken = {name for name in properties if NAME.fullmatch(name)}
        numbers: dict[str, int] = {}
        fields = []
        for name, declared in properties.items():
            called = name if name in taken else free(plain(name), taken, numbers)
            taken.add(called)
            field = self._field(declared, root, f"{at}/properties/{name.replace('~', '~0').replace('/', '~1')}")
            if name in required:
                field = replace(field, default=REQUIRED)
            elif field.default in (REQUIRED, None):
                field = replace(field, default=None, optional=True, absent=not field.optional)
            fields.append(replace(field, name=called, aliases=() if called == name else (name,)))
        return tuple(fields)

    def _field(self, declared: Any, root: dict[str, Any], at: str) -> Field:
        doc = declared.get("description") or declared.get("title") if isinstance(declared, dict) else ""
        doc, default = doc if isinstance(doc, str) else "", declared.get("default", REQUIRED) if isinstance(declared, dict) else REQUIRED
        try:
            field = Field(name="", doc=doc, default=default, **self.type(declared, root, at))
            return field if default in (REQUIRED, None) else replace(field, default=_default(field))
        except _Unusable as unusable:
            reason, fix = unusable.args
            return Field(name="", kind="union", optional=True, doc=doc, why=f"{self._file}{at} {reason}: {fix}")

    def _array(self, raw: dict[str, Any], root: dict[str, Any], at: str) -> dict[str, Any]:
        each = raw.get("prefixItems", raw.get("items"))
        least, most = raw.get("minItems"), raw.get("maxItems")
        if isinstance(each, list) and each:
            types = [self.type(one, root, f"{at}/items/{place}") for place, one in enumerate(each)]
            if not self._alike(types):
                raise _Unusable("has items of several types", 'declare "items" as one schema, or an object')
            made, least, most = types[0], least if least is not None else 0, most if most is not None else len(each)
        elif each is None or isinstance(each, list):
            raise _Unusable("is an array without items", 'declare "items"')
        else:
            made = self.type(each, root, f"{at}/items")
        items = Field(name="items", **made)
        size = most if type(most) is int and most == least and most > 0 else None
        if math.prod(axis or 1 for axis in (size, *items.shape)) > MAX_ITEMS:
            raise _Unusable(f"is an array of more than {MAX_ITEMS:,} items", "write smaller bounds")
        return {"kind": "array", "items": items, "size": size}

    def _choice(self, branches: list[Any], root: dict[str, Any], at: str) -> dict[str, Any]:
        """Returns the type that all branches have; a branch of null makes it optional."""
        types = [self.type(one, root, f"{at}/{place}") for place, one in enumerate(branches) if not _is_null(one)]
        optional = len(types) < len(branches) or any(one.get("optional") for one in types)
        kinds = {one["kind"] for one in types}
        if kinds == {"enum"}:
            types = [{"kind": "enum", "symbols": tuple(dict.fromkeys(symbol for one in types for symbol in one["symbols"]))}]
        elif kinds == {"long", "double"}:
            types = [{"kind": "double"}]
        types = [{**one, "optional": optional} for one in types]
        if not types or not self._alike(types):
            raise _Unusable("is one of several types", 'declare one, or one and {"type": "null"}')
        return types[0]

    def _alike(self, types: list[dict[str, Any]]) -> bool:
        inside = Field(name="", **types[0])
        self._spend(len(types) * (1 + few((inside.values or innermost(inside)).fields, self._file, self._weights)))
        return all(one == types[0] for one in types)

    def _merged(self, raw: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
        """Returns a schema that says what all parts of an `allOf` say about types. Raises _Unusable."""
        own, listed = _without(raw, "allOf"), raw["allOf"]
        parts = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
        if len(parts) == 1 and not _TYPED & {*own}:
            return parts[0]
        found = [own, *(self._part(one, root) for one in parts)]
        whole = {key: value for part in reversed(found) for key, value in part.items()}
        properties = [one for part in found if isinstance(one := part.get("properties"), dict)]
        self._spend(sum(map(len, (*found, *properties))))
        whole["properties"] = {name: one for part in properties for name, one in part.items()}
        whole["required"] = list(dict.fromkeys(name for part in found for name in _texts(part.get("required"))))
        self._spend(len(whole["required"]))
        return whole

    def _part(self, part: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
        """Returns a part of an `allOf` in full."""
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise _Unusable(f'has an "allOf" of more than {MAX_PARTS} parts', "write their properties into one")
        if "allOf" in part:
            part = self._merged(part, root)
        if "$ref" in part:
            target, around = self._found(part["$ref"], root)
            if around is not root or not isinstance(target, dict):
                raise _Unusable("joins schemas of several files", "write their properties into one")
            return self._part(target, root)
        return part

    def _referred(self, raw: dict[str, Any], root: dict[str, Any], at: str) -> dict[str, Any]:
        reference = str(raw["$ref"])
        target, around = self._found(reference, root)
        found = self._known.get(id(target))
        if found is None:
            self._known[id(target)] = {"kind": "record"}  # until it is read, it is inside itself
            try:
                found = self.type(target, around, reference if reference.startswith("#/") else at)
            except _Unusable as unusable:
                found = unusable
            self._known[id(target)] = found
        if isinstance(found, _Unusable):
            raise _Unusable(*found.args)
        return found

    def _found(self, reference: Any, root: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Returns the schema that a `$ref` leads to, and the schema around that. Raises _Unusable."""
        name, _, fragment = str(reference).partition("#")
        if name:
            found = self._inside.get(name) or self._inside.get(urljoin(str(root.get("$id", "")), name))
            if found is None:
                raise _Unusable(f"refers to {name}, which is not in this file", 'put it under "$defs"')
            root = found
        if fragment and not fragment.startswith("/"):
            if (anchored := self._anchors(root).get(fragment)) is None:
                raise _Unusable(f"refers to {reference}, which is not in this file", 'put it under "$defs"')
            return anchored, root
        target: Any = root
        for step in unquote(fragment).split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            if isinstance(target, dict) and step in target:
                target = target[step]
            elif isinstance(target, list) and step.isdecimal() and int(step) < len(target):
                target = target[int(step)]
            else:
                raise _Unusable(f"refers to {reference}, which is not in this file", 'put it under "$defs"')
        return target, root

    def _anchors(self, root: dict[str, Any]) -> dict[str, dict[str, Any]]:
        if id(root) not in self._anchored:
            found = self._anchored[id(root)] = {}
            for one in _shared(root):
                for anchor in (one.get("$anchor"), one.get("$id")):
                    if isinstance(anchor, str):
                        found.setdefault(anchor.removeprefix("#"), one)
        return self._anchored[id(root)]


def _shared(raw: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the schemas that a file shares with others, or with itself."""
    for key in _SHARED:
        if isinstance(shared := raw.get(key), dict):
            yield from (one for one in shared.values() if isinstance(one, dict))


def _without(raw: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in raw.items() if key not in keys}


def _texts(listed: Any) -> list[str]:
    return [one for one in listed if isinstance(one, str)] if isinstance(listed, list) else []


def _shapes(branch: Any) -> bool:
    return not isinstance(branch, dict) or bool(_SHAPING & {*branch})


def _is_null(raw: Any) -> bool:
    return isinstance(raw, dict) and (raw.get("type") in ("null", ["null"]) or raw.get("const", "") is None or raw.get("enum") == [None])


def _listed(values: list[Any]) -> dict[str, Any]:
    """Returns the type of listed values: of texts an enum, of others what they are."""
    optional = None in values
    kinds = {_OF_PYTHON.get(type(value), "") for value in values if value is not None}
    if kinds == {"string"}:
        symbols = tuple(dict.fromkeys(value for value in values if value is not None))
        if any(NO_UNICODE.search(symbol) for symbol in symbols):
            raise _Unusable("lists a text that is not Unicode", "remove it")
        return {"kind": "enum", "symbols": symbols, "optional": optional}
    if kinds == {"integer", "number"}:
        kinds = {"number"}
    if len(kinds) != 1 or not kinds <= {*_KINDS}:
        raise _Unusable("lists values of several types", "list texts, or numbers")
    return {"kind": _KINDS[kinds.pop()], "optional": optional}


def _default(field: Field) -> Any:
    """Returns the default as events hold it; that of a date becomes a timestamp. Raises _Unusable when it is no value of the field."""
    default = field.default
    if (coerce := coercion(field, (), frozenset())) is not None and field.dated:
        try:
            default = coerce(default)
        except (ValueError, ArithmeticError, TypeError):
            default = None
    if default is None or not fits(field, default):
        raise _Unusable(f"has the default {field.default!r}, which is not of its type", "give it one that is")
    return default
