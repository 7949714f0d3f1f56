"""`coerce`: what JSON may write otherwise than the schema has it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.codecs import decoder
from penstock.schema import Column, Schema
from tests.unit.codecs.conftest import MakeSchema

COLUMNS = [
    Column("n", "n", "int32"),
    Column("x", "x", "float32"),
    Column("at", "at", "int64"),
    Column("deep", "r.n", "int64"),
    Column("list", "list", "int64", (2,)),
]
GOOD: dict[str, Any] = {"n": 1, "x": 1.5, "at": 2, "r": {"n": 3}, "list": [4, 5]}
ALL = ("whole_numbers", "dates", "decimals")


@pytest.fixture
def schema(make_schema: MakeSchema) -> Schema:
    return make_schema(
        {"n": "int", "x": "double"},
        {"at": {"type": "long", "logicalType": "timestamp-millis"}},
        {"r": {"type": "record", "name": "R", "fields": [{"name": "n", "type": "long"}]}},
        {"list": {"type": "array", "items": "long"}},
    )


def decode(schema: Schema, event: dict[str, Any], *coerce: Any) -> tuple[dict[str, Any], str]:
    batch = decoder("json", schema, COLUMNS, coerce=coerce).decode([json.dumps(event).encode()])
    return {name: column.tolist() for name, column in batch.columns.items()}, "".join(str(one.error) for one in batch.failures)


@pytest.mark.parametrize(
    ("changed", "word", "column", "value"),
    [
        ({"n": 7.0}, "whole_numbers", "n", 7),
        ({"r": {"n": 2.0}}, "whole_numbers", "deep", 2),
        ({"list": [1.0, 2]}, "whole_numbers", "list", [1, 2]),
        ({"at": 9.0}, "whole_numbers", "at", 9),
        ({"x": "12.50"}, "decimals", "x", 12.5),
        ({"x": "-1e3"}, "decimals", "x", -1000),
        ({"n": "12"}, "decimals", "n", 12),
        ({"r": {"n": "9007199254740993"}}, "decimals", "deep", 9007199254740993),
        ({"list": ["1", 2]}, "decimals", "list", [1, 2]),
        ({"at": "2026-11-29T08:00:00Z"}, "dates", "at", 1795939200000),
        ({"at": "2026-11-29T09:00:00.5+01:00"}, "dates", "at", 1795939200500),
        ({"at": "2026-11-29"}, "dates", "at", 1795910400000),
        ({"at": "1969-12-31T23:59:59.9995Z"}, "dates", "at", -1),
    ],
)
def test_other_form_is_read_where_it_is_allowed(schema: Schema, changed: dict[str, Any], word: str, column: str, value: Any) -> None:
    for allowed in ((word,), ALL):
        columns, said = decode(schema, GOOD | changed, *allowed)
        assert (said, columns[column]) == ("", [value])
    assert decode(schema, GOOD | changed)[1] != ""
    assert decode(schema, GOOD | changed, *(one for one in ALL if one != word))[1] != ""


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"n": 1.5}, "1.5 is not a whole number in field `n`"),
        ({"n": "1.5"}, "'1.5' is not a whole number in field `n`"),
        ({"n": 2.0**40}, "1099511627776.0 is out of range in field `n`"),
        ({"n": "x"}, "'x' is not a number in field `n`"),
        ({"x": "nan"}, "'nan' is not a number in field `x`"),
        ({"x": "1e400"}, "'1e400' is out of range in field `x`"),
        ({"x": "1e39"}, "'1e39' is out of range in field `x`"),
        ({"x": ""}, "'' is not a number in field `x`"),
        ({"x": "٣"}, "'٣' is not a number in field `x`"),
        ({"at": "soon"}, "'soon' is not a date of ISO 8601 in field `at`"),
        ({"at": "20240131"}, "'20240131' is a date without dashes or a number: beside `decimals`, dates have dashes in field `at`"),
        ({"r": {"n": 0.5}}, "0.5 is not a whole number in field `n` - at `$.r`"),
        ({"list": [1, 0.5]}, "0.5 is not a whole number in field `list`"),
        ({"n": None}, "got `null`"),
        ({"n": True}, "got `bool`"),
    ],
)
def test_what_is_still_no_value_fails_its_row(schema: Schema, changed: dict[str, Any], says: str) -> None:
    assert says in decode(schema, GOOD | changed, *ALL)[1]


def test_date_without_dashes_is_read_where_it_cannot_be_a_number(schema: Schema) -> None:
    event = GOOD | {"at": "20240131"}
    assert decode(schema, event, "dates", "whole_numbers")[0]["at"] == [1706659200000]
    assert decode(schema, event, "decimals")[0]["at"] == [20240131]
    assert decode(schema, GOOD | {"at": "1706659200000"}, *ALL)[0]["at"] == [1706659200000]


def test_rows_in_the_schema_s_own_form_are_not_changed(schema: Schema) -> None:
    assert decode(schema, GOOD, *ALL) == decode(schema, GOOD)
