"""Proposes a schema from sample events. The result must be edited, because a sample does not show every value of a field."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from penstock.errors import SchemaError

__all__ = ["infer"]

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def infer(events: Iterable[Any], name: str) -> dict[str, Any]:
    """Returns an Avro record schema that all the events (parsed JSON objects) fit. Raises SchemaError when no schema fits.

    A field that is null or absent in some event is optional, with null as its default; numbers are `long` or `double`;
    an array that always has the same length has that `size`.
    """
    seen: dict[str, list[Any]] = {}
    count = 0
    for event in events:
        count += 1
        if not isinstance(event, Mapping):
            raise SchemaError(f"event {count} is not a JSON object")
        for field, value in event.items():
            seen.setdefault(field, []).append(value)
    if not seen:
        raise SchemaError("there are no events to infer fields from")
    return {"type": "record", "name": name, "fields": [_field(field, values, count) for field, values in seen.items()]}


def _field(name: str, values: list[Any], count: int) -> dict[str, Any]:
    if not _NAME.fullmatch(name):
        raise SchemaError(f"field {name!r}: not an Avro name; rename it in the events (letters, digits and _)")
    present = [value for value in values if value is not None]
    if not present:
        raise SchemaError(f"field {name!r} is null in every event; give more events, or drop it")
    avro = _type(name, present)
    if len(present) == count:
        return {"name": name, "type": avro}
    return {"name": name, "type": ["null", avro], "default": None}


def _type(name: str, values: list[Any]) -> Any:
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return "boolean"
    if kinds == {int}:
        return "long"
    if kinds <= {int, float}:
        return "double"
    if kinds == {str}:
        return "string"
    if kinds == {list} and (items := [item for value in values for item in value]):
        sizes = {len(value) for value in values}
        return {"type": "array", "items": _type(name, items), **({"size": sizes.pop()} if len(sizes) == 1 else {})}
    if kinds == {dict}:
        raise SchemaError(f"field {name!r} is an object, which feeds no tensor; drop it, or flatten it")
    raise SchemaError(f"field {name!r} has values of the types {' and '.join(sorted(kind.__name__ for kind in kinds))}; use one type")
