"""Laws of the record batches that are sent: aiokafka's own parser reads back exactly the parcels, whatever is in them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import pytest
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import DeliveryFailed
from penstock.parcel import Parcel
from penstock.record import Header, Outgoing, Record
from penstock.transports.kafka.encode import Full, RecordBatch
from penstock.transports.kafka.sink import pack

LIMIT = 1 << 20
BYTES = st.binary(max_size=8)
TEXT = st.text(max_size=4)
HEADERS = st.lists(st.tuples(TEXT, st.none() | BYTES), max_size=2)
STAMPS = st.integers(0, 2**42) | st.integers(1_700_000_000_000, 1_700_000_000_300)


@st.composite
def parcels(draw: st.DrawFn) -> Parcel:
    size = draw(st.integers(1, 6))

    def column(of: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(of, min_size=size, max_size=size))

    rows = zip(column(st.none() | BYTES), column(STAMPS), column(st.integers(0, 2**50)), strict=True)
    variants = tuple(map(tuple, draw(st.lists(HEADERS, max_size=3))))
    return Parcel(
        "topic",
        0,
        [Record("in", None, key, (), stamp, 0, offset) for key, stamp, offset in rows],
        column(st.none() | BYTES | st.integers(16_380, 20_000).map(bytes)),
        draw(st.none() | st.just(column(BYTES))),
        tuple(draw(HEADERS)),
        draw(st.none() | st.tuples(TEXT, BYTES)),
        draw(st.none() | st.tuples(TEXT, TEXT)),
        draw(st.none() | st.just(column(TEXT))),
        draw(st.none() | st.just(column(HEADERS))),
        variants=variants,
        which=column(st.integers(-1, len(variants) - 1)) if variants else None,
    )


def read(data: bytes | bytearray) -> tuple[list[Outgoing], list[int]]:
    """The records of one batch, checksum verified, and their offsets."""
    source = MemoryRecords(bytes(data))
    batch = source.next_batch()
    assert batch.validate_crc()
    rows = list(batch)
    assert not source.has_next()
    return [(row.timestamp, row.key, row.value, [*map(tuple, row.headers)]) for row in rows], [row.offset for row in rows]


def spelled(many: Sequence[Parcel]) -> list[tuple[int, bytes | None, bytes | None, list[Header]]]:
    return [record for parcel in many for record in parcel.records]


@given(st.lists(parcels(), min_size=1, max_size=4))
def test_a_batch_reads_back_as_its_parcels(many: list[Parcel]) -> None:
    batch = RecordBatch(LIMIT * 10)
    for parcel in many:
        batch.add(parcel)
    records, offsets = read(batch._build())
    assert records == spelled(many)
    assert offsets == list(range(len(records)))
    assert batch.record_count() == len(records)


@given(st.lists(parcels(), min_size=1, max_size=4), st.integers(25_000, 60_000))
def test_packing_keeps_order_and_loses_nothing_and_no_batch_is_over_its_limit(many: list[Parcel], limit: int) -> None:
    packed = pack("topic", many, limit, "none")
    built = [batch._build() for batch in packed]
    assert [record for data in built for record in read(data)[0]] == spelled(many)
    assert all(len(data) <= limit for data in built)


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
@given(one=parcels())
@settings(max_examples=20)
def test_compressed_batches_read_back_too(compression: str, one: Parcel) -> None:
    batch = RecordBatch(LIMIT * 10, compression)
    batch.add(one)
    assert read(batch._build())[0] == one.records


def test_an_output_larger_than_a_batch_is_refused_whole() -> None:
    rows = [Record("in", None, b"k", (), 1, 0, offset) for offset in range(6)]
    parcel = Parcel("topic", 0, rows, [b"a", b"b", b"x" * 5000, b"c", b"d", b"y" * 5000])
    with pytest.raises(DeliveryFailed, match="topic takes \\(1000 bytes"):
        pack("topic", [parcel], 1000, "none")
    assert parcel.without([2, 5]).values == [b"a", b"b", b"c", b"d"]


def test_a_full_batch_adds_nothing() -> None:
    batch = RecordBatch(200)
    batch.add(Parcel("topic", 0, [Record("in", None)], [b"small"]))
    with pytest.raises(Full):
        batch.add(Parcel("topic", 0, [Record("in", None)], [b"x" * 500]))
    assert batch.record_count() == 1
    assert len(read(batch._build())[0]) == 1


def test_the_producer_state_is_written_where_the_broker_looks_for_it() -> None:
    batch = RecordBatch(LIMIT)
    batch.add(Parcel("topic", 0, [Record("in", None, timestamp=5), Record("in", None, timestamp=3)], [b"a", b"b"]))
    batch._set_producer_state(7, 1, 42)
    first, last, producer, epoch, sequence = struct.unpack_from(">qqqhi", batch._build(), 27)
    assert (first, last, producer, epoch, sequence) == (5, 5, 7, 1, 42)
