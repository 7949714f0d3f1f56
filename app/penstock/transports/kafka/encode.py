"""Kafka's record batch (message format 2), written from parcels, a chunk of outputs at a time.

aiokafka's builder takes one record per call, each with a list of headers: 0.64 µs per output with ours. What all outputs
of a parcel share is encoded once here, and an output is one join of bytes: 0.36 µs (`python -m benchmarks micro`).
`RecordBatch` is what aiokafka's accumulator expects of a builder; a property test reads every batch back with
aiokafka's own parser.

The layout: https://kafka.apache.org/documentation/#recordbatch
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any

from aiokafka.codec import gzip_encode, lz4_encode, snappy_encode, zstd_encode
from aiokafka.record.util import calc_crc32c

from penstock.native import native as installed
from penstock.parcel import Parcel
from penstock.record import Header

__all__ = ["Full", "RecordBatch"]

_crc32c: Callable[[Any], int] = calc_crc32c if installed is None else installed.crc32c
_HEADER = struct.Struct(">qiibIhiqqqhii")
_BEFORE_CRC = struct.Struct(">qiibI")
_AFTER_CRC = struct.Struct(">hiqqqhii")
_CRC_END = 21  # bytes before what the checksum covers
_NO_BYTES = b"\x01"  # the length -1
_SIGN = 1 << 63
_TIMESTAMP, _KEY, _OFFSET = attrgetter("timestamp"), attrgetter("key"), attrgetter("offset")

_CODECS: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "gzip": (1, gzip_encode),
    "snappy": (2, snappy_encode),
    "lz4": (3, lz4_encode),
    "zstd": (4, zstd_encode),
}


def _varint(number: int) -> bytes:
    """A zigzag varint."""
    return _READY[number] if 0 <= number < READY else _computed(number)


def _computed(number: int) -> bytes:
    left = (number << 1) ^ (number >> 63)
    out = bytearray()
    while left > 0x7F:
        out.append(left & 0x7F | 0x80)
        left >>= 7
    out.append(left)
    return bytes(out)


SHORT = 128  # bytes of a header's value that is worth keeping
FEW = 4  # records of a parcel that are not worth a table of its headers
READY = 1 << 14
_READY = [_computed(number) for number in range(READY)]  # other numbers are computed


class Full(Exception):
    """The outputs do not fit into what is left of the batch. Nothing was added."""


class RecordBatch:
    """A batch of at most `limit` bytes before compression. `native` allows the native part, where it is installed."""

    def __init__(self, limit: int, compression: str = "none", *, native: bool = True) -> None:
        self._limit = limit
        self._native = installed if native else None
        self._compression = compression
        self.parcels: list[Parcel] = []
        self._parts: list[bytes] = []
        self._size = _HEADER.size
        self._count = 0
        self._first = self._last = 0  # timestamps, ms
        self._producer = (-1, -1, -1)
        self._built: bytearray | None = None

    def add(self, parcel: Parcel) -> None:
        """Adds all outputs of a parcel. Raises Full, and adds nothing, when they do not fit."""
        body, first, latest = self._encode(parcel)
        if self._size + len(body) > self._limit:
            raise Full
        self.parcels.append(parcel)
        self._parts.append(body)
        self._size += len(body)
        self._last = max(self._last, latest) if self._count else latest
        self._first = first
        self._count += len(parcel)

    def halves(self) -> tuple[RecordBatch, RecordBatch]:
        """Returns the same outputs in two batches. There must be several."""
        parcels = [*self.parcels]
        if len(parcels) == 1:
            parcels = [*parcels[0].halves()]
        middle = len(parcels) // 2
        made = RecordBatch(self._limit, self._compression), RecordBatch(self._limit, self._compression)
        for half, those in zip(made, (parcels[:middle], parcels[middle:]), strict=True):
            for parcel in those:
                half.add(parcel)
        return made

    def _encode(self, parcel: Parcel) -> tuple[bytes, int, int]:
        """Returns the outputs as records, the batch's first timestamp, and the latest timestamp of these outputs."""
        begun = self._first if self._count else None
        if self._native is not None and parcel.extra is None:
            heads = [_head((*parcel.common, *one), parcel.origin, parcel.identity) for one in (parcel.variants or ((),))]
            head, origin, title, place = heads[0]
            head_of = head if parcel.which is None else [heads[at][0] for at in parcel.which]
            ids = place if parcel.ids is None else parcel.ids
            try:
                return self._native.encode_records(
                    parcel.inputs, parcel.keys, parcel.values, head_of, origin, title, ids, begun, self._count
                )
            except (TypeError, ValueError, OverflowError):
                pass  # an uncommon form: the Python code decides whether it is an error
        stamps = list(map(_TIMESTAMP, parcel.inputs))
        first = stamps[0] if begun is None else begun
        try:
            body = _encode_plain(parcel, stamps, first, self._count)
        except (IndexError, TypeError):  # an uncommon length or time span, a null key, extra headers
            body = _encode(parcel, stamps, first, self._count)
        return body, first, max(stamps)

    # -- what aiokafka's accumulator and sender call on a builder ---------------------------------------------------

    def record_count(self) -> int:
        return self._count

    def size(self) -> int:
        return self._size

    def closed(self) -> bool:
        return True

    def close(self) -> None:
        """Does nothing: a batch is sent only when it is complete."""

    def _set_producer_state(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        self._producer = (producer_id, producer_epoch, base_sequence)

    def _build(self) -> bytearray:
        if self._built is None:
            self._built = self._assemble()
            self._parts.clear()
        return self._built

    def _assemble(self) -> bytearray:
        attributes, body = 0, b"".join(self._parts)
        if self._compression != "none":
            codec, compress = _CODECS[self._compression]
            smaller = compress(body)
            if len(smaller) < len(body):
                attributes, body = codec, smaller
        batch = bytearray(_HEADER.size)
        batch += body
        length = len(batch) - 12  # counted from behind the length itself
        _AFTER_CRC.pack_into(batch, _CRC_END, attributes, self._count - 1, self._first, self._last, *self._producer, self._count)
        _BEFORE_CRC.pack_into(batch, 0, 0, length, -1, 2, _crc32c(memoryview(batch)[_CRC_END:]))
        return batch


@lru_cache(maxsize=4096)
def _head(
    common: tuple[Header, ...], origin: tuple[str, bytes] | None, identity: tuple[str, str] | None
) -> tuple[bytes, bytes | None, bytes | None, bytes | None]:
    """What follows the value in each output: the headers in common and the name of the position's; how the position begins; the name
    of the id's header; how an id that is a position begins.

    There are few of them: one per generation and partition.
    """
    count = len(common) + (origin is not None) + (identity is not None)
    shared = _varint(count) + b"".join(map(_header, common))
    title, place = (None, None) if identity is None else (_sized(identity[0].encode()), identity[1].encode())
    return (shared, None, title, place) if origin is None else (shared + _sized(origin[0].encode()), origin[1], title, place)


def _encode_plain(parcel: Parcel, stamps: Sequence[int], first: int, number: int) -> bytes:
    """Encodes most outputs: those with a key, a value, the shared headers and the position. Raises IndexError or TypeError for others."""
    head, prefix, title, place = _head(parcel.common, parcel.origin, parcel.identity)
    if prefix is None or title is None or place is None or parcel.extra is not None or parcel.which is not None or min(stamps) < first:
        raise TypeError
    varint = _READY
    origin = prefix.replace(b"%", b"%%") + b"%d"
    offsets = [*map(_OFFSET, parcel.inputs)]
    named = place.replace(b"%", b"%%") + b"%d"
    ids = [named % offset for offset in offsets] if parcel.ids is None else map(str.encode, parcel.ids)
    keys = map(_KEY, parcel.inputs) if parcel.keys is None else parcel.keys
    out: list[bytes] = []
    put = out.append
    join = b"".join
    rows: Any = zip(offsets, stamps, keys, parcel.values, ids, strict=True)  # a null key or value is a TypeError, as it should be
    for offset, stamp, key, value, id in rows:
        position = origin % offset
        # fmt: off
        record = join((
            b"\0", varint[stamp - first], varint[number], varint[len(key)], key, varint[len(value)], value,
            head, varint[len(position)], position, title, varint[len(id)], id,
        ))
        # fmt: on
        put(varint[len(record)])
        put(record)
        number += 1
    return join(out)


def _encode(parcel: Parcel, stamps: Sequence[int], first: int, number: int) -> bytes:
    """Encodes the outputs of any parcel."""
    out: list[bytes] = []
    encoded = _Headers().__getitem__ if len(parcel) > FEW else _header
    for at, (_, key, value, headers) in enumerate(parcel.records):
        tail = _varint(len(headers)) + b"".join(map(encoded, headers))
        delta = (stamps[at] - first + _SIGN) % (2 * _SIGN) - _SIGN  # 64 bits that wrap around, as readers add them
        record = b"".join((b"\0", _varint(delta), _varint(number + at), _sized(key), _sized(value), tail))
        out += (_varint(len(record)), record)
    return b"".join(out)


class _Headers(dict[Header, bytes]):
    """The encoded headers of one parcel: those that its records share are encoded once (`python -m benchmarks letters`)."""

    def __missing__(self, header: Header) -> bytes:
        made = self[header] = _whole(header)
        return made


def _sized(value: bytes | None) -> bytes:
    return _NO_BYTES if value is None else _varint(len(value)) + value


def _header(header: Header) -> bytes:
    return _whole(header) if header[1] is not None and len(header[1]) > SHORT else _often(header)


def _whole(header: Header) -> bytes:
    name = header[0].encode()
    return _varint(len(name)) + name + _sized(header[1])


_often = lru_cache(maxsize=4096)(_whole)  # dead letters have a dozen headers, most of them alike
