"""JSON: what is an event, what is none, and what each refusal says."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pytest

from penstock.codecs import Decoder, decoder, encoder
from penstock.codecs.framing import frame_of
from penstock.errors import SchemaError
from penstock.schema import Column, Missing, Schema
from penstock.signature import Tensor

MakeSchema = Callable[..., Schema]


@pytest.fixture
def numbers(make_schema: MakeSchema) -> Decoder:
    """Decodes {"i": int, "l": long, "f": float, "s": string, "b": boolean}."""
    schema = make_schema({"i": "int", "l": "long", "f": "float", "s": "string", "b": "boolean"})
    dtypes = {"i": "int32", "l": "int64", "f": "float32", "s": "string", "b": "bool"}
    return decoder("json", schema, [Column(name, name, dtype) for name, dtype in dtypes.items()], max_bytes=1000)


GOOD = b'{"i":1,"l":2,"f":3.5,"s":"x","b":true}'


def with_value(field: bytes, value: bytes) -> bytes:
    values = {b"i": b"1", b"l": b"2", b"f": b"3.5", b"s": b'"x"', b"b": b"true", field: value}
    return b"{" + b",".join(b'"' + name + b'":' + value for name, value in values.items()) + b"}"


def test_columns_have_the_dtypes_asked_for(numbers: Decoder) -> None:
    batch = numbers.decode([GOOD, with_value(b"s", '"Zürich"'.encode())])
    assert batch.failures == ()
    assert batch.rows is None
    assert {name: column.dtype.name for name, column in batch.columns.items()} == {
        "i": "int32", "l": "int64", "f": "float32", "s": "object", "b": "bool",
    }  # fmt: skip
    assert batch.columns["s"].tolist() == ["x", "Zürich"]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (b"", "truncated"),
        (b"\x00", "invalid character"),
        (b"null", "got `null`"),
        (b"[1]", "got `array`"),
        (b"7", "got `int`"),
        (GOOD[:-1], "truncated"),
        (GOOD + b"x", "trailing characters"),
        (GOOD + b"," + GOOD, "trailing characters"),
        (GOOD[1:], "got `str`"),
        (b"\xef\xbb\xbf" + GOOD, "malformed"),
        (GOOD.decode().encode("utf-16"), "invalid UTF-8"),
        (with_value(b"s", b'"\xff"'), "invalid UTF-8"),
        (with_value(b"unknown", b'"\xff"'), "invalid UTF-8"),
        (with_value(b"s", b'"\\ud800"'), "malformed|truncated"),
        (with_value(b"s", b'"\\ud800x"'), "malformed|surrogate"),
        (with_value(b"s", b'"\\udc00\\ud800"'), "surrogate"),
        (with_value(b"s", b'"a\nb"'), "invalid character"),
        (with_value(b"s", b"1"), r"got `int` - at `\$\.s`"),
        (with_value(b"i", b"1.0"), r"got `float` - at `\$\.i`"),
        (with_value(b"i", b"1e2"), r"got `float` - at `\$\.i`"),
        (with_value(b"i", b'"1"'), r"got `str` - at `\$\.i`"),
        (with_value(b"i", b"true"), r"got `bool` - at `\$\.i`"),
        (with_value(b"i", b"null"), r"got `null` - at `\$\.i`"),
        (with_value(b"b", b"1"), r"got `int` - at `\$\.b`"),
        (with_value(b"i", b"2147483648"), r"<= 2147483647 - at `\$\.i`"),
        (with_value(b"i", b"-2147483649"), r">= -2147483648 - at `\$\.i`"),
        (with_value(b"l", b"9223372036854775808"), r"<= 9223372036854775807 - at `\$\.l`"),
        (with_value(b"l", b"9" * 400), r"<= 9223372036854775807 - at `\$\.l`"),
        (with_value(b"f", b"NaN"), "invalid character"),
        (with_value(b"f", b"Infinity"), "invalid character"),
        (with_value(b"f", b"-Infinity"), "malformed|invalid"),
        (with_value(b"f", b"1e999"), r"out of range - at `\$\.f`"),
        (with_value(b"f", b"1e39"), r"<= .* - at `\$\.f`"),
        (with_value(b"f", b"-1e39"), r">= .* - at `\$\.f`"),
        (b'{"i":1,"l":2,"f":3.5,"s":"x"}', "missing required field `b`"),
        (with_value(b"unknown", b"[" * 900 + b"]" * 900)[:990], "."),
        (with_value(b"s", b'"' + b"x" * 1000 + b'"'), "more than the 1000 allowed"),
        (None, "tombstone"),
    ],
)
def test_bad_value_fails_alone_and_says_why(numbers: Decoder, bad: bytes | None, says: str) -> None:
    """Its neighbours come through, in order, with the row numbers they came in with."""
    batch = numbers.decode([with_value(b"i", b"10"), bad, with_value(b"i", b"12")])
    (failure,) = batch.failures
    assert failure.row == 1
    assert re.search(says, str(failure.error))
    assert batch.rows is not None
    assert batch.rows.tolist() == [0, 2]
    assert batch.columns["i"].tolist() == [10, 12]


def nested(depth: int, fill: bytes = b"") -> bytes:
    """An event of so many levels, itself being the first."""
    return b'{"x":1,"y":' + b"[" * (depth - 1) + fill + b"]" * (depth - 1) + b"}"


@pytest.mark.parametrize("depth", [501, 2_000, 100_000])
def test_nesting_without_end_is_a_failure(make_schema: MakeSchema, depth: int) -> None:
    """Also where brackets in strings and strings that never end would lead a count astray."""
    small = decoder("json", make_schema({"x": "int"}), [Column("x", "x", "int32")])
    for fill in (b"", rb'"]]}\"]","\\"'):
        (failure,) = small.decode([b'{"x":1}', nested(depth, fill)]).failures
        assert (failure.row, str(failure.error)) == (1, "nested too deeply, more than 500 levels")
    assert len(small.decode([b"[" * depth, b'{"x":"' + b'\\"' * depth, b'{"x":1,"y":"' + b"[" * depth]).failures) == 3


def test_five_hundred_levels_and_any_number_of_brackets_beside_each_other_are_fine(make_schema: MakeSchema) -> None:
    small = decoder("json", make_schema({"x": "int"}), [Column("x", "x", "int32")])
    wide = b'{"x":1,"y":[' + b",".join([b"[{}]"] * 2_000) + b"]}"
    quoted = b'{"x":1,"y":"' + b"[{" * 2_000 + b'"}'
    assert small.decode([nested(500), nested(500, rb'"[[[\"[["'), wide, quoted]).columns["x"].tolist() == [1, 1, 1, 1]


def test_rows_that_are_events_only_together_fail_apart(make_schema: MakeSchema) -> None:
    """What would pass if values were joined by commas: two halves, and one value that holds two events."""
    small = decoder("json", make_schema({"a": "int"}), [Column("a", "a", "int32")])
    for pair in ([b'{"a":1},{"a":2,"x":[{}', b"{}]}"], [b'{"a":1},{"a":2}', b""], [b'{"a":1', b'"b":2}']):
        assert [failure.row for failure in small.decode(pair).failures] == [0, 1]


def test_whole_number_feeds_a_float_field(numbers: Decoder) -> None:
    assert numbers.decode([with_value(b"f", b"3")]).columns["f"].tolist() == [3.0]


def test_negative_zero_and_denormals_survive(make_schema: MakeSchema) -> None:
    wide = decoder("json", make_schema({"f": "double"}), [Column("f", "f", "float64")])
    zero, tiny = wide.decode([b'{"f":-0.0}', b'{"f":5e-324}']).columns["f"].tolist()
    assert math.copysign(1, zero) == -1
    assert tiny == 5e-324


def test_unknown_fields_are_ignored_and_the_last_of_two_equal_names_wins(numbers: Decoder) -> None:
    batch = numbers.decode([with_value(b"__proto__", b'{"__faust":{"ns":"os.system"}}'), GOOD[:-1] + b',"i":7}'])
    assert batch.columns["i"].tolist() == [1, 7]


def test_default_stands_in_for_an_absent_field(make_schema: MakeSchema) -> None:
    schema = make_schema(
        {"name": "x", "type": "int", "default": 5}, {"name": "v", "type": {"type": "array", "items": "float"}, "default": [1, 2]}
    )
    batch = decoder("json", schema, [Column("x", "x", "int32"), Column("v", "v", "float32", (2,))]).decode([b"{}", b'{"x":6}'])
    assert batch.columns["x"].tolist() == [5, 6]
    assert batch.columns["v"].tolist() == [[1, 2], [1, 2]]


def test_null_fails_unless_something_stands_in_for_it(make_schema: MakeSchema) -> None:
    schema = make_schema({"name": "x", "type": ["null", "float"], "default": None})
    values: list[bytes | None] = [b'{"x":null}', b"{}", b'{"x":2}']
    reject = decoder("json", schema, [Column("x", "x", "float32")]).decode(values)
    assert [failure.row for failure in reject.failures] == [0, 1]
    filled = decoder("json", schema, [Column("x", "x", "float32", missing=Missing("fill", math.nan))]).decode(values)
    np.testing.assert_array_equal(filled.columns["x"], np.array([np.nan, np.nan, 2], np.float32))
    unread = decoder("json", schema, []).decode(values)
    assert unread.size == 3
    assert unread.failures == ()


def test_null_that_only_the_schema_allows_is_named(make_schema: MakeSchema) -> None:
    """Not as a type that was expected: the schema has that of null."""
    schema = make_schema({"name": "x", "type": ["null", "string"], "default": None}, {"name": "y", "type": "int"})
    found = decoder("json", schema, [Column("x", "x", "string")]).decode([b'{"x":null,"y":1}', b'{"y":1}'])
    null = "field 'x' is null, and the topology gives no value for nulls (add it under `missing:`)"
    assert [str(one.error) for one in found.failures] == [null, null]
    assert "field `y`" in str(decoder("json", schema, []).decode([b"{}"]).failures[0].error)


def test_null_array_is_filled_in_every_place(make_schema: MakeSchema) -> None:
    schema = make_schema({"v": ["null", {"type": "array", "items": "float", "size": 2}]})
    column = Column("v", "v", "float32", (2,), Missing("fill", 9.0))
    assert decoder("json", schema, [column]).decode([b'{"v":null}', b'{"v":[1,2]}']).columns["v"].tolist() == [[9, 9], [1, 2]]


def test_array_of_another_length_or_content_fails(make_schema: MakeSchema) -> None:
    schema = make_schema({"v": {"type": "array", "items": {"type": "array", "items": "double", "size": 2}}})
    values = [
        b'{"v":[[1,2],[3,4]]}',
        b'{"v":[[1,2]]}',
        b'{"v":[[1,2],[3]]}',
        b'{"v":[[1,2],[3,null]]}',
        b'{"v":[]}',
        b'{"v":[[1,2],[3,1e39]]}',
    ]
    batch = decoder("json", schema, [Column("v", "v", "float32", (2, 2))]).decode(values)
    assert batch.columns["v"].shape == (1, 2, 2)
    assert [failure.row for failure in batch.failures] == [1, 2, 3, 4, 5]


def test_enum_takes_its_symbols_only(make_schema: MakeSchema) -> None:
    schema = make_schema({"e": {"type": "enum", "name": "E", "symbols": ["A", "B"]}})
    batch = decoder("json", schema, [Column("e", "e", "string")]).decode([b'{"e":"B"}', b'{"e":"C"}'])
    assert batch.columns["e"].tolist() == ["B"]
    assert batch.failures[0].row == 1


def test_whole_numbers_must_fit_the_tensor(make_schema: MakeSchema) -> None:
    schema = make_schema({"x": "long"})
    batch = decoder("json", schema, [Column("x", "x", "uint8")]).decode([b'{"x":255}', b'{"x":256}', b'{"x":-1}'])
    assert batch.columns["x"].tolist() == [255]
    assert batch.columns["x"].dtype == np.uint8


def test_empty_batch_has_empty_columns_of_the_right_shape(make_schema: MakeSchema) -> None:
    schema = make_schema({"v": {"type": "array", "items": "float", "size": 3}})
    assert decoder("json", schema, [Column("v", "v", "float32", (3,))]).decode([]).columns["v"].shape == (0, 3)


@pytest.mark.parametrize(
    ("column", "says"),
    [
        (Column("y", "y", "float32"), "no field 'y'"),
        (Column("x", "x", "int64"), "'x' is double and cannot feed int64"),
        (Column("x", "x", "string"), "'x' is double and cannot feed string"),
        (Column("x", "x", "float32", (2,)), r"'x' is double and cannot feed float32\[2\]"),
        (Column("m", "m", "string"), "'m' is map and cannot feed string"),
        (Column("i", "i", "int32", missing=Missing("fill", math.nan)), "nan cannot replace a null of field 'i'"),
        (Column("i", "i", "int32", missing=Missing("fill", "none")), "'none' cannot replace a null of field 'i'"),
    ],
)
def test_column_that_its_field_cannot_feed_is_refused(make_schema: MakeSchema, column: Column, says: str) -> None:
    schema = make_schema({"x": "double", "i": ["null", "int"], "m": {"type": "map", "values": "int"}})
    with pytest.raises(SchemaError, match=says):
        decoder("json", schema, [column])


def test_field_has_one_shape_in_all_its_columns(make_schema: MakeSchema) -> None:
    schema = make_schema({"v": {"type": "array", "items": "float"}})
    with pytest.raises(SchemaError, match=r"as an array of \[2\] and of \[3\]"):
        decoder("json", schema, [Column("a", "v", "float32", (2,)), Column("b", "v", "float32", (3,))])


def test_max_bytes_holds_for_a_record_not_for_the_batch(make_schema: MakeSchema) -> None:
    small = decoder("json", make_schema({"x": "int"}), [Column("x", "x", "int32")], max_bytes=8)
    assert [failure.row for failure in small.decode([b'{"x":10}', b'{"x":100}', b'{"x":10}']).failures] == [1]


def test_encoded_rows_are_objects_in_the_order_of_the_fields() -> None:
    """A newline inside a string is escaped, so a value is always one line."""
    fields = [Tensor("id", "string"), Tensor("ok", "bool"), Tensor("n", "int64"), Tensor("v", "float32", (2,))]
    columns = [np.array(["a\n", "ü"], object), np.array([True, False]), np.array([1, -2]), np.array([[0.5, 1], [2, 3]], np.float32)]
    values, errors = encoder("json", fields).encode(columns)
    assert values == [
        b'{"id":"a\\n","ok":true,"n":1,"v":[0.5,1.0]}',
        '{"id":"ü","ok":false,"n":-2,"v":[2.0,3.0]}'.encode(),
    ]
    assert errors == {}


def test_float32_has_its_own_digits_unless_the_schema_has_a_double(make_schema: MakeSchema) -> None:
    """0.1 as float32 is 0.10000000149011612 as a double, which a reader of doubles has to get."""
    fields = [Tensor("f", "float32"), Tensor("v", "float32", (2,)), Tensor("d", "float64"), Tensor("n.f", "float32")]
    rows = np.array([[0.1, 1 / 3], [16777216, 1e-20]], np.float32)
    columns = [rows[:, 0], rows, np.array([0.1, 1 / 3]), np.array([None, rows[1, 1].item()], object)]
    values, errors = encoder("json", fields).encode(columns)
    assert errors == {}
    assert values == [
        b'{"f":0.1,"v":[0.1,0.33333334],"d":0.1,"n":{"f":null}}',
        b'{"f":16777216.0,"v":[16777216.0,1e-20],"d":0.3333333333333333,"n":{"f":1e-20}}',
    ]
    schema = make_schema({"f": "float", "v": {"type": "array", "items": "double"}})
    (value, _), _ = encoder("json", fields[:2], schema).encode(columns[:2])
    assert value == b'{"f":0.1,"v":[0.10000000149011612,0.3333333432674408]}'


def test_row_that_json_cannot_say_fails_alone() -> None:
    fields = [Tensor("s", "string"), Tensor("x", "float32"), Tensor("v", "float64", (1,))]
    columns = [np.array(["a", "\ud800", "c", "d"], object), np.array([1, 1, np.nan, 1], np.float32), np.array([[1], [1], [1], [np.inf]])]
    values, errors = encoder("json", fields).encode(columns)
    assert [value != b"" for value in values] == [True, False, False, False]
    assert {row: str(error) for row, error in errors.items()} == {
        1: "a string is not valid Unicode: surrogates not allowed",
        2: "field 'x' is not a finite number",
        3: "field 'v[0]' is not a finite number",
    }


def test_sink_must_fit_its_schema(make_schema: MakeSchema) -> None:
    schema = make_schema({"score": "float", "other": "int"})
    with pytest.raises(SchemaError) as caught:
        encoder("json", [Tensor("score", "float64"), Tensor("extra", "string")], schema)
    assert [problem.message for problem in caught.value.problems] == [
        "field 'score' is float and cannot hold score: float64[N]",
        "the sink writes 'extra', which is not a field",
        "field 'other' has no default and the sink does not write it",
    ]


def test_json_behind_a_frame_is_read_as_without(make_schema: MakeSchema) -> None:
    """Case 16. A value without a frame fails alone, and failures keep the numbers of their rows."""
    columns = [Column("x", "x", "float32")]
    framed = decoder("json-confluent", make_schema({"x": "float"}), columns)
    one, two = b'\0\0\0\0\x07{"x":1}', b"\1" + bytes(16) + b'{"x":2}'
    assert framed.decode([one, two]).columns["x"].tolist() == [1, 2]
    batch = framed.decode([b'{"x":1}', one, b"", one[:5], None, b"\0\0\0\0\x07[]", two])
    assert (batch.columns["x"].tolist(), batch.rows is not None and batch.rows.tolist()) == ([1, 2], [1, 6])
    assert [failure.row for failure in batch.failures] == [0, 2, 3, 4, 5]
    assert "no Confluent frame" in str(batch.failures[0].error)
    assert framed.decode([]).size == 0
    assert framed.decode([b"?"]).failures[0].row == 0


def test_sink_writes_json_behind_a_frame(make_schema: MakeSchema) -> None:
    fields = [Tensor("x", "float32")]
    written = encoder("json-confluent", fields, make_schema({"x": "float"}), frame=frame_of(7))
    values, errors = written.encode([np.array([1, np.nan], np.float32)])
    assert (values, [*errors]) == ([b'\0\0\0\0\7{"x":1.0}', b""], [1])
