"""Rows that are columns already give the columns that the same events give as JSON, and the same rows fail."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from penstock.batch import Array, Batch, Table
from penstock.codecs import TableDecoder, decoder
from penstock.schema import Column, Field, Missing, Schema

SCHEMA = Schema(
    "Event",
    (
        Field("whole", "long"),
        Field("small", "int"),
        Field("real", "double", optional=True, default=None),
        Field("text", "string"),
        Field("mode", "enum", symbols=("a", "b")),
        Field("vector", "array", items=Field("", "float"), size=2),
        Field("unread", "long"),
    ),
)
COLUMNS = [
    Column("whole", "whole", "int64"),
    Column("narrow", "whole", "int32"),
    Column("small", "small", "int32"),
    Column("real", "real", "float64", (), Missing("fill", math.nan)),
    Column("text", "text", "string"),
    Column("mode", "mode", "string"),
    Column("vector", "vector", "float32", (2,)),
]
wholes = st.integers(-(2**33), 2**33) | st.integers(-5, 5)
reals = st.none() | st.floats(allow_nan=False, allow_infinity=False, width=32)
rows = st.tuples(
    wholes,
    st.integers(-9, 9),
    reals,
    st.text(max_size=3),
    st.sampled_from("abc"),
    st.tuples(st.floats(0, 9, width=32), st.floats(0, 9, width=32)),
)


def as_table(events: list[dict[str, Any]]) -> Table:
    real = [event["real"] for event in events]
    columns: dict[str, Array] = {
        "whole": np.array([event["whole"] for event in events], np.int64),
        "small": np.array([event["small"] for event in events], np.int16),
        "real": np.array([0.0 if one is None else one for one in real], np.float64),
        "text": np.array([event["text"] for event in events], object),
        "mode": np.array([event["mode"] for event in events], object),
        "vector": np.array([event["vector"] for event in events], np.float32).reshape(-1, 2),
    }
    return Table("events", columns, {"real": np.array([one is None for one in real], bool)})


@given(st.lists(rows, max_size=30))
def test_columns_and_failures_are_those_of_the_same_events_as_json(drawn: list[tuple[Any, ...]]) -> None:
    events = [dict(zip(("whole", "small", "real", "text", "mode", "vector"), row, strict=True)) for row in drawn]
    values = [json.dumps({**event, "unread": 0}).encode() for event in events]
    from_json = decoder("json", SCHEMA, COLUMNS).decode(values)
    from_table = TableDecoder(SCHEMA, COLUMNS).decode(as_table(events))
    assert rows_of(from_table) == rows_of(from_json)
    assert [failure.row for failure in from_table.failures] == [failure.row for failure in from_json.failures]
    for name in (column.name for column in COLUMNS):
        np.testing.assert_array_equal(from_table.columns[name], from_json.columns[name])
        assert from_table.columns[name].dtype == from_json.columns[name].dtype


LISTS = Schema(
    "Lists",
    (
        Field("open", "array", items=Field("", "float")),
        Field("three", "array", items=Field("", "int"), size=3),
        Field("pairs", "array", items=Field("", "array", items=Field("", "int"), size=2), optional=True),
        Field("words", "array", items=Field("", "string")),
    ),
)
LISTED = [
    Column("open", "open", "float32", (None,)),
    Column("three", "three", "uint8", (3,)),
    Column("pairs", "pairs", "int64", (None, 2), Missing("fill", 0)),
    Column("words", "words", "string", (None,)),
]
lists = st.fixed_dictionaries(
    {
        "open": st.lists(st.floats(0, 9, width=32) | st.just(1e39), max_size=4),
        "three": st.lists(st.integers(-1, 300), min_size=2, max_size=3),
        "pairs": st.none() | st.lists(st.lists(st.integers(0, 9), min_size=2, max_size=2), max_size=2),
        "words": st.lists(st.text(max_size=2), max_size=2),
    }
)


def nested(value: Any) -> Any:
    """As columnar formats return lists of lists: arrays of objects that are arrays."""
    if not isinstance(value, list):
        return value
    made = np.empty(len(value), object)
    for at, item in enumerate(value):
        made[at] = nested(item)
    return made if any(isinstance(one, list | str) for one in value) else np.array(value)


@given(st.lists(lists, max_size=12), st.booleans())
def test_lists_of_different_lengths_are_those_of_the_same_events_as_json(events: list[dict[str, Any]], arrays: bool) -> None:
    columns: dict[str, Array] = {}
    for name in ("open", "three", "pairs", "words"):
        columns[name] = np.empty(len(events), object)
        for row, event in enumerate(events):
            columns[name][row] = nested(event[name]) if arrays else event[name]
    table = Table("events", columns)
    from_json = decoder("json", LISTS, LISTED).decode([json.dumps(event).encode() for event in events])
    from_table = TableDecoder(LISTS, LISTED).decode(table)
    assert rows_of(from_table) == rows_of(from_json)
    assert [failure.row for failure in from_table.failures] == [failure.row for failure in from_json.failures]
    for name, column in from_table.columns.items():
        assert column.dtype == from_json.columns[name].dtype
        assert [value.tolist() for value in column] == [value.tolist() for value in from_json.columns[name]]
        assert column.shape == from_json.columns[name].shape
    assert [json.loads(record.value or b"") for record in table] == events


def test_list_that_does_not_fit_fails_its_row_with_the_reason() -> None:
    bad = [[1, 2, 3], [1, 2], 7, [1, 256, 3], None, [1, 2.5, 3], ["a", "b", "c"], [[1], [2, 3], 4]]
    column = np.empty(len(bad), object)
    column[:] = bad
    batch = TableDecoder(LISTS, [LISTED[1]]).decode(Table("t", {"three": column}))
    assert batch.columns["three"].tolist() == [[1, 2, 3]]
    assert [str(failure.error) for failure in batch.failures][:6] == [
        "field 'three' has the shape [2], but [3] is read",
        "field 'three' is no array: it is of the type int",
        "field 'three[1]' is 256, above 255",
        "field 'three' is null",
        "field 'three' is no whole number, but int in the schema",
        "field 'three' is <U1, but int in the schema",
    ]
    assert "field 'three' is no array: " in str(batch.failures[6].error)


def test_arrays_of_one_length_feed_an_open_axis() -> None:
    batch = TableDecoder(LISTS, [LISTED[0]]).decode(Table("t", {"open": np.array([[1, 2], [3, 4]], np.float32)}))
    assert [value.tolist() for value in batch.columns["open"]] == [[1, 2], [3, 4]]


def rows_of(batch: Batch) -> list[int]:
    return list(range(batch.size)) if batch.rows is None else batch.rows.tolist()


def test_column_of_another_type_fails_its_rows_with_the_reason() -> None:
    table = Table("events", {"whole": np.array(["1", "2"], object), "text": np.array(["a", "b"], object)})
    batch = TableDecoder(SCHEMA, [COLUMNS[0], COLUMNS[4]]).decode(table)
    assert batch.size == 0
    assert [str(failure.error) for failure in batch.failures] == ["field 'whole' is not a valid long of the schema"] * 2


def test_numbers_come_as_floats_and_as_objects_too() -> None:
    """As tools write whole numbers beside nulls. A row that holds something else fails alone."""
    mixed = np.array([1, None, "x", 2.0, 2.5, 1 << 70, np.int16(3), float("nan")], object)
    schema = Schema("Event", (Field("whole", "long", optional=True), Field("flag", "boolean", default=True)))
    columns = [Column("whole", "whole", "int64", (), Missing("fill", -1)), Column("flag", "flag", "bool")]
    batch = TableDecoder(schema, columns).decode(Table("t", {"whole": mixed, "flag": np.array([None, True, *[False] * 6], object)}))
    assert batch.columns["whole"].tolist() == [1, -1, 2, 3]
    assert batch.columns["flag"].tolist() == [True, True, False, False]
    assert {one.row: str(one.error) for one in batch.failures} == {
        2: "field 'whole' is not a valid long of the schema",
        4: "field 'whole' is no whole number, but long in the schema",
        5: "field 'whole' is outside of what long holds",
        7: "field 'whole' is nan, not a finite number",
    }
    floats = TableDecoder(schema, columns).decode(Table("t", {"whole": np.array([1.0, 2.5, 3.0])}))
    assert (floats.columns["whole"].tolist(), [one.row for one in floats.failures]) == ([1, 3], [1])


def test_null_is_the_default_of_a_field_that_cannot_be_null() -> None:
    schema = Schema(
        "Event", (Field("x", "int", default=7), Field("s", "string", default="d"), Field("v", "array", items=Field("", "int"), default=[1]))
    )
    columns = [Column("x", "x", "int32"), Column("s", "s", "string"), Column("v", "v", "int64", (1,))]
    given: dict[str, Array] = {"x": np.array([1, 0]), "s": np.array(["a", None], object), "v": nested([[4], None])}
    batch = TableDecoder(schema, columns).decode(Table("t", given, {"x": np.array([False, True])}))
    assert not batch.failures
    assert [batch.columns[name].tolist() for name in "xsv"] == [[1, 7], ["a", "d"], [[4], [1]]]


def test_column_that_the_table_lacks_is_the_schemas_default() -> None:
    schema = Schema("Event", (Field("x", "long"), Field("y", "int", default=7)))
    batch = TableDecoder(schema, [Column("x", "x", "int64"), Column("y", "y", "int32")]).decode(Table("t", {"x": np.array([1, 2])}))
    assert batch.columns["y"].tolist() == [7, 7]
    absent = TableDecoder(schema, [Column("x", "x", "int64"), Column("y", "y", "int32")]).decode(Table("t", {"y": np.array([1, 2])}))
    assert [str(failure.error) for failure in absent.failures] == ["field 'x' has no column"] * 2
