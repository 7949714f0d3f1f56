"""References of a registered schema, so that one file holds the whole schema: in Avro, what it refers to is put in its place; a JSON Schema
carries it among its definitions, by the name that it uses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

__all__ = ["MOST", "bundle", "definitions", "inline"]

MOST: Final = 64  # schemas that one refers to, directly or not
_NAMED: Final = ("record", "error", "enum", "fixed")
_PRIMITIVES: Final = frozenset(("null", "boolean", "int", "long", "float", "double", "bytes", "string"))


def inline(schema: Any, referred: Mapping[str, Any]) -> Any:
    """Returns the schema (parsed JSON) with each name that it does not define replaced, where it is used first, by its definition.

    `referred` are the definitions by full name. Raises ValueError for a schema that is no Avro.
    """
    try:
        return _Inlined(referred).type(schema, "")
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not Avro: {error!r}") from None


def bundle(schema: Any, referred: Mapping[str, Any]) -> Any:
    """Returns the JSON Schema with those that it refers to, which are by the names of its references. Raises ValueError."""
    if not isinstance(schema, dict) or not all(isinstance(one, dict) for one in referred.values()):
        raise ValueError("not a JSON Schema")
    key = "definitions" if "definitions" in schema and "$defs" not in schema else "$defs"
    if not isinstance(own := schema.get(key) or {}, dict):
        raise ValueError(f"{key} is no object")
    return {**schema, key: {**own, **{name: {**one, "$id": name} for name, one in referred.items()}}}


def definitions(schema: Any) -> Iterator[tuple[str, Any]]:
    """Yields the full name and the definition of the schema, if it is a named type, or of each branch of a union."""
    for one in schema if isinstance(schema, list) else [schema]:
        if isinstance(one, dict) and one.get("type") in _NAMED and isinstance(one.get("name"), str):
            yield _full(one, ""), one


class _Inlined:
    """One walk over a schema. `space` is the namespace in which a name is used."""

    def __init__(self, referred: Mapping[str, Any]) -> None:
        self._referred = referred
        self._defined: set[str] = set()

    def type(self, part: Any, space: str) -> Any:
        if isinstance(part, str):
            return self.name(part, space)
        if isinstance(part, list):
            return [self.type(one, space) for one in part]
        kind = part["type"]
        if kind in _NAMED:
            return self.named(part, space)
        inside = {"array": "items", "map": "values"}.get(kind, "type") if isinstance(kind, str) else "type"
        return {**part, inside: self.type(part[inside], space)}

    def named(self, part: Mapping[str, Any], space: str) -> Any:
        full = _full(part, space)
        self._defined.add(full)
        if "fields" not in part:
            return part
        inner = full.rpartition(".")[0]
        return {**part, "fields": [{**field, "type": self.type(field["type"], inner)} for field in part["fields"]]}

    def name(self, text: str, space: str) -> Any:
        full = text if "." in text or not space else f"{space}.{text}"
        if text in _PRIMITIVES or full in self._defined or full not in self._referred:
            return text
        # With its full name it means the same inside another namespace.
        definition = {key: value for key, value in self._referred[full].items() if key != "namespace"}
        return self.named({**definition, "name": full}, "")


def _full(named: Mapping[str, Any], space: str) -> str:
    text = str(named["name"])
    return text if "." in text else f"{own}.{text}" if (own := named.get("namespace", space)) else text
