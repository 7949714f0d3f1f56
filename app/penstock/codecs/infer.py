"""Proposes a schema from sample events. The result must be edited, because a sample does not show every value of a field."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from penstock.codecs.json_schema import MAX_ITEMS
from penstock.codecs.names import NAME, NO_ALIAS, free, plain
from penstock.errors import SchemaError

__all__ = ["infer"]

_MOST: Final = 1_000  # fields; an object with more names than this has keys, not fields
_LIST: Final = "[]"
_DEEPEST: Final = 32
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}|$)")
_STAMP: Final = '{"type": "long", "logicalType": "timestamp-millis"}'
_SIMPLE: Final = {frozenset({bool}): "boolean", frozenset({str}): "string"}
_LARGEST: Final = sys.float_info.max


def infer(events: Iterable[Any], name: str) -> tuple[dict[str, Any], list[str]]:
    """Returns an Avro record schema that all the events (parsed JSON objects) fit, and notes: what is left out, and texts that are dates.

    Objects become records, and names that are no Avro names become aliases. A field that is null or absent in some event is optional, with
    null as its default; numbers are `long` or `double`; an array that always has the same length has that `size`. Left out are fields
    without a value and those with values of several types. Raises SchemaError when there is no event, or none of its fields is left.
    """
    if not NAME.fullmatch(name):
        raise SchemaError(f"{name!r} is not an Avro name: use letters, digits and _, and do not begin with a digit")
    found: list[Mapping[str, Any]] = []
    for number, event in enumerate(events, 1):
        if not isinstance(event, Mapping):
            raise SchemaError(f"event {number} is not a JSON object")
        found.append(event)
    notes: list[str] = []
    proposed = _Draft(notes).record(found, name, "")
    if not proposed["fields"]:
        raise SchemaError("; ".join(["there are no events to infer fields from" if not found else "no field can be used", *notes]))
    return proposed, notes


class _Draft:
    """The record schemas of one draft; `notes` collects what is left out."""

    def __init__(self, notes: list[str]) -> None:
        self._notes = notes
        self._types: set[str] = set()
        self._numbers: dict[str, int] = {}

    def record(self, objects: Sequence[Mapping[str, Any]], name: str, at: str) -> dict[str, Any]:
        seen: dict[str, list[Any]] = {}
        for each in objects:
            for key, value in each.items():
                seen.setdefault(key, []).append(value)
        name = free(name, self._types, self._numbers)
        self._types.add(name)
        record: dict[str, Any] = {"type": "record", "name": name, "fields": []}
        names: set[str] = {key for key in seen if NAME.fullmatch(key)}
        numbers: dict[str, int] = {}
        for key, values in seen.items():
            if not key or NO_ALIAS.search(key):
                self._left_out(f"{at}{key}", "has a name that no schema can have: empty, or with a quote, backslash or control character")
                continue
            avro = self._type(f"{at}{key}", _title(key), values)
            if avro is None:
                continue
            named: dict[str, Any] = {"name": key}
            if not NAME.fullmatch(key):
                named = {"name": free(plain(key), names, numbers), "aliases": [key]}
                names.add(named["name"])
            always = len(values) == len(objects) and None not in values
            record["fields"].append({**named, "type": avro} if always else {**named, "type": ["null", avro], "default": None})
        return record

    def _type(self, path: str, name: str, values: Sequence[Any]) -> Any:
        """Returns the type of all the values; None, with a note, when there is no such type."""
        if path.count(".") + path.count(_LIST) > _DEEPEST:
            return self._left_out(path, f"is nested more than {_DEEPEST} levels deep")
        present = [value for value in values if value is not None]
        kinds = frozenset(type(value) for value in present)
        if not present:
            return self._left_out(path, "is null in every event")
        if kinds == {str} and all(_DATE.match(value) for value in present):
            self._notes.append(f"{path!r} has dates: for an event time, declare {_STAMP} and coerce: [dates] at the source")
        if kinds in _SIMPLE:
            return _SIMPLE[kinds]
        if kinds <= {int, float}:
            return self._number(path, present)
        if kinds == {dict}:
            return self._object(path, name, present)
        if kinds == {list}:
            return self._array(path, name, present)
        return self._left_out(path, f"has values of the types {' and '.join(sorted(map(_kind, kinds)))}")

    def _number(self, path: str, numbers: Sequence[Any]) -> Any:
        if all(type(number) is int and -(2**63) <= number < 2**63 for number in numbers):
            return "long"
        return "double" if all(abs(number) <= _LARGEST for number in numbers) else self._left_out(path, "has a number that no double holds")

    def _object(self, path: str, name: str, objects: Sequence[Mapping[str, Any]]) -> Any:
        if len({key for each in objects for key in each}) > _MOST:
            return self._left_out(path, f"has more than {_MOST:,} names: declare it as a map, if its values are of one type")
        record = self.record(objects, name, f"{path}.")
        return record if record["fields"] else self._left_out(path, "has no field that can be used")

    def _array(self, path: str, name: str, arrays: Sequence[list[Any]]) -> Any:
        items = [item for array in arrays for item in array]
        if not items:
            return self._left_out(path, "is empty in every event")
        inner = self._type(f"{path}{_LIST}", name, items)
        if inner is None:
            return None
        sizes = {len(array) for array in arrays}
        optional = None in items
        sized = {"size": sizes.pop()} if len(sizes) == 1 and max(sizes) <= MAX_ITEMS else {}
        return {"type": "array", "items": ["null", inner] if optional else inner, **sized}

    def _left_out(self, path: str, why: str) -> None:
        self._notes.append(f"left out: {path!r} {why}")


def _kind(kind: type) -> str:
    return {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}.get(kind, kind.__name__)


def _title(name: str) -> str:
    title = "".join(part[:1].upper() + part[1:] for part in plain(name).split("_")) or "Record"
    return f"_{title}" if title[0].isdigit() else title
