"""What is fuzzed: every part that reads bytes of others, and the laws that hold for each input. `TARGETS` lists them.

A target catches the exceptions that its part declares. All other exceptions, and broken laws, are findings. Where there is a native
and a Python way, both have to agree. Where there is a writer, what was read has to survive being written and read again.
"""

from __future__ import annotations

import ctypes
import json
import re
import struct
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import fastavro
import msgspec
import numpy as np
import onnx
from aiokafka.record.util import calc_crc32c
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from penstock import settings
from penstock.batch import Batch
from penstock.codecs import load_schema
from penstock.codecs.avro import AvroDecoder
from penstock.codecs.framing import frame_of
from penstock.codecs.json import JsonDecoder
from penstock.codecs.writers import Writers
from penstock.control import messages, status
from penstock.control.log import Kind, Log
from penstock.control.trust import Judge, SigningKey, Trust, seal
from penstock.control.trust.keys import to_text
from penstock.errors import ConfigError, ControlError, DecodeError, ModelCorrupt, SchemaError, SettingsError, TopologyError
from penstock.model import contents, intake, manifest
from penstock.native import native
from penstock.parcel import Parcel
from penstock.record import Record, Unreadable
from penstock.schema import Column, Field, Missing, Schema
from penstock.tame import UNPRINTABLE
from penstock.testing import models
from penstock.topology import draw
from penstock.topology.parse import parse_text
from penstock.transports.kafka import wire
from penstock.transports.kafka.encode import RecordBatch
from penstock.transports.kafka.journal import Entry
from penstock.transports.kafka.records import Packed
from tests import raw
from tests.fuzz.engine import Target
from tests.unit.control.making import CONTROL, NOW_MS, abort, activate, release, trusting

__all__ = ["TARGETS"]

ROOT: Final = Path(__file__).parents[2]
BUDGET: Final = 1 << 20  # bytes that a batch may unpack to
PART: Final = b"\x1e"  # between the values of an input; no format here uses it

# -- record batches ------------------------------------------------------------------------------------------------------

ABORTED, PACKED, DAMAGED, CUT = 1, 2, 4, 8  # bits of the second byte of an input


def records(data: bytes) -> str:
    """Any bytes of a fetch: both ways read the same records, in ascending order, and never raise."""
    start, flags, log = _head(data)
    start %= 10
    if not flags & DAMAGED:
        log = _sealed(log, pack=bool(flags & PACKED), cut=bool(flags & CUT))
    if native is not None:  # bytes have a NUL more, where one byte too many would not be seen; this ends where the last byte does
        exact: Any = (ctypes.c_char * len(log)).from_buffer_copy(log)
        taken, other = native.unpack_fetch(exact, start), native.unpack_fetch(log, start)
        assert (taken and _spelled(taken[0])) == (other and _spelled(other[0]))
    aborted = [(7, 2)] if flags & ABORTED else []
    ways = [Packed(log, start, aborted, budget=BUDGET, native=way) for way in (True, False)]
    read = [[(run, _spelled(run.records)) for run in way] for way in ways]
    flat = [[record for _, some in runs for record in some] for runs in read]
    assert flat[0] == flat[1], "native and Python disagree about the records"
    assert ways[0].position == ways[1].position, "native and Python disagree about the position"
    assert ways[1].position >= start
    at = start
    for run, some in read[1]:
        assert at <= run.start <= run.end <= ways[1].position, "runs are not in order"
        assert run.size <= max(BUDGET, len(log))
        offsets = [record[0] for record in some]
        assert offsets == sorted(set(offsets)), "offsets do not ascend"
        assert not offsets or run.start <= offsets[0] <= offsets[-1] < run.end, "a record outside its run"
        at = run.end
    kinds = [str(one.reason) if isinstance(one, Unreadable) else "record" for run, _ in read[1][:6] for one in run.records[:3]]
    return "; ".join(["native" if len(read[0]) == 1 else "python", *kinds])


def _head(data: bytes) -> tuple[int, int, bytes]:
    padded = data + bytes(2)
    return padded[0], padded[1], data[2:]


def _spelled(some: Sequence[Any]) -> list[tuple[Any, ...]]:
    lost = [(one.end, one.reason) if isinstance(one, Unreadable) else () for one in some]
    return [
        (one.offset, one.timestamp, one.key, one.value, tuple(map(tuple, one.headers)), *more) for one, more in zip(some, lost, strict=True)
    ]


def _sealed(log: bytes, *, pack: bool, cut: bool) -> bytes:
    """Gives each batch the checksum of what is in it, so that the inner parts are reached, and the last one the size that it has.

    `pack`: each is compressed as its attributes say. `cut`: the last one stays incomplete.
    """
    out = b""
    while len(log) > 17:
        base, size = struct.unpack_from(">qi", log)
        stop = 12 + size if cut else min(12 + size, len(log))
        if not 17 < stop <= len(log):
            break
        batch, log = bytearray(log[:stop]), log[stop:]
        kind = batch[16]
        if kind == 2 and len(batch) >= 61:
            if pack:
                batch[61:] = _packed(batch[22] & 7, bytes(batch[61:]))
            batch[17:21] = struct.pack(">I", calc_crc32c(bytes(batch[21:])))
        elif kind < 2 and len(batch) >= 18:
            batch[12:16] = struct.pack(">I", crc32(batch[16:]))
        out += struct.pack(">qi", base, len(batch) - 12) + batch[12:]
    return out + log


def _packed(codec: int, body: bytes) -> bytes:
    return raw.PACK[codec](body) if codec in raw.PACK else body


def _record_seeds() -> list[bytes]:
    many = [raw.inner(place, b"key", b"value" * place, [(b"name", b"x"), (b"\xff", None)][:place]) for place in range(3)]
    current = [bytes([0, PACKED]) + raw.batch(many)[:21] + bytes([0, codec]) + raw.batch(many)[23:] for codec in range(5)]
    ended = bytearray(raw.batch([raw.inner(0, struct.pack(">hh", 0, 0), struct.pack(">hi", 0, 0))], base=4))
    ended[22] |= 0x30
    ended[43:51] = struct.pack(">q", 7)
    begun = bytearray(raw.batch(many, base=2))
    begun[22] |= 0x10
    begun[43:51] = struct.pack(">q", 7)
    old = b"".join(_old(offset, kind) for offset, kind in enumerate((0, 1, 1)))
    wrapped = [_old(2, 1, codec, raw.PACK[codec](old)) for codec in (1, 2, 3)]
    framed = b"\x82SNAPPY\0" + struct.pack(">ii", 1, 1) + struct.pack(">i", len(snappy := raw.PACK[2](old))) + snappy
    plain = [b"\0\0" + raw.batch(many) + raw.batch(many, base=3), b"\1\1" + bytes(begun) + bytes(ended) + raw.batch(many, base=5)]
    return [*current, *plain, b"\0\0" + old, *(b"\0\0" + one for one in wrapped), b"\0\0" + _old(2, 1, 2, framed)]


def _old(offset: int, kind: int, codec: int = 0, value: bytes = b"value") -> bytes:
    stamp = struct.pack(">q", 1000) if kind else b""
    body = bytes([kind, codec]) + stamp + struct.pack(">i", 1) + b"k" + struct.pack(">i", len(value)) + value
    return struct.pack(">qiI", offset, len(body) + 4, crc32(body)) + body


def answers(data: bytes) -> str:
    """Any answer of a broker to the two requests that are read here: values, or a ValueError."""
    said = []
    for parse in (wire.parse_fetch, wire.parse_produce):
        try:
            found: Any = parse(data, 0)
            said.append(_few(found))
        except ValueError as error:
            said.append(str(error))
    return " ".join(said)


def _answer_seeds() -> list[bytes]:
    topic = struct.pack(">h", 2) + b"in" + struct.pack(">i", 1)
    fetched = struct.pack(">ihii", 0, 0, 0, 1) + topic + struct.pack(">ihqqqi", 0, 0, 9, 9, 0, 1) + struct.pack(">qq", 7, 2)
    produced = struct.pack(">i", 1) + topic + struct.pack(">ihqqq", 0, 0, 5, -1, 0) + struct.pack(">i", 0)
    return [fetched + struct.pack(">ii", -1, 4) + b"data", produced]


# -- the native part: outputs, and arguments of any type -------------------------------------------------------------------


class _Draw:
    """Values from the bytes of an input; zeros and empty texts when they are used up."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def number(self) -> int:
        """A number of 64 bits, often a small one or one at an edge."""
        size = (1, 2, 4, 8)[self.byte() % 4]
        return int.from_bytes(bytes(self.byte() for _ in range(size)), "big", signed=True)

    def text(self) -> bytes:
        size = self.byte()
        size = size * 100 if size > 250 else size % 24
        self._at += size
        return self._data[self._at - size : self._at].ljust(size, b"z")

    def maybe(self, make: Callable[[], Any]) -> Any:
        return make() if self.byte() % 3 else None

    def many(self, size: int, make: Callable[[], Any]) -> list[Any]:
        return [make() for _ in range(size)]


def outputs(data: bytes) -> str:
    """Any parcels: both ways write the same bytes, and what is written is read back. Their weight is the sum of keys and values."""
    drawn = _Draw(data)
    parcels = [_parcel(drawn) for _ in range(1 + drawn.byte() % 3)]
    made = [_written(parcels, native=way) for way in (True, False)]
    assert made[0] == made[1], f"native and Python disagree: {made}"
    if native is not None:
        for parcel in parcels:
            keys = [one.key for one in parcel.inputs] if parcel.keys is None else parcel.keys
            assert native.weigh(parcel.inputs, parcel.keys, parcel.values) == sum(len(one or b"") for one in (*keys, *parcel.values))
    if isinstance(made[0], str):
        return made[0]
    read = [record for run in Packed(made[0], 0) for record in run.records]
    written = [record for parcel in parcels for record in parcel.records]
    assert [(one.timestamp, one.key, one.value, [*map(tuple, one.headers)]) for one in read] == written, "what was written is not read back"
    return _few(read) + " ".join(_form(parcel) for parcel in parcels)


def _form(parcel: Parcel) -> str:
    """Returns which of its parts a parcel has, one letter each."""
    return "".join(name[0] for name in ("keys", "common", "origin", "title", "ids") if getattr(parcel, name.replace("title", "identity")))


def _few(values: Sequence[Any]) -> str:
    """Returns how many there are, roughly, in letters: digits do not make an outcome a new one."""
    return "." * len(values) if len(values) < 4 else "many"


def _written(parcels: Sequence[Parcel], *, native: bool) -> bytes | str:
    batch = RecordBatch(1 << 30, native=native)
    try:
        for parcel in parcels:
            batch.add(parcel)
        return bytes(batch._build())
    except struct.error as error:  # stamps that no batch can hold
        return str(error)


def _parcel(drawn: _Draw) -> Parcel:
    size = 1 + drawn.byte() % 4

    def name() -> str:
        return drawn.text().decode("latin-1")

    inputs = [Record("in", None, drawn.maybe(drawn.text), (), drawn.number(), 0, drawn.number() & (1 << 63) - 1) for _ in range(size)]
    return Parcel(
        "topic",
        0,
        inputs,
        drawn.many(size, lambda: drawn.maybe(drawn.text)),
        drawn.maybe(lambda: drawn.many(size, drawn.text)),
        tuple((name(), drawn.maybe(drawn.text)) for _ in range(drawn.byte() % 3)),
        drawn.maybe(lambda: (name(), drawn.text())),
        drawn.maybe(lambda: (name(), name())),
        drawn.maybe(lambda: drawn.many(size, name)),
    )


def arguments(data: bytes) -> str:
    """The native functions with arguments of any type and shape: a result, or an exception; never a broken memory."""
    if native is None:
        return "not built"
    drawn = _Draw(data)
    call = (
        lambda: native.crc32c(_any(drawn), _any(drawn)),
        lambda: native.unpack_fetch(_any(drawn), _any(drawn)),
        lambda: native.unpack_records(_any(drawn), _any(drawn), _any(drawn)),
        lambda: native.encode_records(*(_any(drawn) for _ in range(9))),
        lambda: native.weigh(_any(drawn), _any(drawn), _any(drawn)),
        lambda: _columns(drawn),
    )[drawn.byte() % 6]
    try:
        return type(call()).__name__
    except (TypeError, ValueError, OverflowError, AttributeError, BufferError, MemoryError) as error:
        return f"{type(error).__name__} {error}"


def _any(drawn: _Draw, depth: int = 0) -> Any:
    makes: list[Callable[[], Any]] = [
        drawn.text,
        drawn.number,
        lambda: None,
        lambda: drawn.text().decode("latin-1"),
        lambda: bytearray(drawn.text()),
        lambda: memoryview(drawn.text())[:: 1 + drawn.byte() % 2],
        lambda: drawn.number() / 7,
        lambda: "\ud800",
    ]
    if depth < 3:

        def inner() -> Any:
            return _any(drawn, depth + 1)

        makes += [
            lambda: Record("in", None, inner(), (), inner(), 0, inner()),
            lambda: [inner() for _ in range(drawn.byte() % 4)],
            lambda: tuple(inner() for _ in range(drawn.byte() % 4)),
            _native_record,
        ]
    return makes[drawn.byte() % len(makes)]()


def _native_record() -> Any:
    found = native.unpack_fetch(raw.batch([raw.inner(0, b"k", b"v")]), 0) if native is not None else None
    return found[0] if found else []


def _columns(drawn: _Draw) -> Any:
    """JsonColumns with fields that may fit, and blocks that may have another size, type, order, or owner."""
    assert native is not None
    fields = []
    for number in range(1 + drawn.byte() % 3):
        kind = "bifse?"[drawn.byte() % 6]
        code = "dqO?bhfBHIQix"[drawn.byte() % 13]
        fill: Any = (None, b"\0" * 8, b"\0" * 4, b"\0", "text", drawn.text())[drawn.byte() % 6]
        target = (drawn.byte() % 3, drawn.byte() % 3, code, fill)
        targets = (target, (0, 1, code, fill))[: drawn.byte() % 3]
        low, high = sorted((drawn.number(), drawn.number()))
        fields.append((f"f{number}", kind, bool(drawn.byte() % 2), low, high, float(drawn.number()), ("A", "B"), targets))
    made = native.JsonColumns(tuple(fields), drawn.number())
    blocks = []
    for _ in range(drawn.byte() % 4):
        dtype = ("float64", "int64", "O", "bool", "int8", "int16", "float32", "int32", "uint8")[drawn.byte() % 9]
        block = np.zeros((drawn.byte() % 4, drawn.byte() % 5), dtype)
        if drawn.byte() % 7 == 0:
            block = block.T if drawn.byte() % 2 else block[:, ::2]
        if drawn.byte() % 9 == 0:
            block.setflags(write=False)
        blocks.append(block if drawn.byte() % 11 else drawn.text())
    values = [(b'{"f0":%d,"f1":"A","f2":null}' % drawn.number(), b'{"f0":true}', drawn.text(), None)[drawn.byte() % 4] for _ in range(4)]
    return made.decode(values[: drawn.byte() % 5], tuple(blocks))


# -- events --------------------------------------------------------------------------------------------------------------

NAN: Final = Missing("fill", float("nan"))
PLANS: Final[list[tuple[Schema, list[Column]]]] = []
AVRO: Final = {
    "type": "record",
    "name": "Event",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "i", "type": "int"},
        {"name": "l", "type": ["null", "long"], "default": None},
        {"name": "f", "type": "float"},
        {"name": "d", "type": ["double", "null"]},
        {"name": "b", "type": "boolean"},
        {"name": "e", "type": {"type": "enum", "name": "E", "symbols": ["A", "B", "C"]}},
        {"name": "t", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "u", "type": ["null", {"type": "map", "values": "string"}], "default": None},
        {"name": "o", "type": ["null", "string"], "default": None},
    ],
}
NESTED: Final = {
    "type": "record",
    "name": "Event",
    "fields": [
        {"name": "v", "type": {"type": "array", "items": "double", "size": 2}},
        {"name": "w", "type": {"type": "array", "items": {"type": "array", "items": "int", "size": 2}, "size": 2}},
        {"name": "x", "type": {"type": "fixed", "name": "X", "size": 3}},
        {"name": "r", "type": {"type": "record", "name": "R", "fields": [{"name": "n", "type": "string"}]}},
        {"name": "s", "type": "string"},
    ],
}


def _plans() -> list[tuple[Schema, list[Column]]]:
    """The schemas, and the columns that are read; made once."""
    if not PLANS:
        with tempfile.TemporaryDirectory() as folder:
            for avro, read, shapes in ((AVRO, "iilfdbeto", {}), (NESTED, "vws", {"v": (2,), "w": (2, 2)})):
                (Path(folder) / "event.avsc").write_text(json.dumps(avro))
                schema = load_schema(Path(folder) / "event.avsc")
                columns = []
                for at, name in enumerate(read):
                    field = schema.field(name)
                    assert field is not None
                    dtype = "float32" if (name, at) == ("i", 1) else field.dtype
                    missing = NAN if name == "d" else Missing("fill", None) if name == "o" else Missing()
                    columns.append(Column(f"{name}{at}", name, dtype, shapes.get(name, ()), missing))
                PLANS.append((schema, columns))
    return PLANS


def json_events(data: bytes) -> str:
    """Any JSON: both ways agree, and an event in a batch is what it is alone."""
    which, _, rest = _head(data)
    schema, columns = _plans()[which % 2]
    if which % 2 == 0:  # the native part does not take nested schemas, nor a number that stays null
        kept = [field for field in schema.fields if field.kind != "map" or which & 2]
        schema = replace(schema, fields=tuple(kept))
    values: list[bytes | None] = list(rest.split(PART)[:16])
    ways = [JsonDecoder(schema, columns, max_bytes=1000, native=way) for way in (True, False)]
    whole = [way.decode(values) for way in ways]
    _same(whole[0], whole[1], "native and Python disagree")
    return _alone(ways[0].decode, values, whole[0])


def avro_events(data: bytes) -> str:
    """Any datums, framed or not: a row among many, which is read by columns, is what it is alone, which is read by itself."""
    which, _, rest = _head(data)
    schema, columns = _plans()[which % 2]
    values: list[bytes | None] = list(rest.split(PART * 2)[:8])
    decoder = AvroDecoder(schema, columns, max_bytes=1000, writers=Writers(schema, {frame_of(1): schema}) if which & 2 else None)
    many = [*values, *([values[0]] * 16)]
    said = _alone(decoder.decode, many, decoder.decode(many))
    for value in values[:2]:
        _as_fastavro(decoder, schema, columns, value, framed=bool(which & 2))
    return said


def _as_fastavro(decoder: AvroDecoder, schema: Schema, columns: Sequence[Column], value: bytes | None, *, framed: bool) -> None:
    """What is accepted is what the reference reads, where that accepts it too."""
    batch = decoder.decode([value])
    if batch.size != 1 or value is None:
        return
    with tempfile.SpooledTemporaryFile(BUDGET) as file:
        file.write(value[5 if framed else 0 :])
        file.seek(0)
        try:
            event: Any = fastavro.schemaless_reader(file, schema.avro, None)
        except UnicodeDecodeError:  # of a field that no column reads: ours is passed over, and those that are read are texts
            return
    for column in columns:
        if column.dtype == "string" and event[column.field] is not None:
            assert batch.columns[column.name][0] == event[column.field], column.field


def _alone(decode: Callable[[Sequence[bytes | None]], Batch], values: Sequence[bytes | None], whole: Batch) -> str:
    rows = list(range(len(values))) if whole.rows is None else whole.rows.tolist()
    failures = {failure.row: failure.error for failure in whole.failures}
    assert sorted([*rows, *failures]) == list(range(len(values))), "a row is neither an event nor a failure"
    assert all(isinstance(error, DecodeError) for error in failures.values())
    for row, value in enumerate(values):
        one = decode([value])
        assert bool(one.failures) == (row in failures), f"row {row} is judged otherwise alone"
        if one.failures:
            assert str(one.failures[0].error) == str(failures[row])
            continue
        at = rows.index(row)
        for name, column in one.columns.items():
            assert _bits(column[0]) == _bits(whole.columns[name][at]), f"row {row} has another value alone: {name}"
    return " ".join(sorted({"event" if row not in failures else str(failures[row]) for row in range(len(values))}))


def _bits(value: Any) -> Any:
    return value.tobytes() if isinstance(value, np.ndarray | np.generic) and value.dtype != object else value


def _same(one: Batch, other: Batch, what: str) -> None:
    assert one.size == other.size, what
    assert (one.rows is None) == (other.rows is None), what
    assert one.rows is None or other.rows is None or one.rows.tolist() == other.rows.tolist(), what
    assert [(bad.row, str(bad.error)) for bad in one.failures] == [(bad.row, str(bad.error)) for bad in other.failures], what
    for name, column in one.columns.items():
        expected = other.columns[name]
        assert (column.dtype, column.shape) == (expected.dtype, expected.shape), f"{what}: {name}"
        assert [*map(_bits, column)] == [*map(_bits, expected)], f"{what}: {name}"


EVENT: Final = {"id": "a", "i": 1, "l": None, "f": 0.5, "d": 1e300, "b": True, "e": "B", "t": 10**15, "u": {"a": "é"}, "o": "text"}
SMALL: Final = {"v": [1.0, 2.5], "w": [[1, 2], [3, 4]], "x": b"abc", "r": {"n": "n"}, "s": "é"}


def _json_seeds() -> list[bytes]:
    plain = json.dumps({**EVENT, "u": None, "l": -5}).encode()
    nested = json.dumps({**SMALL, "x": "abc"}).encode()
    return [b"\0\0" + plain, b"\2\0" + json.dumps(EVENT).encode(), b"\1\0" + nested, b"\0\0" + PART.join([plain, b"{}", b"[1]", plain])]


def _avro_seeds() -> list[bytes]:
    out = []
    for which, (schema, event) in enumerate(((_plans()[0][0], EVENT), (_plans()[1][0], SMALL))):
        with tempfile.SpooledTemporaryFile(BUDGET) as file:
            fastavro.schemaless_writer(file, schema.avro, event)
            file.seek(0)
            datum = file.read()
        out += [bytes([which, 0]) + datum, bytes([which | 2, 0]) + b"\0\0\0\0\1" + datum]
        out += [bytes([which, 0]) + (PART * 2).join([datum, datum[:-1], datum + b"\0", datum])]
    return out


def schemas(data: bytes) -> str:
    """Any schema file: a schema or a SchemaError; what is accepted makes decoders, which take any value."""
    with tempfile.NamedTemporaryFile(suffix=".avsc") as file:
        Path(file.name).write_bytes(data)
        try:
            schema = load_schema(file.name)
        except SchemaError as error:
            return _problems(error)
    fed = [field for field in schema.fields if field.dtype and None not in field.shape]
    columns = [Column(field.name, field.name, field.dtype, _shape(field)) for field in fed]
    said = []
    for make in (JsonDecoder, AvroDecoder):
        try:
            decode = make(schema, columns, max_bytes=1000).decode
        except SchemaError as error:
            said.append(_problems(error))
            continue
        batch = decode([b"", b"{}", b"\0" * 40, b"\x02" * 40, b"\xff" * 40, None, data[:200]])
        said.append("; ".join(str(failure.error) for failure in batch.failures[:3]))
    return " ".join(said)


def _shape(field: Field) -> tuple[int, ...]:
    return tuple(axis for axis in field.shape if axis is not None)


def _problems(error: ConfigError) -> str:
    assert error.problems
    return "; ".join(problem.message for problem in error.problems[:2])


# -- control and status topics -------------------------------------------------------------------------------------------

ALICE: Final = SigningKey("alice", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
MALLORY: Final = SigningKey("mallory", Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33))))
TRUST: Final = trusting(ALICE)
ID: Final = re.compile(rb'"id"\s*:\s*"([^"]{0,60})"')
SEALED, SELF_MADE, BARE, FORGED = range(4)  # how the values of an input become entries: its first byte


def control(data: bytes) -> str:
    """Any control topic: every entry has an outcome, two readers agree, and only what a trusted key signed changes anything."""
    how, _, rest = _head(data)
    how %= 4
    entries = [_entry(at, value, how) for at, value in enumerate(rest.split(PART)[:12])]
    judge = Judge("flights", "cluster-1", CONTROL, TRUST, unsigned=how == BARE)
    logs = [Log(judge), Log(judge)]
    found = [[log.apply(entry) for entry in entries] for log in logs]
    assert found[0] == found[1]
    assert logs[0].position == len(entries)
    for outcome, entry in zip(found[0], entries, strict=True):
        assert not UNPRINTABLE.search(outcome.why), "a reason that a terminal would obey"
        assert outcome.kind is Kind.REFUSED or how in (SEALED, BARE) or entry.value in _signed(), "obeyed without a signature"
        if outcome.kind is not Kind.REFUSED:
            message = judge(entry).message
            assert messages.parse(messages.encode(message)) == message, "a message does not survive its writer"
    return " ".join(f"{outcome.kind} {outcome.why}" for outcome in found[0])


def _entry(offset: int, value: bytes, how: int) -> Entry:
    named = ID.search(value)
    sealed = value if how in (SELF_MADE, BARE) else _seal(value, ALICE if how == SEALED else MALLORY)
    return Entry(offset, NOW_MS, True, named[1] if named else b"", sealed)


def _seal(payload: bytes, key: SigningKey) -> bytes:
    """Signs any bytes. A forger names the trusted key and signs with another."""
    header = msgspec.json.encode({"alg": "EdDSA", "typ": "penstock-control+json", "kid": ALICE.kid})
    signed = to_text(header) + b"." + to_text(payload)
    return signed + b"." + to_text(key.private.sign(signed))


def _signed() -> set[bytes]:
    """The values that Alice signed; the seeds for self-made ones begin with them."""
    return {seal(message, ALICE) for message in (release(1), activate(1), abort(1))}


def _control_seeds() -> list[bytes]:
    told = [
        messages.encode(message)
        for message in (release(1), release(2), activate(1), abort(2), release(3, base=1, restores=0), release(4, version=1))
    ]
    whole = [bytes([how, 0]) + PART.join(told) for how in (SEALED, BARE, FORGED)]
    return [*whole, *(bytes([SEALED, 0]) + one for one in told), *(bytes([SELF_MADE, 0]) + one for one in sorted(_signed()))]


def statuses(data: bytes) -> str:
    """Any record of a status topic: a status, or a ControlError. What is read is safe to print, and survives its writer."""
    try:
        found = status.parse(data)
    except ControlError as error:
        return f"{error.code} {error}"
    assert not UNPRINTABLE.search(str(msgspec.to_builtins(found))), "a status that a terminal would obey"
    assert status.parse(status.encode(found)) == found
    assert status.key_of(found)
    return type(found).__name__


def _status_seeds() -> list[bytes]:
    time = "2026-01-31T12:00:00Z"
    worker = status.WorkerStatus(
        worker="w", topology="flights", host="h", pid=1, started=time, time=time, generation=1, wanted=2, ready=True,
        models={"trees": "models:/trees/1"}, refused={"clock": 1}, problems=["a\nb"],
    )  # fmt: skip
    return [status.encode(worker), status.encode(status.Boundary(topic="in", partition=0, offset=5, generation=1, worker="w", time=time))]


# -- files that people write, and models ------------------------------------------------------------------------------------


def topologies(data: bytes) -> str:
    """Any topology file: a topology that can be drawn, or a TopologyError with places in the text; the same each time."""
    text = data.decode(errors="replace")
    outcomes = []
    for _ in range(2):
        try:
            outcomes.append(parse_text(text))
        except TopologyError as error:
            outcomes.append(error.problems)  # type: ignore[arg-type]  # one of both
    assert outcomes[0] == outcomes[1]
    found: Any = outcomes[0]
    if isinstance(found, tuple):
        lines = len(re.split("\r\n|[\n\r\x85\u2028\u2029]", text))
        assert found
        assert all(1 <= problem.line <= lines and problem.column >= 1 for problem in found), "a problem outside the text"
        return "; ".join(problem.message for problem in found[:3])
    draw.text(found)
    draw.mermaid(found)
    return f"a topology of {_few(found.sources)} {_few(found.nodes)} {_few(found.sinks)}"


def settings_files(data: bytes) -> str:
    """Any settings file: settings, or a SettingsError."""
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        Path(file.name).write_bytes(data)
        try:
            made, sources = settings.resolve({}, environ={}, file=Path(file.name))
        except SettingsError as error:
            return _problems(error)
    settings.describe(made, sources)
    return " ".join(sorted(sources))


def trust_files(data: bytes) -> str:
    """Any trust file: keys, or a ConfigError."""
    try:
        trust = Trust.parse(data.decode(errors="replace"), file="trust.toml")
    except ConfigError as error:
        return _problems(error)
    assert all(key.kid == kid for kid, key in trust.keys.items())
    Judge("flights", "cluster-1", CONTROL, trust)
    return f"{_few([*trust.keys])} keys"


def manifests(data: bytes) -> str:
    """Any model.toml: a manifest that survives its writer, or a ConfigError."""
    try:
        found = manifest.parse(data.decode(errors="replace"), file="model.toml")
    except ConfigError as error:
        return _problems(error)
    assert manifest.parse(manifest.render(found), file="model.toml") == found, "a manifest does not survive its writer"
    return f"{_few(found.signature.inputs)} {_few(found.signature.outputs)}"


def model_files(data: bytes) -> str:
    """Any model file: accepted, or ModelCorrupt. What is accepted names no other file, and what a push has changed needs no change."""
    try:
        taken = intake.take_in(data, file=ROOT / "absent.onnx")
        assert intake.take_in(taken.data).data == taken.data, "a file that a push has changed is changed again"
        contents.check_contents(data)
    except ModelCorrupt as error:
        return str(error)
    model = onnx.ModelProto.FromString(data)
    text = str(model)  # another walk of the whole file than the one that is tested
    assert "external_data {" not in text, "a tensor in another file was accepted"
    assert "data_location: EXTERNAL" not in text, "a tensor in another file was accepted"
    return "accepted"


def _texts(*patterns: str) -> Iterator[bytes]:
    for pattern in patterns:
        for path in sorted(ROOT.glob(pattern)):
            yield path.read_bytes()


def _settings_seeds() -> list[bytes]:
    default = settings.Settings()
    lines = [f"{one.name} = {json.dumps(one.value)}" for one in settings.describe(default, {}) if one.value and one.flag]
    return ["\n".join(lines).encode(), b'brokers = "localhost:9092"\ncommit_interval = 2\nhttp = "127.0.0.1:8080"\nlog_format = "json"\n']


def _model_seeds() -> list[bytes]:
    leak = onnx.ModelProto.FromString(models.linear([1.0]))
    tensor = leak.graph.initializer.add(name="t", data_type=1, dims=[1], data_location=1)
    tensor.external_data.add(key="location", value="secret")
    function = leak.functions.add(name="f", domain="own")
    function.node.add(op_type="Identity", input=["a"], output=["b"])
    half, brain = onnx.ModelProto.FromString(models.identity("float16")), onnx.ModelProto.FromString(models.linear([1.0]))
    half.graph.output.add(name="s").type.sequence_type.elem_type.tensor_type.elem_type = 1
    half.graph.node.add(op_type="If", input=["x"], output=["s"]).attribute.add(name="then_branch", type=5).g.node.add(
        input=["x"], output=["z"]
    )
    half.graph.node.add(op_type="StringNormalizer", input=["x"], output=["n"]).attribute.add(name="locale", type=3, s=b"en_US")
    brain.graph.initializer.add(name="b", data_type=16, dims=[1], raw_data=b"\x80\x3f")
    brain.graph.node.add(op_type="Cast", input=["x"], output=["c"]).attribute.add(name="to", type=2, i=16)
    changed = [bytes(one.SerializeToString()) for one in (leak, half, brain)]
    return [models.linear([1.0]), models.zip_map(), *changed]


JSON_WORDS: Final = [
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"true",
    b"1e5",
    b"\\u0000",
    b"\\ud800",
    b"\xff",
    b"\xc3\xa9",
    b"\0",
    PART,
]
YAML_WORDS: Final = [
    b"\n",
    b"  ",
    b"- ",
    b": ",
    b"&a ",
    b"*a",
    b"!!python/object:x",
    b"<<: ",
    b"---\n",
    b"|\n",
    b"{",
    b"}",
    b"[",
    b"]",
    b"@1",
    b"\t",
]
TOML_WORDS: Final = [
    b"\n",
    b" = ",
    b'"',
    b"[",
    b"]",
    b"[[",
    b"'''",
    b"2026-01-01T00:00:00Z",
    b"inf",
    b"nan",
    b"true",
    b".",
    b"{",
    b"}",
    b"1e400",
]
CONTROL_WORDS: Final = [
    *JSON_WORDS, b'"kind":"activate"', b'"version":1', b'"strategy":{"kind":"single"}', b'"base":', b"\x1b[2J", b"\\u001b[2J", b"-", b"=",
]  # fmt: skip

TARGETS: Final = [
    Target("records", records, _record_seeds, [raw.varint(-1), raw.varint(1 << 40), b"\x82SNAPPY\0"], 8192),
    Target("answers", answers, _answer_seeds),
    Target("outputs", outputs, lambda: [bytes(40), bytes(range(200))], most=1024),
    Target("arguments", arguments, lambda: [bytes([at, *range(60)]) for at in range(6)], most=512),
    Target("json", json_events, _json_seeds, JSON_WORDS),
    Target("avro", avro_events, _avro_seeds, [PART * 2, raw.varint(-1), raw.varint(1 << 62)], 2048),
    Target(
        "schemas", schemas, lambda: [*_texts("schemas/*.avsc"), json.dumps(AVRO).encode(), json.dumps(NESTED).encode()], JSON_WORDS, 8192
    ),
    Target("control", control, _control_seeds, CONTROL_WORDS),
    Target("statuses", statuses, _status_seeds, CONTROL_WORDS),
    Target("topologies", topologies, lambda: [*_texts("topologies/flights.yaml")], YAML_WORDS),
    Target("settings", settings_files, _settings_seeds, TOML_WORDS),
    Target("trust", trust_files, lambda: [_trust_seed()], TOML_WORDS),
    Target("manifests", manifests, lambda: [*_texts("models/*/1/model.toml")], TOML_WORDS),
    Target("models", model_files, _model_seeds, [b"own", b"com.microsoft", b"location"]),
]


def _trust_seed() -> bytes:
    return (
        f'[keys.alice]\npublic = "{ALICE.public}"\nkid = "{ALICE.kid}"\ntopologies = ["flights"]\ntrusted = 2026-01-31T12:00:00Z\n'
        f'revoked = 2026-06-30T12:00:00Z\ncomment = "Alice"\n\n[keys.bob]\npublic = "{MALLORY.public}"\ntopologies = ["*"]\n'
        "trusted = 2026-01-31T12:00:00Z\n"
    ).encode()
