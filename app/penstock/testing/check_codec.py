"""The contract of a codec, as a function. A pipeline can use a format that passes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import fastavro
import numpy as np

from penstock.batch import Array, Batch
from penstock.codecs import Decoder, Encoder
from penstock.errors import DecodeError, EncodeError
from penstock.schema import Column, Field, Schema
from penstock.signature import Tensor

__all__ = ["CODEC_SCHEMA", "check_codec"]

# One field of each kind that feeds a tensor.
CODEC_SCHEMA: Final = Schema(
    "CodecCheck",
    (
        Field("id", "string"),
        Field("flag", "boolean"),
        Field("count", "long"),
        Field("score", "float"),
        Field("wide", "double"),
        Field("vector", "array", items=Field("items", "float"), size=3),
    ),
    fastavro.parse_schema(
        {
            "type": "record",
            "name": "CodecCheck",
            "fields": [
                {"name": "id", "type": "string"},
                {"name": "flag", "type": "boolean"},
                {"name": "count", "type": "long"},
                {"name": "score", "type": "float"},
                {"name": "wide", "type": "double"},
                {"name": "vector", "type": {"type": "array", "items": "float", "size": 3}},
            ],
        }
    ),
)
_ROWS: Final = 100


def check_codec(
    make_decoder: Callable[[Schema, Sequence[Column]], Decoder],
    make_encoder: Callable[[Sequence[Tensor], Schema], Encoder],
    bad: Sequence[bytes] = (b"", b"\xff" * 20),
) -> None:
    """Asserts what the pipeline relies on, for a codec of events of `CODEC_SCHEMA`; `bad` are values that are not events.

    Encoded values decode to the same rows, in order, one or a hundred at a time. No rows give no values. A bad value is one
    Failure with a DecodeError under its row number, and a row that cannot be written is b"" with an EncodeError; neither
    changes other rows.
    """
    columns, fields = _columns(), _fields()
    decode, encode = make_decoder(CODEC_SCHEMA, columns).decode, make_encoder(fields, CODEC_SCHEMA).encode
    rows = _rows(_ROWS)
    values, errors = encode(rows)
    assert len(values) == _ROWS, f"{_ROWS} rows became {len(values)} values"
    assert not errors, f"good rows failed: {errors}"
    _check_round_trips(decode, encode, rows, values)
    for at in (0, 50, _ROWS - 1):
        for value in (*bad, None):
            _check_isolation(decode, values, at, value)
    _check_refusal(encode, rows)


def _check_round_trips(
    decode: Callable[[Sequence[bytes | None]], Batch],
    encode: Callable[[Sequence[Array]], tuple[Sequence[bytes], object]],
    rows: Sequence[Array],
    values: Sequence[bytes],
) -> None:
    _same(decode(values), rows, _ROWS)
    for at in (0, 1, _ROWS - 1):
        one = [column[at : at + 1] for column in rows]
        assert encode(one)[0] == [values[at]], "a row is written differently alone"
        _same(decode([values[at]]), one, 1)
    _same(decode([]), [column[:0] for column in rows], 0)
    assert encode([column[:0] for column in rows])[0] == [], "encoding no rows gave values"


def _check_isolation(decode: Callable[[Sequence[bytes | None]], Batch], values: Sequence[bytes], at: int, bad: bytes | None) -> None:
    mixed: list[bytes | None] = [*values[:at], bad, *values[at + 1 :]]
    batch = decode(mixed)
    assert [failure.row for failure in batch.failures] == [at], f"{bad!r} at row {at} failed the rows {batch.failures}"
    assert isinstance(batch.failures[0].error, DecodeError), f"{batch.failures[0].error!r} is not a DecodeError"
    assert batch.rows is not None, "rows are numbered as if no row had failed"
    keep = [row for row in range(_ROWS) if row != at]
    assert batch.rows.tolist() == keep, "the remaining rows have lost their original numbers"
    _same(batch, [column[keep] for column in _rows(_ROWS)], _ROWS - 1)


def _check_refusal(encode: Callable[[Sequence[Array]], tuple[Sequence[bytes], object]], rows: Sequence[Array]) -> None:
    values = encode(rows)[0]
    broken = [column.copy() for column in rows]
    broken[3][7] = np.nan
    broken[5][9, 1] = np.inf
    written, errors = encode(broken)
    assert isinstance(errors, dict), "the errors are a mapping from row to EncodeError"
    assert sorted(errors) == [7, 9], f"rows 7 and 9 hold numbers that are not finite; {sorted(errors)} failed"
    assert all(isinstance(error, EncodeError) for error in errors.values()), f"{errors} are not EncodeErrors"
    assert written == [b"" if row in errors else value for row, value in enumerate(values)], "a bad row changed its neighbours"


def _same(batch: Batch, rows: Sequence[Array], size: int) -> None:
    assert batch.size == size, f"{size} values became {batch.size} rows"
    for column, sent in zip(_columns(), rows, strict=True):
        came = batch.columns[column.name]
        assert came.shape == (size, *column.shape), f"{column.name} has the shape {came.shape}"
        assert came.dtype == sent.dtype, f"{column.name} has the dtype {came.dtype}"
        assert (came == sent).all(), f"{column.name} came back changed"


def _columns() -> list[Column]:
    return [Column(field.name, field.name, field.dtype, (3,) if field.items else ()) for field in CODEC_SCHEMA.fields]


def _fields() -> list[Tensor]:
    return [Tensor(column.name, column.dtype, column.shape) for column in _columns()]


def _rows(size: int) -> list[Array]:
    """Returns ordinary values and edge cases; each row differs from every other."""
    random = np.random.default_rng(7)
    count = random.integers(-(2**62), 2**62, size)
    count[:4] = -(2**63), 2**63 - 1, 0, -1
    score = random.standard_normal(size).astype(np.float32)
    score[:3] = np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal, -0.0
    return [
        np.array([f'{row} "é\n,}}\\' * (row % 5 + 1) for row in range(size)], object),
        np.arange(size) % 2 == 0,
        count,
        score,
        random.standard_normal(size) * 1e300,
        random.standard_normal((size, 3)).astype(np.float32),
    ]
