"""Avro: datums alone and framed, old writers for new readers, and bytes that anyone may have sent."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pytest

from penstock.codecs import decoder, encoder
from penstock.errors import SchemaError
from penstock.schema import Column, Missing, Schema
from penstock.signature import Tensor

MakeSchema = Callable[..., Schema]

MANY = 40  # more rows than are read one by one


def datum(schema: Schema, **values: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, schema.avro, values)
    return out.getvalue()


def only_failure(schema: Schema, columns: list[Column], bad: bytes | None, good: bytes) -> str:
    """What the decoder says of `bad`, alone and among enough good ones to be read all together: the same, and only of it."""
    decode = decoder("avro", schema, columns, max_bytes=10_000).decode
    (alone,) = decode([bad]).failures
    together = decode([*[good] * MANY, bad, *[good] * MANY])
    (among,) = together.failures
    assert among.row == MANY
    assert together.size == 2 * MANY
    assert str(among.error) == str(alone.error)
    return str(alone.error)


@pytest.mark.parametrize(
    ("type", "bad", "says"),
    [
        ("int", b"", "ends too soon in field 'x'"),
        ("int", b"\x80", "ends too soon"),
        ("int", b"\x02\x00", "1 bytes after the datum"),
        ("int", b"\x80" * 9 + b"\x01", "not a 32-bit number"),
        ("long", b"\xff" * 10 + b"\x01", "more than 64 bits"),
        ("long", b"\xff" * 9 + b"\x7f", "more than 64 bits"),
        ("boolean", b"\x02", "not a boolean"),
        ("float", b"\x00\x00\x80", "ends too soon"),
        ("float", struct.pack("<f", math.nan), "not a finite number"),
        ("double", struct.pack("<d", math.inf), "not a finite number"),
        ("double", struct.pack("<d", 1e300), "above 3.4028234663852886e+38"),
        ("string", b"\x01", "negative length"),
        ("string", b"\x10ab", "ends too soon"),
        ("string", b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01", "ends too soon"),
        ("string", b"\x02\xff", "invalid UTF-8"),
        ("string", b"\x04ab\x00", "1 bytes after"),
        ({"type": "enum", "name": "E", "symbols": ["A"]}, b"\x02", "enum index 1 of 1"),
        ({"type": "enum", "name": "E", "symbols": ["A"]}, b"\x01", "enum index -1 of 1"),
        (["null", "int"], b"\x04\x02", "union index 2 of 2"),
        (["null", "int"], b"\x01", "union index -1 of 2"),
        (["null", "int"], b"\x00", "'x' is null"),
        ({"type": "array", "items": "float", "size": 1}, b"\x00", "not an array of 1"),
        ({"type": "array", "items": "float", "size": 1}, b"\x02\x00\x00\x80\x3f", "ends too soon"),
        ({"type": "array", "items": "float", "size": 1}, b"\x02\x00\x00\xc0\x7f\x00", "x[0]' is nan, not a finite number"),
        ({"type": "array", "items": "float", "size": 1}, b"\x80\x80\x80\x80\x10" + bytes(9), "ends too soon"),
        ({"type": "array", "items": "float", "size": 1}, b"\x01\xff\xff\xff\xff\x0f", "negative length"),
        ({"type": "array", "items": "float", "size": 1}, b"\x01\x01", "negative length"),
        ("int", None, "tombstone"),
        ("string", b"\xa0\x9c\x01" + b"x" * 10_000, "more than the 10000 allowed"),
    ],
)
def test_bad_datum_fails_alone_and_says_why(make_schema: MakeSchema, type: Any, bad: bytes | None, says: str) -> None:
    schema = make_schema({"name": "x", "type": type})
    (field,) = schema.fields
    fine = {"boolean": True, "string": "s", "enum": "A", "array": [1.0]}.get(field.kind, 1)
    column = Column("x", "x", field.dtype.replace("float64", "float32"), (1,) if field.kind == "array" else ())
    assert says in only_failure(schema, [column], bad, datum(schema, x=fine))


def test_array_of_billions_of_nothings_is_refused_before_it_is_made(make_schema: MakeSchema) -> None:
    """Items of no bytes could be counted without end in a body of a few."""
    schema = make_schema({"x": "int"}, {"a": {"type": "array", "items": {"type": "record", "name": "Void", "fields": []}}})
    assert "ends too soon" in only_failure(schema, [], b"\x02\x80\x80\x80\x80\x10\x00", datum(schema, x=1, a=[]))


def test_recursive_datum_is_read_to_a_bounded_depth(make_schema: MakeSchema) -> None:
    link = {"type": "record", "name": "Link", "fields": [{"name": "next", "type": ["null", "Link"]}]}
    schema = make_schema({"name": "x", "type": link})
    assert "nested too deeply" in only_failure(schema, [], b"\x02" * 5_000 + b"\x00", b"\x02\x02\x00")


def test_all_kinds_are_read_alike_alone_and_together(make_schema: MakeSchema) -> None:
    """Numbers of every length, nulls in each order of the union, text beyond ASCII, fields that nobody reads, arrays in two blocks."""
    enum = {"type": "enum", "name": "E", "symbols": ["A", "B"]}
    schema = make_schema(
        {"i": "int", "l": "long", "f": "float", "d": "double", "b": "boolean", "s": "string", "e": enum},
        {"t": {"type": "long", "logicalType": "timestamp-millis"}, "o": ["null", "string"], "p": ["float", "null"]},
        {"v": {"type": "array", "items": "double"}, "raw": "string"},
    )
    columns = [Column(f.name, f.name, f.dtype) for f in schema.fields if f.name not in ("o", "p", "v", "raw")]
    columns += [Column("o", "o", "string", missing=Missing("fill", "none")), Column("p", "p", "float32", missing=Missing("fill", math.nan))]
    columns += [Column("v", "v", "float32", (2,))]
    rows = [
        {
            "i": (-1) ** n * 7**n % 2**31, "l": (-1) ** n * 2 ** (n % 63), "f": n / 8, "d": 1 / (n + 1), "b": n % 3 == 0,
            "s": "aé"[n % 2] * n,
            "e": "AB"[n % 2], "t": 1_700_000_000_000 + n, "o": None if n % 2 else "x" * n * 100, "p": None if n % 5 == 0 else n / 2,
            "v": [n, -n], "raw": "ü" * n,
        }
        for n in range(3 * MANY)
    ]  # fmt: skip
    bodies = [datum(schema, **row) for row in rows]
    decode = decoder("avro", schema, columns).decode
    together, alone = decode(bodies), [decode([body]) for body in bodies]
    assert together.failures == ()
    for column in columns:
        parts = [batch.columns[column.name] for batch in alone]
        np.testing.assert_array_equal(together.columns[column.name], np.concatenate(parts))
        assert together.columns[column.name].dtype == parts[0].dtype
    assert together.columns["s"].tolist() == [row["s"] for row in rows]
    assert together.columns["o"].tolist() == ["none" if row["o"] is None else row["o"] for row in rows]


def test_array_in_several_blocks_is_an_array(make_schema: MakeSchema) -> None:
    schema = make_schema({"v": {"type": "array", "items": "float", "size": 2}})
    one = struct.pack("<f", 1.5)
    split, sized, whole = b"\x02" + one + b"\x02" + one + b"\x00", b"\x03\x10" + one * 2 + b"\x00", b"\x04" + one * 2 + b"\x00"
    batch = decoder("avro", schema, [Column("v", "v", "float32", (2,))]).decode([split, sized, *[whole] * MANY])
    assert batch.failures == ()
    assert (batch.columns["v"] == 1.5).all()


def test_nan_passes_where_nan_stands_in_for_null_and_infinity_never(make_schema: MakeSchema) -> None:
    schema = make_schema({"x": "float"})
    column = Column("x", "x", "float32", missing=Missing("fill", math.nan))
    batch = decoder("avro", schema, [column]).decode([struct.pack("<f", value) for value in (math.nan, math.inf, 1)])
    assert [failure.row for failure in batch.failures] == [1]
    np.testing.assert_array_equal(batch.columns["x"], np.array([np.nan, 1], np.float32))


def test_frame_names_the_schema_that_wrote(make_schema: MakeSchema) -> None:
    """Old and new writers in one batch, read by today's schema: promotion, a new field's default, another order, rows in order."""
    old = make_schema({"x": "int", "gone": "string"}, path="ids/7.avsc")
    new = make_schema({"y": "string", "x": "float"}, path="ids/300.avsc")
    today = make_schema({"name": "x", "type": "double"}, {"name": "y", "type": "string", "default": "?"})
    olds = [b"\0\0\0\0\x07" + datum(old, x=n, gone="") for n in range(MANY)]
    news = [b"\0\0\0\x01\x2c" + datum(new, x=n + 0.5, y="!") for n in range(MANY)]
    bad = [b"", b"\0\0\0\0", b"\1" + olds[0][1:], b"\0\0\0\0\x09x", b"\0\xff\xff\xff\xffx", None, olds[0] + b"x", b"\0\0\0\0\x07"]
    values = [value for pair in zip(olds, news, strict=True) for value in pair] + bad
    batch = decoder("avro-confluent", today, [Column("x", "x", "float64"), Column("y", "y", "string")]).decode(values)
    assert batch.columns["x"].tolist() == [n / 2 for n in range(2 * MANY)]
    assert batch.columns["y"].tolist() == ["?", "!"] * MANY
    assert [failure.row for failure in batch.failures] == list(range(2 * MANY, 2 * MANY + len(bad)))
    said = [str(failure.error) for failure in batch.failures]
    assert [text.split(";")[0] for text in said[2:5]] == [
        "no Confluent frame: expected a zero byte and a schema id of four bytes", "unknown schema id 9", "unknown schema id 4294967295",
    ]  # fmt: skip


def test_symbol_that_the_reader_does_not_know_fails_its_row(make_schema: MakeSchema) -> None:
    enum = {"type": "enum", "name": "E"}
    writer = make_schema({"e": {**enum, "symbols": ["A", "B", "C"]}}, path="ids/1.avsc")
    reader = make_schema({"e": {**enum, "symbols": ["C", "A"]}})
    values = [b"\0\0\0\0\x01" + datum(writer, e=symbol) for symbol in "ABC"]
    batch = decoder("avro-confluent", reader, [Column("e", "e", "string")]).decode(values)
    assert batch.columns["e"].tolist() == ["A", "C"]
    assert "'B' is a symbol" in str(batch.failures[0].error)


def test_writer_that_does_not_resolve_is_refused_at_start(make_schema: MakeSchema, tmp_path: Path) -> None:
    reader = make_schema({"x": "int", "y": "string"})
    with pytest.raises(SchemaError, match="the folder has no writer schemas"):
        decoder("avro-confluent", reader, [])
    make_schema({"x": "string"}, path="ids/1.avsc")
    with pytest.raises(SchemaError) as caught:
        decoder("avro-confluent", reader, [])
    assert [problem.message for problem in caught.value.problems] == ["field 'x' is string and cannot be read as int", "has no field 'y'"]
    make_schema({"x": "int"}, path="ids/one.avsc")
    with pytest.raises(SchemaError, match="the file name is not a schema id"):
        decoder("avro-confluent", reader, [])


def test_encoded_rows_are_what_fastavro_reads(make_schema: MakeSchema) -> None:
    schema = make_schema(
        {"id": "string", "n": ["null", "long"], "f": "float", "d": ["double", "null"], "ok": "boolean"},
        {"name": "note", "type": ["null", "string"], "default": None},
        {"name": "kind", "type": {"type": "enum", "name": "E", "symbols": ["A", "B"]}},
        {"name": "v", "type": {"type": "array", "items": {"type": "array", "items": "float"}}},
        {"name": "w", "type": {"type": "array", "items": "int"}, "default": [1, 2]},
    )
    fields = [Tensor("f", "float32"), Tensor("id", "string"), Tensor("n", "int64"), Tensor("d", "float64"), Tensor("ok", "bool")]
    fields += [Tensor("kind", "string"), Tensor("v", "float32", (2, 1))]
    columns = [
        np.array([0.1, 2], np.float32), np.array(["ü" * 5000, ""], object), np.array([-(2**63), 8192]), np.array([0.1, 5e-324]),
        np.array([True, False]), np.array(["B", "A"], object), np.array([[[1], [2]], [[3], [4]]], np.float32),
    ]  # fmt: skip
    values, errors = encoder("avro", fields, schema).encode(columns)
    assert errors == {}
    read: list[Any] = [fastavro.schemaless_reader(io.BytesIO(value), schema.avro, None) for value in values]
    rest = {"note": None, "w": [1, 2]}
    assert read == [
        {"id": "ü" * 5000, "n": -(2**63), "f": np.float32(0.1), "d": 0.1, "ok": True, "kind": "B", "v": [[1], [2]], **rest},
        {"id": "", "n": 8192, "f": 2, "d": 5e-324, "ok": False, "kind": "A", "v": [[3], [4]], **rest},
    ]


def test_row_that_avro_cannot_say_fails_alone(make_schema: MakeSchema) -> None:
    schema = make_schema({"s": "string", "x": "float", "e": {"type": "enum", "name": "E", "symbols": ["A"]}})
    fields = [Tensor("s", "string"), Tensor("x", "float32"), Tensor("e", "string")]
    columns = [np.array(["a", "\ud800", "c", "d"], object), np.array([1, 1, np.nan, 1], np.float32), np.array(["A", "A", "A", "B"], object)]
    values, errors = encoder("avro", fields, schema).encode(columns)
    assert [value != b"" for value in values] == [True, False, False, False]
    assert sorted(errors) == [1, 2, 3]


def test_encoder_frames_with_the_id_of_its_schema(make_schema: MakeSchema) -> None:
    schema = make_schema({"x": "int"})
    fields = [Tensor("x", "int32")]
    with pytest.raises(SchemaError, match="needs a schema"):
        encoder("avro", fields)
    make_schema({"x": "long"}, path="ids/1.avsc")
    with pytest.raises(SchemaError, match="not among the schemas"):
        encoder("avro-confluent", fields, schema)
    make_schema({"x": "int"}, path="ids/258.avsc")
    assert encoder("avro-confluent", fields, schema).encode([np.array([1], np.int32)])[0] == [b"\0\0\0\1\2\x02"]
