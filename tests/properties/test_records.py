"""Laws of reading fetched bytes: whatever a log holds, every position is accounted for, and what can be read is read."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c
from hypothesis import given
from hypothesis import strategies as st

from penstock.record import Unreadable
from penstock.transports.kafka.records import Packed, Run
from tests.memory import begin_peak, peak
from tests.raw import DAMAGE, batch, inner, sealed, sized, varint

WAYS: Final = (True, False)  # with the native part and without; without a compiler both are the same
CODECS: Final = {0: "none", 1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}
LARGE: Final = 1 << 30


def runs_of(data: bytes, start: int = 0, *, native: bool = True, budget: int = LARGE) -> list[Run]:
    """The runs, which must account for every position, in order."""
    packed = Packed(data, start, native=native, budget=budget)
    runs = []
    for run in packed:
        assert run.start == start < run.end
        offsets = [one.offset for one in run.records]
        assert offsets == sorted(set(offsets))
        assert all(run.start <= offset < run.end for offset in offsets)
        assert len({isinstance(one, Unreadable) for one in run.records}) <= 1
        start = run.end
        runs.append(run)
    assert packed.position == start
    return runs


def good(runs: Sequence[Run]) -> list[tuple[Any, ...]]:
    return [
        (one.offset, one.timestamp, one.key, one.value, tuple(one.headers))
        for run in runs
        for one in run.records
        if not isinstance(one, Unreadable)
    ]


def bad(runs: Sequence[Run]) -> list[Unreadable]:
    return [one for run in runs for one in run.records if isinstance(one, Unreadable)]


@pytest.mark.parametrize("damage", DAMAGE)
@given(st.integers(1, 6), st.data(), st.sampled_from([*CODECS]), st.integers(0, 1 << 40))
def test_one_bad_record_costs_that_record(damage: str, count: int, data: st.DataObject, codec: int, base: int) -> None:
    guilty = data.draw(st.integers(0, count - 1))
    records = [DAMAGE[damage](place) if place == guilty else inner(place, b"k%d" % place, b"v") for place in range(count)]
    for way in WAYS:
        runs = runs_of(batch(records, codec, base=base), base, native=way)
        assert [row[0] - base for row in good(runs)] == [place for place in range(count) if place != guilty]
        (lost,) = bad(runs)
        assert (lost.offset, lost.end, lost.timestamp) == (base + guilty, base + guilty + 1, 1000 + guilty)
        assert lost.value == records[guilty]
        assert lost.reason


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("codec", CODECS)
def test_names_of_headers_that_are_not_utf8_are_read_as_java_reads_them(codec: int, way: bool) -> None:
    records = [inner(0, b"a", b"1"), inner(1, b"b", b"2", [(b"\xe9v\xff", b"x"), (b"ok", None)]), inner(2, b"c", b"3")]
    runs = runs_of(batch(records, codec, base=5), 5, native=way)
    assert not bad(runs)
    assert [row[4] for row in good(runs)] == [(), (("\ufffdv\ufffd", b"x"), ("ok", None)), ()]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("codec", [1, 2, 3, 4])
def test_a_batch_is_not_unpacked_beyond_its_budget(codec: int, way: bool) -> None:
    bomb = batch([inner(0, None, bytes(40 << 20))], codec, base=7)
    assert len(bomb) < 3 << 20
    before, behind = batch([inner(0, b"k", b"v")], base=6), batch([inner(0, b"k", b"v")], base=8)
    runs = runs_of(before + bomb + behind, 6, native=way, budget=4 << 20)
    assert [row[0] for row in good(runs)] == [6, 8]
    (lost,) = bad(runs)
    assert (lost.offset, lost.end) == (7, 8)
    assert "unpacks to more than 4194304 bytes" in lost.reason
    assert "offset 7 to 7" in lost.reason
    assert len(good(runs_of(bomb, 7, native=way))) == 1


def test_a_batch_of_very_many_empty_records_is_not_read() -> None:
    many = batch([inner(0, None, None)] * 3, 4, count=1 << 30)
    (lost,) = bad(runs_of(many, budget=1 << 20))
    assert (lost.offset, lost.end) == (0, 3)
    assert "more than a batch may hold" in lost.reason


@pytest.mark.parametrize("codec", [1, 2, 3, 4])
@given(st.binary(min_size=1, max_size=40), st.integers(1, 5))
def test_what_cannot_be_decompressed_is_one_dead_letter_with_its_positions(codec: int, junk: bytes, count: int) -> None:
    head = struct.pack(">hiqqqhii", codec, count - 1, 1000, 1004, -1, 0, 0, count)
    data = struct.pack(">qiibI", 3, len(head) + len(junk) + 9, 0, 2, calc_crc32c(head + junk)) + head + junk
    for way in WAYS:
        runs = runs_of(data + batch([inner(0, b"k", b"v")], base=3 + count), 3, native=way)
        assert bad(runs)
        assert bad(runs)[0].offset == 3
        assert bad(runs)[-1].end == 3 + count
        assert good(runs)[-1][0] == 3 + count


@given(st.integers(1, 4), st.integers(-5, 9), st.sampled_from([*CODECS]))
def test_a_count_that_is_wrong_loses_nothing_silently(count: int, more: int, codec: int) -> None:
    data = batch([inner(place, b"k", b"v") for place in range(count)], codec, count=count + more)
    for way in WAYS:
        runs = runs_of(data, native=way)
        seen = {row[0] for row in good(runs)} | {at for one in bad(runs) for at in range(one.offset, one.end)}
        assert seen == {*range(count)}


@given(st.lists(st.integers(-3, 6), min_size=1, max_size=5), st.integers(0, 5))
def test_offsets_that_do_not_ascend_are_not_believed(places: list[int], start: int) -> None:
    body = b"".join(varint(len(one)) + one for one in (inner(place, b"k", b"v") for place in places))
    for way in WAYS:
        runs_of(sealed(body, 5, count=len(places)), start, native=way)


@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4),
    st.sampled_from([*CODECS]),
    st.integers(0, 300),
    st.booleans(),
)
def test_no_bytes_raise(sizes: list[int], changes: list[tuple[int, int]], codec: int, cut: int, close: bool) -> None:
    """Damaged in any place, also by a producer that seals what it has damaged, and cut off anywhere."""
    log, base = b"", 0
    for size in sizes:
        one = bytearray(batch([inner(place, b"key", b"value", [(b"h", b"x")]) for place in range(size)], codec, base=base))
        for at, byte in changes:
            one[at % len(one)] = byte
        if close:
            one[17:21] = struct.pack(">I", calc_crc32c(bytes(one[21:])))
        log += bytes(one)
        base += size
    for way in WAYS:
        for _ in Packed(log[: max(0, len(log) - cut)], 0, native=way, budget=1 << 22):
            pass


@given(st.sampled_from([0, 1]), st.sampled_from([0, 1, 2, 3]), st.integers(1, 5), st.integers(0, 6))
def test_old_formats_are_read(kind: int, codec: int, count: int, start: int) -> None:
    """Compared with aiokafka's parser. Format 0 has no timestamps."""
    if kind == 0 and codec == 3:
        return  # its LZ4 has a checksum of its own kind, which only its first clients could read
    builder = LegacyRecordBatchBuilder(kind, codec, 1 << 20)
    for number in range(count):
        builder.append(number, 1000 + number, b"key" if number % 2 else None, b"value" * number or None)
    built = bytearray(builder.build())
    if codec:
        built[:8] = struct.pack(">q", count - 1)  # as brokers number a compressed message: by the last one in it
    data = bytes(built)
    records = MemoryRecords(data)
    expected = []
    while records.has_next():
        expected += [(one.offset, -1 if one.timestamp is None else one.timestamp, one.key, one.value, ()) for one in records.next_batch()]
    runs = runs_of(data, start)
    assert not bad(runs)
    assert good(runs) == [row for row in expected if row[0] >= start]


def test_an_old_message_without_its_checksum_is_lost_alone() -> None:
    builder = LegacyRecordBatchBuilder(1, 0, 1 << 20)
    for number in range(3):
        builder.append(number, 1000, b"key", b"value")
    data = bytearray(builder.build())
    data[len(data) // 2] ^= 0xFF
    runs = runs_of(bytes(data))
    assert [row[0] for row in good(runs)] == [0, 2]
    assert [run.damaged for run in runs] == [False, True, False]


@given(st.integers(1, 6), st.integers(0, 9))
def test_the_reader_agrees_with_aiokafkas(count: int, start: int) -> None:
    log = b""
    for turn in range(3):
        builder = DefaultRecordBatchBuilder(2, turn % 5, False, -1, -1, -1, 1 << 20)
        for number in range(count):
            builder.append(number, 1000 + number, b"key", b"value" * number, [("h", b"x")] * (number % 3))
        one = bytearray(builder.build())
        one[:8] = struct.pack(">q", turn * count)
        log += bytes(one)
    records, expected = MemoryRecords(log), []
    while records.has_next():
        expected += [(one.offset, one.timestamp, one.key, one.value, tuple(one.headers)) for one in records.next_batch()]
    for way in WAYS:
        assert good(runs_of(log, start, native=way)) == [row for row in expected if row[0] >= start]


def test_a_batch_that_cannot_be_read_counts_from_the_position() -> None:
    """A batch is sent whole, and its first records may have been read before: they are not reported again."""
    lost = sealed(b"x" * 20, 5)
    for data, reason in ((lost, "bytes"), (lost[:-1] + b"y", "checksum")):
        (run,) = Packed(data, 2)
        (record,) = run.records
        assert isinstance(record, Unreadable)
        assert (run.start, run.end, record.offset, record.end) == (2, 5, 2, 5)
        assert reason in record.reason


EMPTY: Final = sized(b"") * 2


@pytest.mark.parametrize("codec", [0, 4])
@pytest.mark.parametrize("way", WAYS)
def test_a_record_with_millions_of_headers_costs_that_record(way: bool, codec: int) -> None:
    """They are two bytes each where they came from, and would be a hundred here."""
    crowd = b"\0" + varint(1) * 2 + sized(b"k") + sized(b"v") + varint(4_000_000) + EMPTY * 4_000_000
    data = batch([inner(0, b"k", b"v"), crowd, inner(2, b"k", b"v")], codec)
    before = begin_peak()
    first, lost, last = runs_of(data, native=way)
    assert [row[0] for row in good([first, last])] == [0, 2]
    assert "4000000 headers; a record may have 65536" in bad([lost])[0].reason
    assert peak() - before < 100e6


@pytest.mark.parametrize("way", WAYS)
def test_many_records_with_many_headers_come_in_pieces(way: bool) -> None:
    """So a source can stop between them: what it has taken is bounded."""
    crowd = sized(b"k") + sized(b"v") + varint(20_000) + EMPTY * 20_000
    records = [b"\0" + varint(place) * 2 + crowd for place in range(20)]
    runs = runs_of(batch(records, 4), native=way)
    assert sum(len(run.records) for run in runs) == 20
    assert [len(run.records) for run in runs] == [4, 4, 4, 4, 4]
    assert all(run.size >= 4 * 20_000 * 128 for run in runs)
