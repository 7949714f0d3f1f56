"""Every format keeps the contract of a codec; so do codecs that break it one way each, and are caught."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest
from msgspec.structs import replace

from penstock.batch import Array, Batch
from penstock.codecs import Decoder, Encoder, Format, decoder, encoder, load_schema
from penstock.codecs.framing import frame_of
from penstock.errors import DecodeError, RecordError
from penstock.testing.check_codec import CODEC_SCHEMA, check_codec

PROTO = """\
syntax = "proto3";
message CodecCheck {
  string id = 1; bool flag = 2; int64 count = 3; float score = 4; double wide = 5; repeated float vector = 6;
}
"""


@pytest.mark.parametrize("format", [one for one in get_args(Format) if one != "bytes"])  # which have no fields to come back
def test_format_keeps_the_contract(format: Format, tmp_path: Path) -> None:
    if format.startswith("protobuf"):
        (tmp_path / "event.proto").write_text(PROTO)
        (tmp_path / "17.proto").write_text(PROTO)
        own = load_schema(tmp_path / "event.proto")
        # No bytes are a message of its defaults.
        bad = (b"\xff" * 20, b"\x0a\x05abc") + ((b"",) if format == "protobuf-confluent" else ())
        check_codec(
            lambda _, columns: decoder(format, own, columns, ids=tmp_path),
            lambda fields, _: encoder(format, fields, own, ids=tmp_path),
            bad,
        )
        return
    raw = {key: value for key, value in CODEC_SCHEMA.avro.items() if not key.startswith("__")}
    (tmp_path / "17.avsc").write_text(json.dumps(raw))
    check_codec(
        lambda schema, columns: decoder(format, schema, columns, ids=tmp_path),
        lambda fields, schema: encoder(format, fields, schema, ids=tmp_path, frame=frame_of(17) if format == "json-confluent" else b""),
    )


@dataclass
class _Decoder:
    decode: Callable[[Sequence[bytes | None]], Batch]
    spread: int = 1


@dataclass
class _Encoder:
    encode: Callable[[Sequence[Array]], tuple[list[bytes], Mapping[int, RecordError]]]


def _loses_bad_rows(decoder: Decoder) -> Decoder:
    def decode(values: Sequence[bytes | None]) -> Batch:
        return replace(decoder.decode(values), failures=())

    return _Decoder(decode)


def _fails_the_batch(decoder: Decoder) -> Decoder:
    def decode(values: Sequence[bytes | None]) -> Batch:
        batch = decoder.decode(values)
        return batch.fail({row: DecodeError("a neighbour is bad") for row in range(batch.size)}) if batch.failures else batch

    return _Decoder(decode)


def _turns_rows_around(decoder: Decoder) -> Decoder:
    def decode(values: Sequence[bytes | None]) -> Batch:
        batch = decoder.decode(values)
        return replace(batch, columns={name: column[::-1] for name, column in batch.columns.items()})

    return _Decoder(decode)


def _numbers_rows_anew(decoder: Decoder) -> Decoder:
    def decode(values: Sequence[bytes | None]) -> Batch:
        return replace(decoder.decode(values), rows=None)

    return _Decoder(decode)


@pytest.mark.parametrize("broken", [_loses_bad_rows, _fails_the_batch, _turns_rows_around, _numbers_rows_anew])
def test_decoder_that_breaks_the_contract_is_caught(broken: Callable[[Decoder], Decoder]) -> None:
    with pytest.raises(AssertionError):
        check_codec(
            lambda schema, columns: broken(decoder("json", schema, columns)), lambda fields, schema: encoder("json", fields, schema)
        )


def _drops_bad_rows(encoder: Encoder) -> Encoder:
    def encode(columns: Sequence[Array]) -> tuple[list[bytes], Mapping[int, RecordError]]:
        values, errors = encoder.encode(columns)
        return [value for value in values if value], errors

    return _Encoder(encode)


def _writes_null_for_nan(encoder: Encoder) -> Encoder:
    def encode(columns: Sequence[Array]) -> tuple[list[bytes], Mapping[int, RecordError]]:
        values, errors = encoder.encode(columns)
        return [value or b"null" for value in values], {row: error for row, error in errors.items() if row < 0}

    return _Encoder(encode)


@pytest.mark.parametrize("broken", [_drops_bad_rows, _writes_null_for_nan])
def test_encoder_that_breaks_the_contract_is_caught(broken: Callable[[Encoder], Encoder]) -> None:
    with pytest.raises(AssertionError):
        check_codec(
            lambda schema, columns: decoder("json", schema, columns), lambda fields, schema: broken(encoder("json", fields, schema))
        )
