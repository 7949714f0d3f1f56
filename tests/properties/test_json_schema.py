"""A JSON Schema as fields: what its own validator takes is decoded to the same values, and no file raises anything but SchemaError."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import jsonschema
from hypothesis import given
from hypothesis import strategies as st

from penstock.codecs import decoder, load_schema
from penstock.errors import SchemaError
from penstock.schema import Column, Missing

INTEGERS = st.integers(-(2**63), 2**63 - 1)
NUMBERS = st.floats(-1e300, 1e300)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)


def _of(kind: str, schema: Any, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.tuples(st.just(kind), st.just(schema), values.map(lambda one: [one]))


LEAVES = st.one_of(
    _of("int64", {"type": "integer"}, INTEGERS),
    _of("float64", {"type": "number"}, NUMBERS),
    _of("bool", {"type": "boolean"}, st.booleans()),
    _of("string", {"type": "string"}, TEXTS),
    _of("string", {"enum": ["a-b", "c"]}, st.sampled_from(["a-b", "c"])),
    _of("string", {"oneOf": [{"type": "null"}, {"$ref": "#/definitions/Text"}]}, TEXTS | st.none()),
    _of("float64", {"type": ["null", "number"]}, NUMBERS | st.none()),
)


def _inside(schema: Any, steps: list[str]) -> Any:
    for step in reversed(steps):
        schema = {"type": "object", "properties": {step: schema}}
    return schema


@given(LEAVES, st.lists(st.sampled_from(["a", "b", "c"]), max_size=3), st.sampled_from(["plain", "allOf", "ref"]), st.booleans())
def test_valid_event_is_decoded(leaf: Any, steps: list[str], how: str, present: bool) -> None:
    dtype, declared, [value] = leaf
    shared = {"Text": {"type": "string"}, "Leaf": declared}
    given = {"plain": declared, "allOf": {"allOf": [declared], "title": "t"}, "ref": {"$ref": "#/definitions/Leaf"}}[how]
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", **_inside(given, ["x", *steps]), "definitions": shared}
    event: Any = value
    for step in reversed(["x", *steps]):
        event = {step: event}
    event = event if present else {}
    jsonschema.validate(event, schema)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "e.schema.json"
        file.write_text(json.dumps(schema))
        loaded = load_schema(file)
    column = Column("v", ".".join(["x", *steps]), dtype, missing=Missing("fill", None))
    batch = decoder("json", loaded, [column]).decode([json.dumps(event).encode()])
    assert not batch.failures
    assert batch.columns["v"].tolist() == [value if present else None]


KEYWORDS = (
    *("type", "properties", "items", "prefixItems", "required", "$ref", "anyOf", "oneOf", "allOf", "enum", "const", "default"),
    *("$defs", "$id", "minItems", "maxItems", "format", "additionalProperties", "title"),
)
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=3),
    st.sampled_from(["object", "array", "string", "integer", "null", "#", "#/$defs/x", "#/properties/a", "#x", "x", "date-time"]),
)  # fmt: skip
ANY = st.recursive(
    VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*KEYWORDS, "a", "x", "-"]), inner, max_size=4),
    max_leaves=25,
)


@given(st.dictionaries(st.sampled_from(KEYWORDS), ANY, max_size=6))
def test_no_file_raises_anything_but_schema_error(raw: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "e.schema.json"
        file.write_text(json.dumps({"$schema": "x", **raw}))
        with contextlib.suppress(SchemaError):
            loaded = load_schema(file)
            decoder("json", loaded, []).decode([b"{}", b'{"a": 1}', b'{"x": {"a": [null]}}'])
