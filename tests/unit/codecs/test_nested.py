"""Fields inside others, fields of several names, and enums with a default: JSON and Avro read them alike, and as the Avro library does."""

from __future__ import annotations

import io
import json
from typing import Any, ClassVar

import fastavro
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.batch import Table
from penstock.codecs import Writers, decoder, event_writer, load_schema
from penstock.codecs.avro import AvroDecoder
from penstock.codecs.table import TableDecoder
from penstock.errors import SchemaError
from penstock.schema import Column, Missing, Schema
from tests.unit.codecs.conftest import MakeSchema

NAN = Missing("fill", float("nan"))
ITEM = {"type": "record", "name": "Item", "fields": [{"name": "price", "type": "double"}, {"name": "sku", "type": ["null", "string"]}]}
AFTER = {
    "type": "record",
    "name": "After",
    "fields": [
        {"name": "amount", "type": "double"},
        {"name": "count", "type": ["null", "long"], "default": None},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["A", "B"]}},
        {"name": "items", "type": {"type": "array", "items": ITEM}},
        {"name": "tags", "type": {"type": "map", "values": "string"}},
        {"name": "vector", "type": {"type": "array", "items": "float", "size": 2}},
    ],
}
EVENT = [
    {"name": "id", "type": "string"},
    {"name": "before", "type": ["null", AFTER], "default": None},
    {"name": "after", "type": ["null", "After"], "default": None},
    {"name": "note", "type": ["null", "string", "long"], "default": None},
]
COLUMNS = [
    Column("id", "id", "string"),
    Column("amount", "after.amount", "float64", missing=NAN),
    Column("narrow", "after.amount", "float32", missing=NAN),
    Column("count", "after.count", "int32", missing=Missing("fill", -1)),
    Column("kind", "after.kind", "string", missing=Missing("fill", None)),
    Column("price", "after.items[1].price", "float64", missing=NAN),
    Column("sku", "after.items[0].sku", "string", missing=Missing("fill", None)),
    Column("env", "after.tags.env", "string", missing=Missing("fill", "none")),
    Column("vector", "after.vector", "float32", (2,), missing=Missing("fill", 0)),
    Column("old", "before.amount", "float64", missing=NAN),
]

numbers = st.floats(-1e6, 1e6, width=32)
items = st.fixed_dictionaries({"price": numbers, "sku": st.none() | st.text("ab", max_size=3)})
afters = st.fixed_dictionaries(
    {
        "amount": numbers,
        "count": st.none() | st.integers(-5, 5),
        "kind": st.sampled_from("AB"),
        "items": st.lists(items, max_size=3),
        "tags": st.dictionaries(st.sampled_from(["env", "zone"]), st.text("xyz", max_size=2)),
        "vector": st.lists(numbers, min_size=2, max_size=2),
    }
)
events = st.fixed_dictionaries(
    {"id": st.text("abc"), "before": st.none() | afters, "after": st.none() | afters, "note": st.none() | st.text("n", max_size=2)}
)


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Schema:
    file = tmp_path_factory.mktemp("nested") / "event.avsc"
    file.write_text(json.dumps({"type": "record", "name": "Event", "fields": EVENT}))
    return load_schema(file)


def datum(schema: Schema, event: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, schema.avro, event)
    return out.getvalue()


def expected(event: dict[str, Any]) -> dict[str, Any]:
    """The columns of one event, taken from it by hand."""
    after, before = event["after"] or {}, event["before"] or {}
    inside = after.get("items", [])
    amount = after.get("amount", np.nan)
    return {
        "id": event["id"],
        "amount": amount,
        "narrow": amount,
        "count": -1 if after.get("count") is None else after["count"],
        "kind": after.get("kind"),
        "price": inside[1]["price"] if len(inside) > 1 else np.nan,
        "sku": inside[0]["sku"] if inside else None,
        "env": after.get("tags", {}).get("env", "none"),
        "vector": after.get("vector", [0, 0]),
        "old": before.get("amount", np.nan),
    }


@given(given=st.lists(events, min_size=1, max_size=40))
@pytest.mark.parametrize("format", ["json", "avro"])
def test_paths_lead_to_what_an_event_holds(format: str, given: list[dict[str, Any]], schema: Schema) -> None:
    values = [json.dumps(event).encode() if format == "json" else datum(schema, event) for event in given]
    batch = decoder(format, schema, COLUMNS).decode(values)  # type: ignore[arg-type]  # one of the formats
    assert batch.failures == ()
    for name, column in batch.columns.items():
        np.testing.assert_array_equal(column, np.array([expected(event)[name] for event in given], column.dtype), err_msg=name)


SIMPLE = {"type": "record", "name": "After", "fields": [{"name": "amount", "type": "double"}, {"name": "name", "type": ["null", "string"]}]}


def test_many_optional_records_are_read_by_column(make_schema: MakeSchema) -> None:
    """Records without arrays and maps are read a column at a time, as those of a flat event."""
    schema = make_schema({"name": "after", "type": ["null", SIMPLE]}, {"name": "before", "type": [{**SIMPLE, "name": "Before"}, "null"]})
    columns = [Column("a", "after.amount", "float64", missing=NAN), Column("b", "before.name", "string", missing=Missing("fill", "-"))]
    given = [
        {"after": None if i % 3 == 0 else {"amount": i, "name": None}, "before": None if i % 5 == 0 else {"amount": 1, "name": f"n{i}"}}
        for i in range(100)
    ]
    by_column = AvroDecoder(schema, columns, max_bytes=1000)
    assert next(iter(by_column._writers.values()))._all is not None
    batch = by_column.decode([datum(schema, event) for event in given])
    assert batch.failures == ()
    np.testing.assert_array_equal(batch.columns["a"], [np.nan if i % 3 == 0 else i for i in range(100)])
    assert batch.columns["b"].tolist() == ["-" if i % 5 == 0 else f"n{i}" for i in range(100)]


@pytest.mark.parametrize("reads", ["json", "avro", "table"])
@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ([[1, 2], [300, -1]], "field 'after.image[1][0]' is 300, above 255"),
        ([[1, -2], [3, 4]], "field 'after.image[0][1]' is -2, below 0"),
    ],
)
@pytest.mark.parametrize("rows", [1, 20], ids=["one by one", "all together"])
def test_item_of_an_array_that_the_tensor_does_not_hold_is_named(
    make_schema: MakeSchema, reads: str, rows: int, bad: list[list[int]], says: str
) -> None:
    array = {"type": "array", "items": {"type": "array", "items": "int"}}
    schema = make_schema({"after": {"type": "record", "name": "After", "fields": [{"name": "image", "type": array}]}})
    columns = [Column("image", "after.image", "uint8", (2, 2))]
    images = [[[0, 255], [1, 2]]] * rows
    if reads == "table":
        batch = TableDecoder(schema, columns).decode(Table("t", {"after.image": np.array([*images, bad])}))
    else:
        write = event_writer("json" if reads == "json" else "avro", schema)
        batch = decoder("json" if reads == "json" else "avro", schema, columns).decode(
            [write({"after": {"image": image}}) for image in [*images, bad]]
        )
    assert batch.columns["image"].tolist() == images
    assert [(failure.row, str(failure.error)) for failure in batch.failures] == [(rows, says)]


@pytest.mark.parametrize("format", ["json", "avro"])
def test_null_on_the_way_fails_the_row_unless_it_is_replaced(format: str, schema: Schema) -> None:
    columns = [Column("amount", "after.amount", "float64")]
    event = {"id": "a", "before": None, "after": None, "note": None}
    values = [json.dumps(event).encode() if format == "json" else datum(schema, event)]
    (failure,) = decoder(format, schema, columns).decode(values).failures  # type: ignore[arg-type]  # one of the formats
    assert str(failure.error) == "field 'after.amount' is null, and the topology gives no value for nulls (add it under `missing:`)"


@pytest.mark.parametrize(
    ("event", "says"),
    [
        ({"id": "a", "after": {"amount": 1}}, "Object missing required field `kind` - at `$.after`"),
        ({"id": "a", "after": []}, "Expected `object | null`, got `array` - at `$.after`"),
        ({"id": "a", "before": {"amount": "x"}}, "Expected `float`, got `str` - at `$.before.amount`"),
        (
            {"id": "a", "after": {"amount": 1e300, "kind": "A", "items": [], "tags": {}, "vector": [1, 2]}},
            "field 'after.amount' is 1e+300, above 3.4028234663852886e+38",
        ),
        (
            {"id": "a", "after": {"amount": 1, "count": 2**40, "kind": "A", "items": [], "tags": {}, "vector": [1, 2]}},
            "field 'after.count'",
        ),
        (
            {"id": "a", "after": {"amount": 1, "kind": "A", "items": [], "tags": {}, "vector": [1, 2, 3]}},
            "length <= 2 - at `$.after.vector`",
        ),
        (
            {"id": "a", "after": {"amount": 1, "kind": "A", "items": [], "tags": {"env": 1}, "vector": [1, 2]}},
            "got `int` - at `$.after.tags",
        ),
    ],
)
def test_what_is_wrong_inside_fails_its_row_alone(schema: Schema, event: dict[str, Any], says: str) -> None:
    good = {"id": "g", "after": None}
    batch = decoder("json", schema, COLUMNS).decode([json.dumps(one).encode() for one in (good, event, good)])
    (failure,) = batch.failures
    assert failure.row == 1
    assert says in str(failure.error)
    assert batch.columns["id"].tolist() == ["g", "g"]


def test_table_has_columns_by_path(schema: Schema) -> None:
    table = Table("topic", {"after.amount": np.array([1.5, 2.5])})
    batch = TableDecoder(schema, [Column("amount", "after.amount", "float32")]).decode(table)
    assert batch.columns["amount"].tolist() == [1.5, 2.5]


class TestAliases:
    """Case 08, and names that JSON has and Avro has not (case 16)."""

    def test_avro_reads_the_field_that_the_writer_calls_otherwise(self, make_schema: MakeSchema) -> None:
        reader = make_schema({"name": "x", "type": "float", "default": 5.0, "aliases": ["amount"]})
        writer = make_schema({"amount": "float"}, path="writer.avsc")
        decode = AvroDecoder(reader, [Column("x", "x", "float32")], max_bytes=100, writers=Writers(reader, {b"\0\0\0\0\7": writer})).decode
        for rows in (1, 50):
            batch = decode([b"\0\0\0\0\7" + bytes.fromhex("0000803f")] * rows)
            assert batch.columns["x"].tolist() == [1.0] * rows

    def test_inside_a_record_too(self, make_schema: MakeSchema) -> None:
        def record(name: str, **more: Any) -> dict[str, Any]:
            return {"name": "r", "type": {"type": "record", "name": "R", "fields": [{"name": name, "type": "float", **more}]}}

        reader, writer = make_schema(record("x", aliases=["amount"])), make_schema(record("amount"), path="w.avsc")
        batch = AvroDecoder(
            reader, [Column("x", "r.x", "float32")], max_bytes=100, writers=Writers(reader, {b"\0\0\0\0\7": writer})
        ).decode([b"\0\0\0\0\7\0\0\x80\x3f", b"\0\0\0\0\7\0\0\0\x40"])
        assert batch.columns["x"].tolist() == [1.0, 2.0]

    def test_json_names_that_avro_cannot_have(self, make_schema: MakeSchema) -> None:
        schema = make_schema(
            {"name": "timestamp", "type": "long", "aliases": ["@timestamp"]},
            {"name": "carrier", "type": "string", "aliases": ["carrier-code", "carrierCode"]},
            {"name": "petal", "type": "float", "aliases": ["Petal Length (cm)"]},
            {"name": "groesse", "type": ["null", "int"], "default": None, "aliases": ["größe"]},
        )
        columns = [
            Column("timestamp", "timestamp", "int64"),
            Column("carrier", "carrier", "string"),
            Column("petal", "petal", "float32"),
            Column("groesse", "groesse", "int32", missing=Missing("fill", -1)),
        ]
        case = '{"@timestamp":1700000000000,"carrier-code":"AA","Petal Length (cm)":1.5,"größe":1}'.encode()
        own = b'{"timestamp":1,"carrier":"BB","petal":2}'
        both = b'{"timestamp":1,"@timestamp":2,"carrierCode":"CC","carrier-code":"DD","petal":2,"gr\xc3\xb6\xc3\x9fe":null}'
        without = b'{"timestamp":1,"petal":2}'
        batch = decoder("json", schema, columns).decode([case, own, without, both])
        assert batch.columns["timestamp"].tolist() == [1700000000000, 1, 1]
        assert batch.columns["carrier"].tolist() == ["AA", "BB", "DD"]
        assert batch.columns["groesse"].tolist() == [1, -1, -1]
        assert [(one.row, str(one.error)) for one in batch.failures] == [
            (2, "Object missing required field `carrier`, or one of its aliases `carrier-code`, `carrierCode`")
        ]

    @pytest.mark.parametrize(
        ("fields", "says"),
        [
            (
                [{"name": "a", "type": "int", "aliases": ["c"]}, {"name": "b", "type": "int", "aliases": ["c"]}],
                "the alias 'c' is an alias of 'a'",
            ),
            ([{"name": "a", "type": "int", "aliases": ["b"]}, {"name": "b", "type": "int"}], "the alias 'b' is the name of another field"),
            ([{"name": "a", "type": "int", "aliases": "b"}], 'the aliases "b" are not a list of names'),
            ([{"name": "@a", "type": "int"}], r'give the events\' name as an alias: "aliases": \["@a"\]'),
        ],
    )
    def test_names_that_mean_two_fields_are_refused(self, make_schema: MakeSchema, fields: list[Any], says: str) -> None:
        with pytest.raises(SchemaError, match=says):
            make_schema(*fields)


class TestEnumDefault:
    """Case 09."""

    READER: ClassVar[dict[str, Any]] = {
        "name": "e",
        "type": {"type": "enum", "name": "S", "symbols": ["A", "UNKNOWN"], "default": "UNKNOWN"},
    }

    def test_avro_symbol_that_the_reader_lacks(self, make_schema: MakeSchema) -> None:
        reader = make_schema({"x": "float"}, self.READER)
        writer = make_schema(
            {"x": "float"}, {"name": "e", "type": {"type": "enum", "name": "S", "symbols": ["A", "B", "UNKNOWN"]}}, path="w.avsc"
        )
        decode = AvroDecoder(reader, [Column("e", "e", "string")], max_bytes=100, writers=Writers(reader, {b"\0\0\0\0\1": writer})).decode
        frame = b"\0\0\0\0\1" + bytes.fromhex("0000803f")
        batch = decode([frame + b"\2", frame + b"\0", frame + b"\4"])
        assert batch.columns["e"].tolist() == ["UNKNOWN", "A", "UNKNOWN"]

    def test_json_symbol_that_the_enum_lacks(self, make_schema: MakeSchema) -> None:
        batch = decoder("json", make_schema({"x": "float"}, self.READER), [Column("e", "e", "string")]).decode(
            [b'{"x":1,"e":"B"}', b'{"x":1,"e":"A"}', b'{"x":1,"e":7}']
        )
        assert batch.columns["e"].tolist() == ["UNKNOWN", "A"]
        assert [one.row for one in batch.failures] == [2]

    def test_default_that_is_not_a_symbol_is_refused(self, make_schema: MakeSchema) -> None:
        with pytest.raises(SchemaError, match='the enum\'s default "C" is not one of its symbols'):
            make_schema({"name": "e", "type": {"type": "enum", "name": "S", "symbols": ["A"], "default": "C"}})


class TestTypes:
    """Cases 10 and 11."""

    def test_dotted_names_and_namespaces(self, make_schema: MakeSchema) -> None:
        colour = {"type": "enum", "name": "com.x.Color", "symbols": ["R", "G"]}
        place = {"type": "record", "name": "Place", "namespace": "org.y", "fields": [{"name": "at", "type": "org.y.Place2"}]}
        schema = make_schema({"p": colour}, {"q": ["null", "com.x.Color"]})
        assert [field.symbols for field in schema.fields] == [("R", "G")] * 2
        with pytest.raises(SchemaError, match=r"field 'r.at': unknown type 'org.y.Place2'"):
            make_schema({"r": place})

    def test_name_is_looked_up_in_the_namespace_around(self, make_schema: MakeSchema) -> None:
        inner = {"type": "enum", "name": "K", "symbols": ["A"]}
        outer = {"type": "record", "name": "org.y.R", "fields": [{"name": "a", "type": inner}, {"name": "b", "type": "K"}]}
        field = make_schema({"r": outer}, {"again": "org.y.K"}).field("r.b")
        assert field is not None
        assert field.symbols == ("A",)

    def test_type_wrapped_in_types(self, make_schema: MakeSchema) -> None:
        schema = make_schema({"x": "float"}, {"f": {"type": {"type": "string"}}})
        assert [field.kind for field in schema.fields] == ["float", "string"]
        assert AvroDecoder(schema, [Column("f", "f", "string")], max_bytes=100).decode([b"\0\0\x80\x3f\2a"]).columns["f"].tolist() == ["a"]

    @pytest.mark.parametrize("format", ["json", "avro"])
    def test_union_of_several_that_nobody_reads(self, format: str, make_schema: MakeSchema) -> None:
        schema = make_schema({"u": ["null", "string", "long"]}, {"x": "float"})
        given: list[dict[str, Any]] = [{"u": None, "x": 1}, {"u": "a", "x": 2}, {"u": 7, "x": 3}]
        values = [json.dumps(event).encode() if format == "json" else datum(schema, event) for event in given]
        batch = decoder(format, schema, [Column("x", "x", "float32")]).decode(values)  # type: ignore[arg-type]  # one of the formats
        assert batch.columns["x"].tolist() == [1, 2, 3]
        assert batch.failures == ()

    def test_types_that_multiply_are_refused(self, make_schema: MakeSchema) -> None:
        levels: list[Any] = [{"name": "l0", "type": {"type": "record", "name": "L0", "fields": [{"name": "x", "type": "int"}]}}]
        for i in range(1, 40):
            members = [{"name": "a", "type": f"L{i - 1}"}, {"name": "b", "type": f"L{i - 1}"}]
            levels.append({"name": f"l{i}", "type": {"type": "record", "name": f"L{i}", "fields": members}})
        with pytest.raises(SchemaError, match="more than 100,000 fields, those inside others counted"):
            make_schema(*levels)

    def test_record_inside_itself_is_read_one_level_deep(self, make_schema: MakeSchema) -> None:
        node = {"type": "record", "name": "N", "fields": [{"name": "v", "type": "int"}, {"name": "next", "type": ["null", "N"]}]}
        schema = make_schema({"n": node})
        columns = [Column("v", "n.v", "int32")]
        event = {"n": {"v": 1, "next": {"v": 2, "next": None}}}
        assert schema.field("n.next.v") is None
        for format, value in (("json", json.dumps(event).encode()), ("avro", datum(schema, event))):
            assert decoder(format, schema, columns).decode([value]).columns["v"].tolist() == [1]  # type: ignore[arg-type]  # a format


class TestResolution:
    """What a writer may have otherwise than the reader."""

    FRAME: ClassVar[bytes] = b"\0\0\0\0\7"

    def decode(self, reader: Schema, writer: Schema, column: Column, *events: dict[str, Any]) -> Any:
        decode = AvroDecoder(reader, [column], max_bytes=1000, writers=Writers(reader, {self.FRAME: writer})).decode
        return decode([self.FRAME + datum(writer, event) for event in events])

    @pytest.mark.parametrize("rows", [1, 40])
    def test_bytes_are_read_as_a_string(self, make_schema: MakeSchema, rows: int) -> None:
        reader, writer = make_schema({"s": "string"}), make_schema({"s": "bytes"}, path="w.avsc")
        batch = self.decode(reader, writer, Column("s", "s", "string"), *[{"s": "größe".encode()}, {"s": b"\xff"}] * rows)
        assert batch.columns["s"].tolist() == ["größe"] * rows
        assert [str(one.error) for one in batch.failures] == ["invalid UTF-8: invalid start byte (byte 0)"] * rows

    def test_map_of_another_type_is_refused(self, make_schema: MakeSchema) -> None:
        reader, writer = (make_schema({"m": {"type": "map", "values": values}}, path=f"{values}.avsc") for values in ("double", "string"))
        with pytest.raises(SchemaError, match="field 'm' is map and cannot be read as map"):
            self.decode(reader, writer, Column("m", "m.k", "float64"))

    @pytest.mark.parametrize("theirs", [["string", "long"], ["null", "string", "long"]])
    def test_union_of_several_matters_only_where_it_is_read(self, make_schema: MakeSchema, theirs: list[str]) -> None:
        reader = make_schema({"u": "string"}, {"x": "float"})
        writer = make_schema({"u": theirs}, {"x": "float"}, path="w.avsc")
        batch = self.decode(reader, writer, Column("x", "x", "float32"), {"u": "a", "x": 1}, {"u": 7, "x": 2})
        assert batch.columns["x"].tolist() == [1, 2]
        with pytest.raises(SchemaError, match="field 'u' is, or is inside, a union of several types"):
            self.decode(reader, writer, Column("u", "u", "string"))
