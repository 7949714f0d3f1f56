"""Schema files: what each Avro type becomes, and that every problem of a file is told at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from penstock.codecs import load_schema
from penstock.codecs.schema import MAX_SCHEMA_BYTES
from penstock.errors import SchemaError
from penstock.schema import REQUIRED, Field


def write(tmp_path: Path, *fields: Any) -> Path:
    file = tmp_path / "event.avsc"
    file.write_text(json.dumps({"type": "record", "name": "Event", "fields": fields}, indent=1))
    return file


ENUM = {"type": "enum", "name": "Colour", "symbols": ["RED", "BLUE"]}


@pytest.mark.parametrize(
    ("avro", "kind", "dtype", "shape"),
    [
        ("boolean", "boolean", "bool", ()),
        ("int", "int", "int32", ()),
        ("long", "long", "int64", ()),
        ("float", "float", "float32", ()),
        ("double", "double", "float64", ()),
        ("string", "string", "string", ()),
        ({"type": "string"}, "string", "string", ()),
        ({"type": "string", "logicalType": "uuid"}, "string", "string", ()),
        (ENUM, "enum", "string", ()),
        ({"type": "long", "logicalType": "timestamp-millis"}, "timestamp", "int64", ()),
        ({"type": "int", "logicalType": "date"}, "int", "int32", ()),
        ({"type": "array", "items": "float"}, "array", "float32", (None,)),
        ({"type": "array", "items": "float", "size": 8}, "array", "float32", (8,)),
        ({"type": "array", "items": {"type": "array", "items": "int", "size": 3}, "size": 2}, "array", "int32", (2, 3)),
        ({"type": "array", "items": ["null", "float"]}, "array", "", (None,)),
        ("bytes", "bytes", "", ()),
        ({"type": "fixed", "name": "F", "size": 4}, "bytes", "", ()),
        ({"type": "map", "values": "int"}, "map", "", ()),
        ({"type": "record", "name": "R", "fields": [{"name": "r", "type": ["null", "R"]}]}, "record", "", ()),
    ],
)
def test_avro_type_becomes_kind_dtype_and_shape(tmp_path: Path, avro: Any, kind: str, dtype: str, shape: tuple[int | None, ...]) -> None:
    (field,) = load_schema(write(tmp_path, {"name": "x", "type": avro})).fields
    assert (field.kind, field.dtype, field.shape, field.optional, field.default) == (kind, dtype, shape, False, REQUIRED)


def test_optional_default_unit_symbols_and_doc(tmp_path: Path) -> None:
    schema = load_schema(
        write(
            tmp_path,
            {"name": "t", "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}], "default": None, "doc": "When."},
            {"name": "c", "type": ENUM, "default": "RED"},
            {"name": "again", "type": "Colour"},
        )
    )
    assert schema.name == "Event"
    assert schema.field("t") == Field("t", "timestamp", optional=True, default=None, unit="us", doc="When.")
    assert schema.field("c") == Field("c", "enum", default="RED", symbols=("RED", "BLUE"))
    assert schema.field("again") == Field("again", "enum", symbols=("RED", "BLUE"))


def test_all_problems_come_at_once_with_field_and_line(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        {"name": "a", "type": "flot"},
        {"name": "b", "type": ["null"]},
        {"name": "c", "type": "int", "default": "x"},
        {"name": "d", "type": {"type": "array", "items": "int", "size": 0}},
        {"name": "e", "type": {"type": "enum", "name": "E", "symbols": []}},
        {"name": "1f", "type": "int"},
        {"name": "g", "type": "int"},
        {"name": "g", "type": "int"},
        {"type": "int"},
        {"name": "h", "type": "float", "default": None},
        {"name": "i", "type": 7},
    )
    with pytest.raises(SchemaError) as caught:
        load_schema(file)
    problems = caught.value.problems
    assert [problem.message for problem in problems] == [
        "field 'a': unknown type 'flot'",
        "field 'b': a union without a type beside null",
        "field 'c': the default \"x\" is not a valid int",
        "field 'd': \"size\": 0 is not a length",
        "field 'e': an enum without symbols",
        "field '1f': not an Avro name",
        "field 'g': declared twice",
        'a field without name or type: {"type": "int"}',
        "field 'h': the default null is not a valid float",
        "field 'i': 7 is not a type",
    ]
    lines = file.read_text().splitlines()
    assert '"name": "c"' in lines[problems[2].line - 1]
    assert all(problem.file == str(file) and problem.fix for problem in problems)


@pytest.mark.parametrize(
    ("text", "says", "line"),
    [
        ('{\n "type": "record"\n "name"}', "not JSON", 3),
        ("[]", "the top level is not a record", 0),
        ('"int"', "the top level is not a record", 0),
        ('{"type": "record", "name": "E"}', "the record has no fields", 0),
        ('{"type": "record", "name": "E", "fields": []}', "the record has no fields", 0),
        ('{"type": "record", "fields": [{"name": "x", "type": "int"}]}', "the record has no name", 0),
        ('{"type": "record", "name": "E", "fields": [{"name": "x", "type": {"type": "map"}}]}', "values", 0),
        ("[" * 100_000, "nested too deeply", 0),
        (
            '{"type": "record", "name": "E", "fields": [{"name": "x", "type": ' + '{"type":' * 900 + '"int"' + "}" * 902,
            "not JSON|nested",
            0,
        ),
    ],
)
def test_file_that_is_no_schema_is_refused(tmp_path: Path, text: str, says: str, line: int) -> None:
    file = tmp_path / "event.avsc"
    file.write_text(text)
    with pytest.raises(SchemaError, match=says) as caught:
        load_schema(file)
    assert line in (0, caught.value.problems[0].line)


def test_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="cannot be read"):
        load_schema(tmp_path / "none.avsc")
    file = tmp_path / "event.avsc"
    file.write_bytes(b'{\n"\xff"}')
    with pytest.raises(SchemaError, match=r"event\.avsc:2:1: not UTF-8"):
        load_schema(file)
    file.write_bytes(b" " * (MAX_SCHEMA_BYTES + 1))
    with pytest.raises(SchemaError, match="larger than"):
        load_schema(file)


@pytest.mark.parametrize(
    "inside",
    [
        {"type": "fixed", "name": "F", "size": 2.5},
        {"type": "fixed", "name": "F", "size": -1},
        {"type": "enum", "name": "E", "symbols": ["A", 1]},
    ],
)
@pytest.mark.parametrize("wrap", ["itself", "map", "record", "union"])
def test_types_that_feed_no_column_are_checked_too(tmp_path: Path, inside: Any, wrap: str) -> None:
    """Their bytes are read to find the next field, and the Avro library takes these schemas as they are."""
    wrapped = {
        "itself": inside,
        "map": {"type": "map", "values": inside},
        "record": {"type": "record", "name": "R", "fields": [{"name": "r", "type": {"type": "array", "items": inside}}]},
        "union": ["null", inside],
    }[wrap]
    with pytest.raises(SchemaError, match=r"fixed type with the size|enum with"):
        load_schema(write(tmp_path, {"name": "x", "type": wrapped}, {"name": "y", "type": "int"}))


@pytest.mark.parametrize("sizes", [(10**30,), (2**20 + 1,), (2**11, 2**11)])
def test_array_that_no_column_has_room_for_is_refused(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    made: Any = "float"
    for size in sizes:
        made = {"type": "array", "items": made, "size": size}
    with pytest.raises(SchemaError, match="more than 1,048,576 items"):
        load_schema(write(tmp_path, {"name": "x", "type": made}))
