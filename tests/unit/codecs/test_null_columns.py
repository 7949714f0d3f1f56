"""A null in an optional field that is only copied to a sink stays a null, in every format and for every type."""

from __future__ import annotations

import json
import struct
from typing import Any, Literal

import numpy as np
import pytest

from penstock.codecs import decoder, encoder, event_reader, event_writer
from penstock.errors import EncodeError, SchemaError
from penstock.schema import Column, Missing, Schema
from penstock.signature import Tensor
from tests.unit.codecs.conftest import MakeSchema

Format = Literal["json", "avro"]

NULL = Missing("fill", None)
TYPES: dict[str, tuple[Any, Any]] = {
    "s": ("string", "text"),
    "e": ({"type": "enum", "name": "Colour", "symbols": ["RED", "BLUE"]}, "BLUE"),
    "b": ("boolean", True),
    "i": ("int", -3),
    "l": ("long", 2**62),
    "f": ("float", 0.5),
    "d": ("double", 0.1),
    "t": ({"type": "long", "logicalType": "timestamp-millis"}, 1_700_000_000_000),
}
EMPTY: dict[str, Any] = dict.fromkeys(TYPES)
FULL = {name: value for name, (_, value) in TYPES.items()}
MIXED = {name: None if i % 2 else value for i, (name, value) in enumerate(FULL.items())}


@pytest.fixture(params=["null first", "null last"])
def schema(request: pytest.FixtureRequest, make_schema: MakeSchema) -> Schema:
    first = request.param == "null first"
    return make_schema({name: ["null", type] if first else [type, "null"] for name, (type, _) in TYPES.items()})


def as_they_are(schema: Schema) -> list[Column]:
    return [Column(field.name, field.name, field.dtype, missing=NULL) for field in schema.fields]


@pytest.mark.parametrize("rows", [3, 48], ids=["one by one", "all together"])
@pytest.mark.parametrize("to", ["json", "avro"])
@pytest.mark.parametrize("of", ["json", "avro"])
def test_null_passes_from_every_format_to_every_format(schema: Schema, of: Format, to: Format, rows: int) -> None:
    events = [EMPTY, FULL, MIXED] * (rows // 3)
    write, read = event_writer(of, schema), event_reader(to, schema)
    batch = decoder(of, schema, as_they_are(schema)).decode([write(event) for event in events])
    assert batch.failures == ()
    fields = [Tensor(field.name, field.dtype) for field in schema.fields]
    written, errors = encoder(to, fields, schema).encode(list(batch.columns.values()))
    assert errors == {}
    # fastavro gives timestamps as datetimes; their integers are compared through JSON's.
    assert [{**read(value), "t": event["t"]} for value, event in zip(written, events, strict=True)] == events
    assert batch.columns["t"].tolist() == [event["t"] for event in events]


@pytest.mark.parametrize("rows", [1, 20], ids=["one by one", "all together"])
def test_what_is_not_finite_fails_beside_nulls_too(make_schema: MakeSchema, rows: int) -> None:
    schema = make_schema({"x": ["null", "double"]})
    values = [b"\0", b"\2" + struct.pack("<d", float("nan")), b"\2" + struct.pack("<d", 2)] * rows
    batch = decoder("avro", schema, [Column("x", "x", "float64", missing=NULL)]).decode(values)
    assert batch.columns["x"].tolist() == [None, 2.0] * rows
    assert {str(failure.error) for failure in batch.failures} == {"field 'x' is nan, not a finite number"}
    assert [failure.row for failure in batch.failures] == list(range(1, 3 * rows, 3))


@pytest.mark.parametrize("to", ["json", "avro"])
def test_null_that_the_sinks_schema_forbids_fails_its_row(make_schema: MakeSchema, to: Format) -> None:
    schema = make_schema({"s": "string", "i": "int"})
    columns = [np.array(["a", None, "c"], object), np.array([1, 2, None], object)]
    written, errors = encoder(to, [Tensor("s", "string"), Tensor("i", "int32")], schema).encode(columns)
    assert written[1:] == [b"", b""]
    assert event_reader(to, schema)(written[0]) == {"s": "a", "i": 1}
    assert {row: str(error) for row, error in errors.items()} == {
        1: "field 's' is null, which the sink's schema forbids",
        2: "field 'i' is null, which the sink's schema forbids",
    }


def test_number_beside_nulls_is_finite_when_written() -> None:
    column = np.array([None, float("inf"), 1.0], object)
    written, errors = encoder("json", [Tensor("x", "float64")]).encode([column])
    assert (written[0], written[1], json.loads(written[2])) == (b'{"x":null}', b"", {"x": 1.0})
    assert [type(error) for error in errors.values()] == [EncodeError]


@pytest.mark.parametrize(
    "column",
    [Column("x", "x", "float32", missing=NULL), Column("v", "v", "float32", (2,), NULL)],
    ids=["another dtype", "an array"],
)
def test_null_stays_in_scalars_of_the_fields_own_type_only(make_schema: MakeSchema, column: Column) -> None:
    schema = make_schema({"x": ["null", "double"], "v": ["null", {"type": "array", "items": "float", "size": 2}]})
    with pytest.raises(SchemaError, match=f"field '{column.field}' cannot keep its nulls"):
        decoder("json", schema, [column])
