"""Protobuf, for any values and any bytes: what goes in comes out, and no batch judges a message otherwise than the message alone."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.codecs import decoder, event_reader, event_writer, load_schema
from penstock.schema import Column, Missing, Schema

PROTO: Final = """\
syntax = "proto2";
message Event {
  optional int32 i = 1; optional uint32 u = 2; optional sint64 z = 3; optional float f = 4; optional string s = 5;
  optional E e = 6; optional In in = 7; map<string, double> m = 8; oneof o { int64 a = 9; string b = 10; } repeated int32 v = 11;
  message In { required bool must = 1; optional In in = 2; }
  enum E { A = 1; B = 2; }
}
"""
TEXT: Final = st.text(st.characters(codec="utf-8"), max_size=9)
EVENTS: Final = st.fixed_dictionaries(
    {},
    optional={
        "i": st.integers(-(2**31), 2**31 - 1),
        "u": st.integers(0, 2**32 - 1),
        "z": st.integers(-(2**63), 2**63 - 1),
        "f": st.floats(width=32, allow_nan=False, allow_infinity=False),
        "s": TEXT,
        "e": st.sampled_from("AB"),
        "in": st.fixed_dictionaries({"must": st.booleans()}),
        "m": st.dictionaries(st.sampled_from("xy"), st.floats(allow_nan=False, allow_infinity=False)),
        "a": st.integers(-(2**63), 2**63 - 1),
        "v": st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3),
    },
)
# Bytes, and what looks like fields: a tag, then a varint or a length and that many bytes.
PIECES: Final = st.one_of(
    st.binary(max_size=4),
    st.builds(lambda number, value: bytes([number << 3, value & 127]), st.integers(1, 11), st.integers(0, 127)),
    st.builds(lambda number, data: bytes([number << 3 | 2, len(data)]) + data, st.integers(1, 11), st.binary(max_size=9)),
)
COLUMNS: Final = {"i": "int32", "u": "int64", "z": "int64", "f": "float32", "s": "string", "e": "string",
                  "in.must": "bool", "m.x": "float64",
                  "a": "int64", "v[0]": "int32"}  # fmt: skip


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Schema:
    file = tmp_path_factory.mktemp("schemas") / "event.proto"
    file.write_text(PROTO)
    return load_schema(f"{file}#Event")


def columns() -> list[Column]:
    return [Column(name, name, dtype, missing=Missing("fill", None)) for name, dtype in COLUMNS.items()]


@given(event=EVENTS)
def test_message_is_read_as_it_was_written(schema: Schema, event: dict[str, Any]) -> None:
    value = event_writer("protobuf", schema)(event)
    seen = event_reader("protobuf", schema)(value)
    assert {name: seen[name] for name in event if name != "in"} == {name: given for name, given in event.items() if name != "in"}
    batch = decoder("protobuf", schema, columns()).decode([value])
    assert not batch.failures
    wanted = event | {
        "in.must": event.get("in", {}).get("must"),
        "m.x": event.get("m", {}).get("x"),
        "v[0]": [*event.get("v", []), None][0],
    }
    for name in COLUMNS:
        assert batch.columns[name][0] == wanted.get(name), name


@given(values=st.lists(st.lists(PIECES, max_size=6).map(b"".join), max_size=8))
def test_batch_judges_a_message_as_alone(schema: Schema, values: list[bytes]) -> None:
    decode = decoder("protobuf", schema, columns()).decode
    batch, alone = decode([*values]), [decode([value]) for value in values]
    assert [(one.row, str(one.error)) for one in batch.failures] == [
        (row, str(one.failures[0].error)) for row, one in enumerate(alone) if one.failures
    ]
    good = [one for one in alone if not one.failures]
    for name in COLUMNS:
        assert batch.columns[name].tolist() == [one.columns[name][0] for one in good]


@given(value=st.lists(PIECES, max_size=6).map(b"".join))
def test_part_that_is_read_is_that_of_the_whole_message(schema: Schema, value: bytes) -> None:
    """The decoder reads a part of the message only; where the library reads all of it, both have the same values."""
    batch = decoder("protobuf", schema, columns()).decode([value])
    try:
        whole = event_reader("protobuf", schema)(value)
    except ValueError:
        return
    if batch.failures:  # required fields are not asked for by the reader of events, and it drops symbols that it does not know
        return
    for name in ("i", "z", "f", "s", "e", "a"):
        assert batch.columns[name].tolist() == [whole[name]] or np.isnan(whole["f"] or 0), name
