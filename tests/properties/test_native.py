"""Laws of the native part: whatever goes in, what comes out is what Python makes of it, bit by bit and word by word."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pytest
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.batch import Batch
from penstock.codecs.digits import counterpart
from penstock.codecs.json import JsonDecoder
from penstock.parcel import Parcel
from penstock.record import Record, Unreadable
from penstock.schema import REQUIRED, Column, Field, Missing, Schema
from penstock.transports.kafka.encode import RecordBatch
from penstock.transports.kafka.records import Packed

native = pytest.importorskip("penstock._native", reason="the native part is not built")

INTS: Final = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FED: Final[dict[str, tuple[str, ...]]] = {
    "boolean": ("bool", "float32", "int64", "uint8"),
    "int": (*INTS, "float32", "float64"),
    "long": (*INTS, "float32", "float64"),
    "timestamp": ("int64", "float64"),
    "float": ("float32", "float64"),
    "double": ("float32", "float64"),
    "string": ("string",),
    "enum": ("string",),
    "bytes": (),
}
SYMBOLS: Final = ("EWR", "JFK", "L", "")
NAMES: Final = ("a", "b", "ab", "year", "event_id", "x y", "n" * 40)
DIGITS: Final = st.text("0123456789", min_size=1, max_size=24)
EDGES: Final = [sign * (2**bits + step) for bits in (7, 8, 15, 16, 31, 32, 53, 63, 64) for step in (-1, 0, 1) for sign in (1, -1)]
ODD: Final = [
    "-0", "-0.0", "0.0", "0e5", "1e22", "1e23", "9007199254740993.0", "3.4028234663852886e38", "3.4028235677973366e38", "3.5e38",
    "1e308", "1e309", "5e-324", "2.2250738585072011e-308", "1e-400", "NaN", "Infinity", "0x1", "1_0",
]  # fmt: skip
SPELLED: Final = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "-", "+"]),
    st.sampled_from(["", "0", "00", "7"]) | DIGITS,
    st.sampled_from(["", "."]) | DIGITS.map(".{}".format),
    st.just("") | st.builds("{}{}{}".format, st.sampled_from("eE"), st.sampled_from(["", "-", "+"]), st.integers(0, 400) | st.just("")),
)
NUMBERS: Final = st.one_of(
    st.integers(-130, 300).map(str),
    st.sampled_from(EDGES).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.floats(allow_nan=False, allow_infinity=False, width=32).map(repr),
    st.floats(-1000, 1000).map("{:.3f}".format),
    SPELLED,
    st.sampled_from(ODD),
)
TEXTS: Final = st.one_of(
    st.sampled_from(SYMBOLS),
    st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters='"\\'), max_size=20),
    st.text(max_size=6),
    st.sampled_from(['\\"', "\\u0041", "\\", "\x00", "a\x00b", "\x7f", "\x1f", "\t", "é", "\ud800"]),
).map(lambda text: f'"{text}"')
WORDS: Final = st.sampled_from(["true", "false", "null", "tru", "nul", "True", "[]", "[1]", "{}", '{"a":1}', "", "nulll", "truefalse"])
VALUES: Final = st.one_of(NUMBERS, TEXTS, WORDS)
LIKELY: Final[dict[str, st.SearchStrategy[str]]] = {
    "boolean": st.sampled_from(["true", "false"]),
    **dict.fromkeys(("int", "long", "timestamp", "float", "double"), NUMBERS),
    **dict.fromkeys(("string", "bytes"), TEXTS),
    "enum": st.sampled_from(SYMBOLS).map('"{}"'.format),
}
SPACE: Final = st.sampled_from(["", "", "", " ", "\n\t", "\r", "  ", "\x0b", "\x00"])


@st.composite
def plans(draw: st.DrawFn) -> tuple[Schema, list[Column]]:
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=5, unique=True))
    fields, columns = [], []
    for name in names:
        kind: Any = draw(st.sampled_from(sorted(FED)))
        optional = draw(st.booleans())
        default = None if optional and draw(st.booleans()) else REQUIRED
        fields.append(Field(name, kind, optional, default, SYMBOLS if kind == "enum" else ()))
        for at, dtype in enumerate(draw(st.lists(st.sampled_from(FED[kind]), max_size=2)) if FED[kind] else ()):
            fills: list[Any] = ["none"] if dtype == "string" else [True] if dtype == "bool" else [0, 7]
            fills += [float("nan"), -1.5] if dtype[0] == "f" else []
            missing = Missing("fill", draw(st.sampled_from(fills))) if draw(st.booleans()) else Missing()
            columns.append(Column(f"{name}.{at}", name, dtype, missing=missing))
    return Schema("Event", tuple(fields)), columns


@st.composite
def events(draw: st.DrawFn, schema: Schema) -> bytes:
    """An event of the schema, in half of the draws with something that may be wrong with it."""
    tame = draw(st.booleans())
    pairs = [(f'"{field.name}"', draw(LIKELY[field.kind] if tame else LIKELY[field.kind] | VALUES)) for field in schema.fields]
    if not tame:
        pairs = draw(st.permutations(pairs))
        more = st.tuples(st.sampled_from([*(f'"{name}"' for name in NAMES), '"unknown"', '"\\u0061"', '"é"', "a", '"a']), VALUES)
        pairs += draw(st.lists(more, max_size=2))
        pairs = draw(st.permutations(pairs))[: draw(st.integers(max(0, len(pairs) - 1), len(pairs)))]

    def gap() -> str:
        return "" if tame else draw(SPACE)

    body = ",".join(gap() + name + gap() + ":" + gap() + value + gap() for name, value in pairs)
    text = f"{gap()}{{{gap()}{body}}}{gap()}".encode(errors="surrogatepass")
    if not tame and draw(st.booleans()):
        at, cut = draw(st.integers(0, len(text))), draw(st.integers(0, 3))
        put = draw(st.binary(max_size=3) | st.sampled_from([b",", b"}", b"{", b'"', b":", b"\x00", b"\\", b"e", b".", b"-", b"\xff", b" "]))
        text = text[:at] + put + text[at + cut :]
    return text


@st.composite
def batches(draw: st.DrawFn) -> tuple[Schema, list[Column], list[bytes | None]]:
    schema, columns = draw(plans())
    return (
        schema,
        columns,
        draw(st.lists(st.one_of(events(schema), events(schema), events(schema), st.none(), st.binary(max_size=8)), max_size=8)),
    )


def same(one: Batch, other: Batch) -> None:
    assert one.size == other.size
    assert (one.rows is None) == (other.rows is None)
    assert one.rows is None or other.rows is None or one.rows.tolist() == other.rows.tolist()
    assert [(failure.row, type(failure.error), str(failure.error)) for failure in one.failures] == [
        (failure.row, type(failure.error), str(failure.error)) for failure in other.failures
    ]
    assert set(one.columns) == set(other.columns)
    for name, column in one.columns.items():
        expected = other.columns[name]
        assert (column.dtype, column.shape) == (expected.dtype, expected.shape)
        if column.dtype == object:
            assert column.tolist() == expected.tolist()
            assert all(type(value) is str for value in column)
        else:
            assert column.tobytes() == expected.tobytes(), name


@given(batches())
def test_events_become_the_same_batch(drawn: tuple[Schema, list[Column], list[bytes | None]]) -> None:
    schema, columns, values = drawn
    fast, slow = (JsonDecoder(schema, columns, max_bytes=300, native=way) for way in (True, False))
    for _ in range(2):  # the second time it knows the order of the names and has its short texts
        same(fast.decode(values), slow.decode(values))


@given(st.lists(NUMBERS, min_size=1, max_size=30))
def test_numbers_become_the_same_bits(numbers: list[str]) -> None:
    """Every spelling of a number, as every kind and in every width."""
    kinds = {"i": "int", "l": "long", "f": "float", "d": "double"}
    for name, kind in kinds.items():
        schema = Schema("Event", (Field(name, kind),))  # type: ignore[arg-type]  # a name of a kind
        for dtype in FED[kind]:
            values = [f'{{"{name}":{number}}}'.encode() for number in numbers]
            made = [JsonDecoder(schema, [Column("c", name, dtype)], max_bytes=300, native=way).decode(values) for way in (True, False)]
            same(*made)


STAMPS: Final = st.integers(-(2**63), 2**63 - 1) | st.integers(0, 2**42) | st.integers(1_700_000_000_000, 1_700_000_000_300)
BYTES: Final = st.binary(max_size=8)
LONG: Final = st.integers(0, 70_000).map(bytes)
HEADERS: Final = st.lists(st.tuples(st.text(max_size=4), st.none() | BYTES), max_size=3)


@st.composite
def parcels(draw: st.DrawFn) -> Parcel:
    size = draw(st.integers(1, 5))

    def column(of: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(of, min_size=size, max_size=size))

    rows = zip(column(st.none() | BYTES), column(STAMPS), column(st.integers(0, 2**63 - 1)), strict=True)
    inputs = [Record("in", None, key, (), stamp, 0, offset) for key, stamp, offset in rows]
    keys = draw(st.none() | st.just(column(BYTES)))
    origin = draw(st.none() | st.tuples(st.text(max_size=4), BYTES | st.just(b"100%/")))
    identity = draw(st.none() | st.tuples(st.text(max_size=4), st.text(max_size=8) | st.just("50%:")))
    ids = draw(st.none() | st.just(column(st.text(max_size=8))))
    variants = tuple(map(tuple, draw(st.lists(HEADERS, max_size=3))))
    which = column(st.integers(-1, len(variants) - 1)) if variants else None
    values = column(st.none() | BYTES | LONG)
    return Parcel("topic", 0, inputs, values, keys, tuple(draw(HEADERS)), origin, identity, ids, variants=variants, which=which)


@given(st.lists(parcels(), min_size=1, max_size=3))
def test_outputs_become_the_same_bytes(many: list[Parcel]) -> None:
    made = []
    for way in (True, False):
        batch = RecordBatch(1 << 30, native=way)
        try:
            for parcel in many:
                batch.add(parcel)
            made.append(bytes(batch._build()))
        except struct.error as error:
            made.append(str(error).encode())
    assert made[0] == made[1]


@given(parcels())
def test_outputs_weigh_the_same(parcel: Parcel) -> None:
    keys = [one.key for one in parcel.inputs] if parcel.keys is None else parcel.keys
    expected = sum(len(text or b"") for text in (*keys, *parcel.values))
    assert native.weigh(parcel.inputs, parcel.keys, parcel.values) == expected


@pytest.mark.parametrize(
    ("inputs", "keys", "values"),
    [
        ([Record("in", None)], None, [b"", b""]),
        ([], [b""], []),
        ([], ["text"], [b""]),
        ([Record("in", None)], None, ["text"]),
        ([1], None, [b""]),
    ],
)
def test_what_is_no_output_is_left_to_python(inputs: Any, keys: Any, values: Any) -> None:
    with pytest.raises((TypeError, ValueError, AttributeError)):
        native.weigh(inputs, keys, values)


@st.composite
def stored(draw: st.DrawFn) -> bytes:
    batch = BatchBuilder(1 << 20, 0)
    for _ in range(draw(st.integers(1, 5))):
        headers = draw(HEADERS)
        batch.append(
            timestamp=draw(st.integers(0, 2**42)), key=draw(st.none() | BYTES), value=draw(st.none() | BYTES | LONG), headers=headers
        )
    batch.close()
    return bytes(batch._build())


def spelled(records: Sequence[Any]) -> list[tuple[Any, ...]]:
    return [(one.offset, one.timestamp, one.key, one.value, list(one.headers)) for one in records]


def read(data: bytes, start: int, *, aborted: bool = False, native: bool = True) -> tuple[list[tuple[Any, ...]], int]:
    """What a fetch from `start` on brings, and the position after it; `aborted`: producer 7 has aborted a transaction at offset 2."""
    packed = Packed(data, start, [(7, 2)] if aborted else [], native=native)
    records = [record for run in packed for record in spelled(run.records)]
    return records, packed.position


def both(data: bytes, start: int, *, aborted: bool = False) -> list[tuple[list[tuple[Any, ...]], int]]:
    return [read(data, start, aborted=aborted, native=way) for way in (True, False)]


def log_of(batches: Sequence[bytes]) -> bytes:
    """The batches one behind the other, as a log holds them."""
    data, at = b"", 0
    for batch in batches:
        data += struct.pack(">q", at) + batch[8:]
        at += MemoryRecords(batch).next_batch().next_offset
    return data


@given(st.lists(stored(), min_size=1, max_size=3), st.integers(0, 6), st.binary(max_size=9))
def test_stored_batches_become_the_same_records(many: list[bytes], start: int, behind: bytes) -> None:
    native_way, plain_way = both(log_of(many) + behind, start)
    assert native_way == plain_way
    assert native.unpack_fetch(log_of(many) + behind, start) is not None


@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 2, 3, 4]), st.integers(1, 4), st.sampled_from([-1, 7, 8])), min_size=1, max_size=5),
    st.integers(0, 9),
    st.booleans(),
    st.integers(0, 40),
)
def test_a_fetch_becomes_the_same_records(many: list[tuple[int, int, int]], start: int, aborted: bool, cut: int) -> None:
    """Batches of every compression, some of transactions, some of these aborted, the last one cut off as brokers do."""
    batches = []
    for codec, count, producer in many:
        batch = DefaultRecordBatchBuilder(2, codec, producer >= 0, producer, 0, 0, 1 << 20)
        for number in range(count):
            batch.append(number, 1000 + number, b"key", b"value" * number, [("h", None)] * (number % 3))
        batches.append(bytes(batch.build()))
    data = log_of(batches)
    native_way, plain_way = both(data[: len(data) - cut], start, aborted=aborted)
    assert native_way == plain_way


def marker(producer: int, kind: int) -> bytes:
    """The end of a transaction (kind 0: aborted, 1: committed), which is a batch of one control record."""
    batch = DefaultRecordBatchBuilder(2, 0, True, producer, 0, 0, 1 << 20)
    batch.append(0, 1000, struct.pack(">hh", 0, kind), struct.pack(">hi", 0, 0), [])
    built = bytearray(batch.build())
    built[22] |= 0x20
    built[17:21] = struct.pack(">I", native.crc32c(bytes(built[21:])))
    return bytes(built)


@pytest.mark.parametrize("kind", [0, 1])
def test_transaction_markers_are_passed_over(kind: int) -> None:
    batch = DefaultRecordBatchBuilder(2, 0, True, 7, 0, 0, 1 << 20)
    for number in range(2):
        batch.append(number, 1000, b"key", b"value", [])
    data = log_of([bytes(batch.build()), marker(7, kind)])
    native_way, plain_way = both(data, 0)
    assert native_way == plain_way
    assert (len(native_way[0]), native_way[1]) == (2, 3)


def test_a_damaged_fetch_is_refused_by_its_checksum() -> None:
    batch = BatchBuilder(1 << 20, 0)
    batch.append(timestamp=1, key=b"key", value=b"value")
    batch.close()
    data = bytes(batch._build())
    assert len(read(data, 0)[0]) == 1
    for way in (True, False):
        (run,) = Packed(data[:-2] + b"x" + data[-1:], 0, native=way)
        (lost,) = run.records
        assert (run.damaged, run.start, run.end) == (True, 0, 1)
        assert isinstance(lost, Unreadable)
        assert "checksum" in lost.reason


@given(stored(), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4), st.integers(0, 300), st.booleans())
def test_damaged_batches_are_refused_or_read_and_nothing_else(data: bytes, changes: list[tuple[int, int]], cut: int, sealed: bool) -> None:
    """aiokafka's own parser may read beyond such a batch, so there is nothing to compare with. `sealed`: damaged by its producer."""
    damaged = bytearray(data)
    for at, byte in changes:
        damaged[at % len(damaged)] = byte
    if sealed:
        damaged[17:21] = struct.pack(">I", native.crc32c(bytes(damaged[21:])))
    for piece in (bytes(damaged), bytes(damaged[: len(damaged) - cut])):
        found = native.unpack_fetch(piece, 0)
        assert found is None or all(isinstance(record.value, bytes | None) for record in found[0])


@given(st.binary(max_size=70), st.integers(0, 9))
def test_checksums_are_the_same(data: bytes, start: int) -> None:
    view = memoryview(data)[start:]
    assert native.crc32c(view) == native.crc32c(view, True) == calc_crc32c(bytes(view))


@given(st.integers(0, 50))
@settings(max_examples=20)
def test_plain_events_take_the_native_way(rows: int) -> None:
    """Otherwise the laws above would hold for a part that does nothing."""
    schema = Schema(
        "Event", (Field("i", "int"), Field("d", "double"), Field("s", "string"), Field("o", "float", True), Field("b", "boolean"))
    )
    columns = [
        Column("i", "i", "float32"), Column("d", "d", "float64"), Column("s", "s", "string"), Column("b", "b", "bool"),
        Column("o", "o", "float32", missing=Missing("fill", float("nan"))),
    ]  # fmt: skip
    plain = JsonDecoder(schema, columns, max_bytes=300)._plain
    assert plain is not None
    values = [b'{"i": %d, "d":0.1234567890123456789,\n"s":"text","unknown":[],"o":null,"b":true}' % row for row in range(rows)]
    assert plain.decode(values)[1] == [*range(rows)]
    made, left = plain.decode([value.replace(b"[]", b'"x"') for value in values])
    assert left == []
    assert made["i"].tolist() == [*range(rows)]
    assert np.isnan(made["o"]).all()


@pytest.mark.parametrize(("base", "last"), [(3, -65_536), (2**63 - 1, 0), (2**63 - 2, 5)])
def test_a_batch_with_impossible_offsets_moves_the_position_alike(base: int, last: int) -> None:
    """Otherwise a reader would ask for the same bytes without end."""
    empty = bytearray(DefaultRecordBatchBuilder(2, 0, False, -1, 0, 0, 1 << 20).build())
    empty[:8], empty[23:27] = struct.pack(">q", base), struct.pack(">i", last)
    empty[17:21] = struct.pack(">I", native.crc32c(bytes(empty[21:])))
    native_way, plain_way = both(bytes(empty), 0)
    assert native_way == plain_way == ([], base + max(last, 0) + 1)


def test_batches_that_go_back_are_read_once() -> None:
    """Brokers hand out ascending offsets; whatever comes behind a position that was passed is left out."""
    batch = DefaultRecordBatchBuilder(2, 0, False, -1, 0, 0, 1 << 20)
    for number in range(3):
        batch.append(number, 1000, b"key", b"value", [])
    built = bytes(batch.build())
    data = b"".join(struct.pack(">q", base) + built[8:] for base in (10, 2, 11))
    native_way, plain_way = both(data, 0)
    assert native_way == plain_way
    assert [record[0] for record in native_way[0]] == [10, 11, 12, 13]


def test_timestamps_more_than_63_bits_apart_are_read_back() -> None:
    """The difference wraps around, and so does the sum that readers make of it."""
    stamps = [868_365_761_018_027_996, -8_863_084_066_665_136_128, 2**63 - 1, -(2**63)]
    batch = RecordBatch(1 << 20)
    batch.add(Parcel("topic", 0, [Record("in", None, timestamp=stamp) for stamp in stamps], [b"value"] * 4))
    assert [record[1] for record in read(bytes(batch._build()), 0)[0]] == stamps


@given(st.lists(st.floats(width=32) | st.integers(0, 2**32 - 1).map(lambda bits: struct.unpack("<f", struct.pack("<I", bits))[0])))
def test_digits_of_a_float32_are_those_of_numpy(values: list[float]) -> None:
    """Any bits: tiny numbers, infinities, NaN and -0.0 too."""
    narrow = np.array(values, np.float32)
    made = np.empty(len(values))
    native.shortest(narrow, made)
    inner = np.abs(narrow) < np.finfo(np.float32).max
    assert made[inner].tobytes() == np.array([float(str(value)) for value in narrow[inner]], np.float64).tobytes()
    assert made[~inner].tobytes() == narrow[~inner].astype(np.float64).tobytes()
    assert made.tobytes() == counterpart(narrow).tobytes()


@pytest.mark.parametrize(
    ("values", "into"),
    [
        (np.zeros(2), np.zeros(2)),
        (np.zeros(2, np.float32), np.zeros(2, np.float32)),
        (np.zeros(2, np.float32), np.zeros(1)),
        (np.zeros(4, np.float32)[::2], np.zeros(2)),
        (np.zeros(1, np.float32), b"12345678"),
    ],
)
def test_digits_want_arrays_of_their_types_and_of_one_size(values: Any, into: Any) -> None:
    with pytest.raises((ValueError, BufferError)):
        native.shortest(values, into)
