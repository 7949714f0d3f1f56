"""JSON Schema files: what each type becomes, what is left out until it is read, and topologies over such events."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock.codecs import decoder, load_schema
from penstock.errors import SchemaError, TopologyError
from penstock.registry.directory import DirectoryRegistry
from penstock.schema import REQUIRED, Column, Field, Missing, Schema
from penstock.testing import models
from penstock.testing.driver import TopologyDriver

DRAFT_7, DRAFT_2020 = "http://json-schema.org/draft-07/schema#", "https://json-schema.org/draft/2020-12/schema"
LINE = {"type": "object", "properties": {"price": {"type": "number"}, "next": {"$ref": "#/definitions/Line"}}, "required": ["price"]}

Write = Callable[..., Schema]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Loads an object with these properties."""

    def written(properties: dict[str, Any], required: Any = (), **more: Any) -> Schema:
        file = tmp_path / "order.schema.json"
        file.write_text(json.dumps({"$schema": DRAFT_7, "type": "object", "properties": properties, "required": [*required], **more}))
        return load_schema(file)

    return written


def field(schema: Schema, path: str) -> Field:
    found = schema.field(path)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("declared", "kind", "dtype", "shape", "null"),
    [
        ({"type": "boolean"}, "boolean", "bool", (), False),
        ({"type": "integer"}, "long", "int64", (), False),
        ({"type": "number"}, "double", "float64", (), False),
        ({"type": ["integer", "number"]}, "double", "float64", (), False),
        ({"type": "string"}, "string", "string", (), False),
        ({"type": ["string", "null"]}, "string", "string", (), True),
        ({"type": "string", "format": "uuid"}, "string", "string", (), False),
        ({"type": "string", "format": "date-time"}, "timestamp", "int64", (), False),
        ({"enum": ["in-transit", "lost", None]}, "enum", "string", (), True),
        ({"enum": [1, 2]}, "long", "int64", (), False),
        ({"const": "x"}, "enum", "string", (), False),
        ({"oneOf": [{"const": "a", "title": "A"}, {"const": "b"}]}, "enum", "string", (), False),
        ({"oneOf": [{"type": "null", "title": "Not included"}, {"$ref": "#/definitions/Text"}]}, "string", "string", (), True),
        ({"anyOf": [{"type": "number"}, {"type": "null"}]}, "double", "float64", (), True),
        ({"allOf": [{"$ref": "#/definitions/Text"}], "description": "d"}, "string", "string", (), False),
        ({"$ref": "#text"}, "string", "string", (), False),
        ({"$ref": "https://example.org/text"}, "string", "string", (), False),
        ({"type": "array", "items": {"type": "number"}}, "array", "float64", (None,), False),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 3}, "array", "int64", (3,), False),
        ({"type": "array", "items": [{"type": "number"}] * 2, "minItems": 2}, "array", "float64", (2,), False),
        ({"type": "array", "prefixItems": [{"type": "number"}] * 2, "items": False, "minItems": 2}, "array", "float64", (2,), False),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "map", "", (), False),
        ({"properties": {"a": {"type": "string"}}}, "record", "", (), False),
        ({"allOf": [{"$ref": "#/definitions/Line"}, {"properties": {"sku": {"type": "string"}}}]}, "record", "", (), False),
    ],
)
def test_type_becomes_kind_dtype_and_shape(write: Write, declared: Any, kind: str, dtype: str, shape: Any, null: bool) -> None:
    shared = {"Text": {"type": "string", "$anchor": "text", "$id": "https://example.org/text"}, "Line": LINE}
    found = field(write({"x": declared}, ["x"], definitions=shared), "x")
    assert (found.kind, found.dtype, found.shape, found.optional, found.default) == (kind, dtype, shape, null, REQUIRED)


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        ({}, "allows any value"),
        (True, "allows any value"),
        ({"type": ["string", "integer"]}, "has several types"),
        ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, "is one of several types"),
        ({"description": "nothing else"}, "has no type"),
        ({"type": "object"}, "is an object without properties"),
        ({"type": "array"}, "is an array without items"),
        ({"type": "array", "items": [{"type": "string"}, {"type": "number"}]}, "has items of several types"),
        ({"enum": ["a", 1]}, "lists values of several types"),
        ({"$ref": "other.json"}, "refers to other.json, which is not in this file"),
        ({"$ref": "#/definitions/None"}, "refers to #/definitions/None, which is not in this file"),
        ({"type": "integer", "default": "many"}, "has the default 'many', which is not of its type"),
    ],
)
def test_what_is_no_type_is_left_out_until_it_is_read(write: Write, declared: Any, reason: str, tmp_path: Path) -> None:
    """The events may hold anything there; the error of a topology that reads it has the file, the place in it, why, and what to do."""
    schema = write({"x": {"type": "number"}, "odd~/": declared}, ["x"])
    odd = field(schema, "odd")
    assert (odd.kind, odd.dtype) == ("union", "")
    assert odd.why.startswith(f"{tmp_path}/order.schema.json#/properties/odd~0~1 {reason}: ")
    batch = decoder("json", schema, [Column("x", "x", "float64")]).decode([b'{"x": 1}', b'{"x": 2, "odd~/": [{}]}'])
    assert (batch.columns["x"].tolist(), batch.failures) == ([1, 2], ())


def test_absent_and_default_and_null(write: Write) -> None:
    schema = write({"a": {"type": "number"}, "b": {"type": "number", "default": 7}, "c": {"type": ["number", "null"]}}, ["c"])
    columns = [Column(name, name, "float64", missing=Missing("fill", -1.0)) for name in "abc"]
    batch = decoder("json", schema, columns).decode([b'{"c": 1}', b'{"a": 1, "b": 2, "c": null}', b'{"a": 1}'])
    assert [batch.columns[name].tolist() for name in "abc"] == [[-1, 1], [7, 2], [1, -1]]
    assert ["missing required field `c`" in str(one.error) for one in batch.failures] == [True]


def test_date_is_a_timestamp(write: Write) -> None:
    at = {"type": "string", "format": "date-time", "default": "1970-01-01T00:00:02Z"}
    schema = write({"at": at, "on": {"type": "string", "format": "date"}}, ["on"])
    batch = decoder("json", schema, [Column("at", "at", "int64"), Column("on", "on", "int64")]).decode(
        [b'{"at": "1970-01-01T00:00:01+00:00", "on": "1970-01-02"}', b'{"on": "1970-01-01"}', b'{"on": "soon"}']
    )
    assert (batch.columns["at"].tolist(), batch.columns["on"].tolist()) == ([1000, 2000], [86_400_000, 0])
    assert "'soon' is not a date of ISO 8601" in str(batch.failures[0].error)


def test_names_that_no_topology_can_have_are_aliases(write: Write) -> None:
    schema = write(
        {"@at": {"type": "integer"}, "at": {"type": "integer"}, "a b": {"type": "object", "properties": {"x-y": {"type": "integer"}}}}
    )
    batch = decoder("json", schema, [Column("v", "a_b.x_y", "int64"), Column("w", "at2", "int64")]).decode(
        [b'{"@at": 3, "a b": {"x-y": 2}}']
    )
    assert (batch.columns["v"].tolist(), batch.columns["w"].tolist()) == ([2], [3])


def test_schema_inside_itself_is_read_one_level_deep(write: Write) -> None:
    schema = write({"line": {"$ref": "#/definitions/Line"}, "me": {"$ref": "#"}}, definitions={"Line": LINE})
    assert field(schema, "line.price").kind == "double"
    assert (field(schema, "line.next").fields, field(schema, "me").fields) == ((), ())


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ({"$schema": DRAFT_2020, "type": "string"}, "describes no object with properties"),
        ({"$schema": DRAFT_2020, "$ref": "#/$defs/Gone"}, r"refers to #/\$defs/Gone, which is not in this file"),
        ({"type": "object"}, "is an object without properties"),
        ({"allOf": [{"$ref": "#"}]}, "nested too deeply|of more than 1000 parts|describes no object"),
    ],
)
def test_file_without_an_object_is_refused(tmp_path: Path, raw: Any, reason: str) -> None:
    (tmp_path / "bad.schema.json").write_text(json.dumps(raw))
    with pytest.raises(SchemaError, match=reason):
        load_schema(tmp_path / "bad.schema.json")


def twice(name: str, depth: int) -> dict[str, Any]:
    """Definitions of which each has the next one twice."""
    refs = [{"$ref": f"#/$defs/{name}{at}"} for at in range(1, depth + 1)]
    made = {f"{name}{at}": {"type": "object", "properties": {"x": ref, "y": ref}} for at, ref in enumerate(refs)}
    return {**made, f"{name}{depth}": TEXT}


def choices(depth: int) -> dict[str, Any]:
    return {"anyOf": [{"format": "x"}] * 2, "oneOf": [choices(depth - 1) if depth else TEXT]}


TEXT = {"type": "string"}


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ({"properties": {"a": choices(40)}}, "it takes more than 1,000,000 steps to read"),
        (
            {
                "properties": {"v": {"anyOf": [{"$ref": "#/$defs/a0"}, {"$ref": "#/$defs/b0"}]}},
                "$defs": {**twice("a", 40), **twice("b", 40)},
            },
            "more than 100,000 fields",
        ),
        (
            {"properties": {"a": {"anyOf": [{"format": "x"}] * 20_000, **{f"x{at}": 0 for at in range(20_000)}}}},
            "it takes more than 1,000,000 steps to read",
        ),
        ({"properties": {"a": {"$ref": "b"}, "b": {"$ref": "//[c"}}, "$id": "http://[x"}, "a reference cannot be followed"),
    ],
)
def test_what_multiplies_is_refused(tmp_path: Path, raw: Any, reason: str) -> None:
    """Without limits each of them takes more than a life."""
    (tmp_path / "a.schema.json").write_text(json.dumps({"$schema": "x", **raw}))
    with pytest.raises(SchemaError, match=reason):
        load_schema(tmp_path / "a.schema.json")


def test_names_that_resemble_each_other_are_numbered(write: Write) -> None:
    made = write({"é": TEXT, "field2": TEXT, "ü": TEXT, "ö": TEXT}, required=["ö"])
    assert [(field.name, field.default is REQUIRED) for field in made.fields] == [
        ("field", False),
        ("field2", False),
        ("field3", False),
        ("field4", True),
    ]


@pytest.mark.parametrize("key", ["anyOf", "oneOf"])
def test_choice_that_only_restricts_changes_no_type(write: Write, key: str) -> None:
    """Which of the properties have to be there is as little checked as their ranges."""
    choice: list[Any] = [{"required": ["a"]}, {"required": ["b"], "not": {"required": ["a"]}}, {"minProperties": 2}]
    plain = write({"a": TEXT, "b": {"type": "number"}})
    assert write({"a": TEXT, "b": {"type": "number"}}, **{key: choice}).fields == plain.fields
    assert write({"a": TEXT, "b": {"type": "number"}}, allOf=[{key: choice}, {"minProperties": 1}]).fields == plain.fields
    assert field(write({"a": {"type": "string", key: [{"format": "date"}, {"format": "date-time"}]}}), "a").kind == "timestamp"
    assert field(write({"a": {"type": "number", key: [{"minimum": 7}, {"maximum": 3}]}}), "a").kind == "double"


def test_malformed_keyword_costs_its_property_alone(write: Write) -> None:
    declared = {
        "a": {"type": [{"type": "string"}]},
        "b": {"allOf": [{"properties": {"x": TEXT}, "required": True}, {"properties": [1]}, {"properties": {"y": TEXT}}]},
        "c": {"$ref": 5},
        "d": TEXT,
    }
    made = write(declared, **{"$defs": {"five": {"$id": "5", **TEXT}}})
    assert {field.name: field.kind for field in made.fields} == {"a": "union", "b": "record", "c": "string", "d": "string"}
    assert [field.name for field in made.fields[1].fields] == ["x", "y"]


def test_parts_that_multiply_end(write: Write) -> None:
    """Each definition joins the one before it twice: 2^40 parts."""
    shared = {f"d{i}": {"allOf": [{"$ref": f"#/definitions/d{i - 1}"}] * 2} for i in range(1, 40)} | {"d0": LINE}
    assert "of more than 1000 parts" in field(write({"x": {"$ref": "#/definitions/d39"}}, definitions=shared), "x").why


# -- topologies ------------------------------------------------------------------------------------------------------

ORDER = {
    "$schema": DRAFT_2020,
    "title": "Order",
    "$ref": "#/$defs/Order",
    "$defs": {
        "Order": {
            "type": "object",
            "required": ["id", "item"],
            "properties": {
                "id": {"type": "string"},
                "item": {"type": "integer"},
                "mixed": {"type": ["string", "integer"]},
                "at": {"type": "string", "format": "date-time"},
            },
        }
    },
}
PRICE = {
    "$schema": DRAFT_2020,
    "type": "object",
    "required": ["id", "price"],
    "properties": {
        "id": {"type": "string"},
        "price": {"type": "number"},
        "note": {"type": "string"},
        "at": {"type": "string", "format": "date-time"},
        "a-b": {"type": "string"},
    },
}
TOPOLOGY = """\
topology: shop
sources: {{orders: {{topic: orders, format: {source}, schema: order.schema.json, id: id, time: at}}}}
nodes: {{price: {{kind: model, model: table@1, inputs: {{x: {x}}}}}}}
sinks: {{prices: {{topic: prices, format: {sink}, schema: price.schema.json, fields: {{{fields}}}}}}}
"""


@pytest.fixture
def shop(tmp_path: Path) -> Callable[..., TopologyDriver]:
    folder = tmp_path / "schemas"
    (folder / "ids").mkdir(parents=True)
    (folder / "order.schema.json").write_text(json.dumps(ORDER))
    (folder / "price.schema.json").write_text(json.dumps(PRICE))
    (folder / "ids/9.schema.json").write_text(json.dumps(PRICE, indent=1))
    DirectoryRegistry(tmp_path / "models").publish("table", models.gather([10, 20, 30]))

    def made(**parts: str) -> TopologyDriver:
        text = {"source": "json", "sink": "json", "x": "item", "fields": "id: id, price: price"} | parts
        (tmp_path / "shop.yaml").write_text(TOPOLOGY.format(**text))
        return TopologyDriver(tmp_path / "shop.yaml", models=tmp_path / "models", schemas=folder)

    return made


@pytest.mark.parametrize("source", ["json", "json-confluent"])
@pytest.mark.parametrize("sink", ["json", "json-confluent"])
def test_events_are_scored_and_answers_written(shop: Callable[..., TopologyDriver], source: str, sink: str) -> None:
    driver = shop(source=source, sink=sink)
    driver.send("orders", {"id": "a", "item": 1, "mixed": 7, "at": "2026-11-30T10:00:00Z"})
    (record,) = driver.records("prices")
    frame = b"\0\0\0\0\x09" if sink == "json-confluent" else b""
    assert record.value == frame + b'{"id":"a","price":20.0}'
    assert driver.events("prices") == [{"id": "a", "price": 20.0}]


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"x": "mixed"}, r"order.schema.json#/\$defs/Order/properties/mixed has several types: give it one"),
        ({"x": "mixed.inner"}, r"order.schema.json#/\$defs/Order/properties/mixed has several types: give it one"),
        ({"fields": "id: id"}, "requires 'price', which the sink does not write"),
        ({"fields": "id: id, price: price, at: id, a_b: id"}, "calls it 'a-b', and a sink writes names of letters, digits and _"),
        ({"fields": "id: id, price: price, at: at"}, r"a date as text \(a date is written from text alone: declare an integer in"),
        ({"fields": "id: id, price: price, other: id"}, "has no field 'other'"),
        ({"source": "avro"}, "sources.orders: order.schema.json is a JSON Schema, and avro needs Avro"),
        ({"sink": "avro-confluent"}, "sinks.prices: price.schema.json is a JSON Schema, and avro-confluent needs Avro"),
    ],
)
def test_what_does_not_fit_is_refused_at_start(shop: Callable[..., TopologyDriver], parts: dict[str, str], reason: str) -> None:
    with pytest.raises(TopologyError, match=reason):
        shop(**parts)


def test_null_is_not_written_where_the_schema_forbids_it(shop: Callable[..., TopologyDriver], tmp_path: Path) -> None:
    order = json.loads(json.dumps(ORDER))
    order["$defs"]["Order"]["properties"]["mixed"] = {"type": "string"}
    (tmp_path / "schemas/order.schema.json").write_text(json.dumps(order))
    with pytest.raises(TopologyError, match="the field 'mixed' may be null, in the sink's schema it may not"):
        shop(fields="id: id, price: price, note: mixed")


def test_sink_without_an_id_names_what_to_do(shop: Callable[..., TopologyDriver], tmp_path: Path) -> None:
    (tmp_path / "schemas/ids/9.schema.json").write_text("{}")
    with pytest.raises(TopologyError, match=r"copy it there under its id: 17.schema.json, or set schema_registry_url"):
        shop(sink="json-confluent")


def test_sink_in_json_confluent_is_no_avro(shop: Callable[..., TopologyDriver], tmp_path: Path) -> None:
    avro = {"type": "record", "name": "P", "fields": [{"name": "id", "type": "string"}, {"name": "price", "type": "double"}]}
    (tmp_path / "schemas/price.schema.json").write_text(json.dumps(avro))
    (tmp_path / "schemas/ids/9.avsc").write_text(json.dumps(avro))
    with pytest.raises(TopologyError, match="is Avro, and readers of json-confluent expect a JSON Schema"):
        shop(sink="json-confluent")
