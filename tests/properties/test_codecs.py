"""Codecs, for any values and any bytes: what goes in comes out, and no batch judges a record otherwise than the record alone."""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.codecs import Format, decoder, encoder, load_schema
from penstock.codecs.framing import frame_of
from penstock.errors import DecodeError, SchemaError
from penstock.schema import Column, Missing, Schema
from penstock.signature import Tensor

# Bytes have no fields, and the schemas of Protobuf are others: test_protobuf
FORMATS: Final = [one for one in get_args(Format) if one != "bytes" and not one.startswith("protobuf")]

# More rows than Avro reads one by one, whatever else is drawn.
MANY: Final = 20

AVRO: Final = {
    "type": "record",
    "name": "Event",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "i", "type": "int"},
        {"name": "l", "type": "long"},
        {"name": "f", "type": "float"},
        {"name": "d", "type": "double"},
        {"name": "b", "type": "boolean"},
        {"name": "e", "type": {"type": "enum", "name": "E", "symbols": ["A", "B", "C"]}},
        {"name": "t", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "v", "type": {"type": "array", "items": "double", "size": 2}},
        {"name": "o", "type": ["null", "string"], "default": None},
        {"name": "unread", "type": "string", "default": "é"},
    ],
}
SHAPES: Final = {"v": (2,)}
TEXT: Final = st.text(st.characters(codec="utf-8"), max_size=20)
VALUES: Final[dict[str, st.SearchStrategy[Any]]] = {
    "id": TEXT,
    "i": st.integers(-(2**31), 2**31 - 1),
    "l": st.integers(-(2**63), 2**63 - 1),
    "f": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "d": st.floats(allow_nan=False, allow_infinity=False),
    "b": st.booleans(),
    "e": st.sampled_from("ABC"),
    "t": st.integers(-(2**63), 2**63 - 1),
    "v": st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=2),
    "o": TEXT,
}
ROWS: Final = st.lists(st.fixed_dictionaries(VALUES), max_size=MANY * 2)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("schemas")
    (made / "5.avsc").write_text(json.dumps(AVRO))
    return made


def columns(schema: Schema) -> list[Column]:
    read = [field for field in schema.fields if field.name != "unread"]
    return [Column(field.name, field.name, field.dtype, SHAPES.get(field.name, ())) for field in read]


def encoded(format: Format, directory: Path, rows: Sequence[dict[str, Any]]) -> tuple[Sequence[bytes], dict[str, Any]]:
    """The rows as values of the format, and as the arrays that they were written from."""
    schema = load_schema(directory / "5.avsc")
    made = {}
    for column in columns(schema):
        axes = [axis for axis in column.shape if axis is not None]
        array = np.empty((len(rows), *axes), object if column.dtype == "string" else column.dtype)
        for at, row in enumerate(rows):
            array[at] = row[column.name]
        made[column.name] = array
    fields = [Tensor(column.name, column.dtype, column.shape) for column in columns(schema)]
    frame = frame_of(5) if format == "json-confluent" else b""
    values, errors = encoder(format, fields, schema, ids=directory, frame=frame).encode(list(made.values()))
    assert errors == {}
    return values, made


@pytest.mark.parametrize("format", FORMATS)
@given(rows=ROWS)
def test_decoding_gives_back_what_was_encoded(format: Format, directory: Path, rows: list[dict[str, Any]]) -> None:
    values, made = encoded(format, directory, rows)
    schema = load_schema(directory / "5.avsc")
    batch = decoder(format, schema, columns(schema), ids=directory).decode(values)
    assert batch.failures == ()
    assert batch.size == len(rows)
    for name, array in made.items():
        assert batch.columns[name].dtype == array.dtype
        np.testing.assert_array_equal(batch.columns[name], array)


def mutated(value: bytes, at: int, cut: int, put: bytes) -> bytes:
    at = at % (len(value) + 1)
    return value[:at] + put + value[at + cut :]


PIECES: Final = st.one_of(
    st.binary(max_size=6),
    st.sampled_from(
        [b"{", b"}", b"[", b"]", b",", b'"', b"},{", b"\\", b"\n", b"null", b"NaN", b"1e999", b"\x80", b"\xff" * 9, b"\x01", b"\x00"]
    ),
)
MUTATION: Final = st.tuples(st.integers(0, 400), st.integers(0, 20), PIECES)


@pytest.mark.parametrize("format", FORMATS)
@given(
    rows=st.lists(st.fixed_dictionaries(VALUES), min_size=1, max_size=4),
    mutations=st.lists(st.one_of(MUTATION, st.binary(max_size=60), st.none()), max_size=MANY),
    optional=st.booleans(),
)
def test_batch_judges_each_record_as_the_record_alone(
    format: Format, directory: Path, rows: list[dict[str, Any]], mutations: list[Any], optional: bool
) -> None:
    """Good rows, damaged rows, any bytes and nulls side by side: the same rows fail, with the same words, and the others are equal."""
    good, _ = encoded(format, directory, rows)
    values: list[bytes | None] = []
    for at in range(MANY + len(mutations)):
        change = mutations[at - MANY] if at >= MANY else None
        value = good[at % len(good)]
        values.append(mutated(value, *change) if isinstance(change, tuple) else change if at >= MANY else value)
    values = values[MANY // 2 :] + values[: MANY // 2]
    schema = load_schema(directory / "5.avsc")
    asked = [
        *columns(schema)[:-1],
        Column("o", "o", "string", missing=Missing("fill", "none")),
        Column("f2", "d", "float32", missing=Missing("fill", float("nan") if optional else 0.0)),
    ]
    decode = decoder(format, schema, asked, max_bytes=2_000, ids=directory).decode
    together, alone = decode(values), [decode([value]) for value in values]
    assert [(failure.row, str(failure.error)) for failure in together.failures] == [
        (row, str(batch.failures[0].error)) for row, batch in enumerate(alone) if batch.failures
    ]
    assert all(isinstance(failure.error, DecodeError) for failure in together.failures)
    fine = [batch for batch in alone if not batch.failures]
    assert together.size == len(fine)
    for column in asked:
        expected = [batch.columns[column.name] for batch in fine]
        came = together.columns[column.name]
        assert came.shape == (len(fine), *column.shape)
        if fine:
            np.testing.assert_array_equal(came, np.concatenate(expected))


JSON: Final = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(string.ascii_letters, max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(["type", "name", "items", "default"]), inner)),
    max_leaves=10,
)
TYPES: Final = st.recursive(
    st.one_of(JSON, st.sampled_from(["null", "int", "string", "bytes", "E"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.fixed_dictionaries(
            {"type": st.sampled_from(["array", "map", "enum", "fixed", "record", "long"])},
            optional={
                "items": inner, "values": inner, "size": JSON, "symbols": JSON, "name": JSON, "logicalType": JSON,
                "fields": st.lists(st.fixed_dictionaries({"name": JSON, "type": inner}), max_size=2),
            },
        ),
    ),
    max_leaves=8,
)  # fmt: skip


@given(
    document=st.one_of(
        JSON.map(json.dumps),
        st.text(max_size=50),
        st.fixed_dictionaries(
            {
                "type": st.just("record"),
                "name": st.one_of(st.just("E"), JSON),
                "fields": st.lists(st.fixed_dictionaries({"name": st.sampled_from("abc"), "type": TYPES}, optional={"default": JSON})),
            }
        ).map(json.dumps),
    )
)
def test_any_file_is_a_schema_or_a_schema_error(directory: Path, document: str) -> None:
    """And what is a schema can be decoded by, in each format."""
    file = directory / "any.txt"
    file.write_text(document, encoding="utf-8", errors="surrogatepass")
    try:
        schema = load_schema(file)
    except SchemaError:
        return
    asked = [Column(field.name, field.name, field.dtype) for field in schema.fields if field.dtype and not field.shape]
    for format in ("json", "avro"):
        assert decoder(format, schema, asked).decode([b"\x00", None]).size <= 1
