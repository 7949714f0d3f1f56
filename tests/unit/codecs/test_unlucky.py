"""Events and schemas that have ended a worker, taken its memory, or been read as something that they are not."""

from __future__ import annotations

import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.batch import Table
from penstock.codecs import Writers, decoder, encoder
from penstock.codecs.avro import AvroDecoder
from penstock.codecs.table import TableDecoder
from penstock.errors import SchemaError
from penstock.schema import Column, Field, Missing, Schema, writes
from penstock.signature import Tensor
from tests.unit.codecs.conftest import MakeSchema
from tests.unit.codecs.test_nested import datum

FRAME = b"\0\0\0\0\7"
NAN = Missing("fill", float("nan"))


def reasons(batch: Any) -> list[str]:
    return [str(failure.error) for failure in batch.failures]


def evolved(reader: Schema, writer: Schema, column: Column, *events: dict[str, Any]) -> Any:
    decode = AvroDecoder(reader, [column], max_bytes=1000, writers=Writers(reader, {FRAME: writer})).decode
    return decode([FRAME + datum(writer, event) for event in events])


class TestOneEvent:
    """What one event could do to a worker."""

    def test_a_whole_number_beyond_every_double(self, make_schema: MakeSchema) -> None:
        schema = make_schema({"x": "double"})
        value = b'{"x":1' + b"0" * 400 + b"}"
        batch = decoder("json", schema, [Column("x", "x", "float64")], coerce=["decimals"]).decode([value, b'{"x":1}'])
        assert batch.columns["x"].tolist() == [1]
        assert "out of range" in reasons(batch)[0]

    def test_records_that_nest_beyond_the_stack(self, make_schema: MakeSchema) -> None:
        inner: Any = "N"
        for i in range(12):
            inner = {"type": "record", "name": f"M{i}", "fields": [{"name": "n", "type": ["null", inner]}]}
        schema = make_schema({"x": "int"}, {"n": {"type": "record", "name": "N", "fields": [{"name": "n", "type": ["null", inner]}]}})
        batch = decoder("avro", schema, [Column("x", "x", "int32")]).decode(
            [b"\0" + b"\2" * 3000, datum(schema, {"x": 7, "n": {"n": None}})]
        )
        assert batch.columns["x"].tolist() == [7]
        assert reasons(batch)[0].startswith("nested too deeply")

    def test_a_branching_type_keeps_no_memory(self, make_schema: MakeSchema) -> None:
        tree = {
            "type": "record",
            "name": "T",
            "fields": [{"name": "v", "type": "long"}, {"name": "a", "type": ["null", "T"]}, {"name": "b", "type": ["null", "T"]}],
        }
        schema = make_schema({"x": "int"}, {"t": tree})

        def grown(depth: int) -> dict[str, Any] | None:
            return None if not depth else {"v": 1, "a": grown(depth - 1), "b": grown(depth - 1)}

        value = datum(schema, {"x": 1, "t": grown(13)})
        decode = decoder("avro", schema, [Column("x", "x", "int32")]).decode
        decode([value])
        tracemalloc.start()
        decode([value])
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert kept < len(value)

    @pytest.mark.parametrize("items", [{"type": "fixed", "name": "F", "size": 0}, {"type": "record", "name": "R", "fields": []}])
    def test_items_without_bytes_cost_nothing(self, make_schema: MakeSchema, items: Any) -> None:
        schema = make_schema({"x": "int"}, {"v": {"type": "array", "items": items}})
        count = b"\xfe\xff\x03"  # 32,767 of them in each block
        value = b"\2" + count * 33_000 + b"\0"
        began = time.process_time()
        batch = decoder("avro", schema, [Column("x", "x", "int32")]).decode([value])
        assert len(batch.failures) == 1  # the counts of the last blocks are larger than what is left
        assert time.process_time() - began < 10  # a thousand million items: minutes, when each was looked at

    def test_false_lengths_take_no_memory(self, make_schema: MakeSchema) -> None:
        schema = make_schema({"s": "string", "t": "string"})
        value = b"\xc0\xee\x6d" + b"x" * 1000  # says 900,000
        decode = decoder("avro", schema, [Column("s", "s", "string"), Column("t", "t", "string")]).decode
        tracemalloc.start()
        batch = decode([value] * 1024)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(batch.failures) == 1024
        assert peak < 50 * 1024**2

    def test_null_items_that_the_reader_forbids(self, make_schema: MakeSchema) -> None:
        for kind, dtype, good in (("double", "float64", [1.0, 2.0]), ("string", "string", ["a", "b"])):
            reader = make_schema({"v": {"type": "array", "items": kind, "size": 2}})
            writer = make_schema({"v": {"type": "array", "items": ["null", kind]}}, path="w.avsc")
            batch = evolved(reader, writer, Column("v", "v", dtype, (2,)), {"v": good}, {"v": [good[0], None]})
            assert batch.columns["v"].tolist() == [good]
            assert reasons(batch) == ["an item of an array is null, which the reader's schema forbids"]


class TestEvolution:
    def test_new_field_inside_a_null_is_null(self, make_schema: MakeSchema) -> None:
        old = {"type": "record", "name": "Q", "fields": [{"name": "x", "type": "int"}]}
        new = {**old, "fields": [*old["fields"], {"name": "n", "type": "double", "default": 9}]}
        reader, writer = make_schema({"a": ["null", new]}), make_schema({"a": ["null", old]}, path="w.avsc")
        batch = evolved(reader, writer, Column("n", "a.n", "float64", missing=NAN), {"a": None}, {"a": {"x": 1}})
        np.testing.assert_array_equal(batch.columns["n"], [np.nan, 9])
        assert len(evolved(reader, writer, Column("n", "a.n", "float64"), {"a": None}).failures) == 1

    def test_defaults_inside_a_default(self, make_schema: MakeSchema) -> None:
        inner = {"type": "record", "name": "I", "fields": [{"name": "amount", "type": "double", "default": 5}]}
        reader = make_schema({"x": "int"}, {"name": "after", "type": inner, "default": {}})
        column = Column("a", "after.amount", "float64")
        assert evolved(reader, make_schema({"x": "int"}, path="w.avsc"), column, {"x": 1}).columns["a"].tolist() == [5]
        assert decoder("json", reader, [column]).decode([b'{"x":1}']).columns["a"].tolist() == [5]

    def test_enum_defaults_in_arrays_and_maps(self, make_schema: MakeSchema) -> None:
        def enum(*symbols: str, **more: str) -> dict[str, Any]:
            return {"type": "enum", "name": "S", "symbols": [*symbols], **more}

        reader = make_schema(
            {"v": {"type": "array", "items": enum("A", "B", default="A"), "size": 2}}, {"m": {"type": "map", "values": "S"}}
        )
        columns = [Column("v", "v", "string", (2,)), Column("m", "m.k", "string")]
        batch = decoder("json", reader, columns).decode([b'{"v":["B","Z"],"m":{"k":"Z"}}'])
        assert (batch.columns["v"].tolist(), batch.columns["m"].tolist()) == ([["B", "A"]], ["A"])
        writer = make_schema({"v": {"type": "array", "items": enum("A", "B", "Z")}}, {"m": {"type": "map", "values": "S"}}, path="w.avsc")
        event = {"v": ["B", "Z"], "m": {"k": "Z"}}
        assert evolved(reader, writer, columns[0], event).columns["v"].tolist() == [["B", "A"]]
        strict = make_schema(
            {"v": {"type": "array", "items": enum("A", "B"), "size": 2}}, {"m": {"type": "map", "values": "S"}}, path="s.avsc"
        )
        assert reasons(evolved(strict, writer, columns[0], event)) == ["'Z' is a symbol that is not in the reader's schema"]

    def test_table_reads_an_enum_with_its_default(self, make_schema: MakeSchema) -> None:
        schema = make_schema({"e": {"type": "enum", "name": "S", "symbols": ["A"], "default": "A"}})
        batch = TableDecoder(schema, [Column("e", "e", "string")]).decode(Table("t", {"e": np.array(["Z", "A"], object)}))
        assert batch.columns["e"].tolist() == ["A", "A"]

    def test_list_inside_itself_fails_its_row(self, make_schema: MakeSchema) -> None:
        schema = make_schema({"v": {"type": "array", "items": "double"}})
        given = np.empty(2, object)
        given[0], given[1] = [1.0], [2.0]
        given[0].append(given[0])
        batch = TableDecoder(schema, [Column("v", "v", "float64", (1,))]).decode(Table("t", {"v": given}))
        assert batch.columns["v"].tolist() == [[2.0]]
        assert [failure.row for failure in batch.failures] == [0]


class TestSchemas:
    @pytest.mark.parametrize(
        ("field", "says"),
        [
            ({"name": "a", "type": "int", "aliases": ['a"b']}, "has a quote, a backslash or a control character"),
            ({"name": "a", "type": "int", "aliases": ["\ud800"]}, "has a quote, a backslash or a control character"),
            ({"name": "a", "type": {"type": "record", "name": "map", "fields": [{"name": "x", "type": "int"}]}}, "a type called 'map'"),
            ({"name": "t", "type": "long", "logicalType": "timestamp-millis"}, "'logicalType' is beside the type, where Avro ignores it"),
            (
                {"name": "r", "type": {"type": "record", "name": "R", "fields": [{"name": "x", "type": "float"}]}, "default": {"x": "a"}},
                'the default {"x": "a"} is not a valid record',
            ),
            ({"name": "m", "type": {"type": "map", "values": "double"}, "default": {"w": "x"}}, "is not a valid map"),
        ],
    )
    def test_what_no_decoder_could_read_is_refused(self, make_schema: MakeSchema, field: dict[str, Any], says: str) -> None:
        with pytest.raises(SchemaError, match=says.replace("{", r"\{")):
            make_schema(field)

    def test_array_with_null_items_cannot_be_written(self) -> None:
        assert not writes("float32", Field("v", "array", items=Field("items", "float", optional=True)))

    def test_default_of_bytes_is_written(self, make_schema: MakeSchema, tmp_path: Path) -> None:
        schema = make_schema({"x": "float"}, {"name": "b", "type": "bytes", "default": "\u00ff"})
        values, errors = encoder("avro", [Tensor("x", "float32")], schema).encode([np.array([1], np.float32)])
        assert (values, errors) == ([b"\0\0\x80\x3f\2\xff"], {})

    def test_text_of_a_long_whole_number_is_not_rounded(self, make_schema: MakeSchema) -> None:
        decode = decoder("json", make_schema({"n": "long"}), [Column("n", "n", "int64")], coerce=["decimals"]).decode
        texts = ["9007199254740993.0", "9223372036854775807.0", "1e3", "+-5", "1e9999"]
        batch = decode([json.dumps({"n": text}).encode() for text in texts])
        assert batch.columns["n"].tolist() == [9007199254740993, 9223372036854775807, 1000]
        assert ["is not a number" in one or "out of range" in one for one in reasons(batch)] == [True, True]
