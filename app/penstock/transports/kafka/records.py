"""Fetched record batches to records. What one record or one batch raises while it is read is its own failure: the others are read.

Message formats 0, 1 and 2, with every codec. A record that cannot be read, and a batch whose records cannot be separated, come out as
`Unreadable`, with their bytes and the reason: a log that another client has written is read to its end, whatever it holds.

A batch is unpacked into at most `budget` bytes: a few kilobytes can hold gigabytes. A header's name that is not UTF-8 is read as Java's
clients read it, with U+FFFD for what is not a character.

The native part reads plain batches; Python reads all others, and is the reference. The layout:
https://kafka.apache.org/documentation/#recordbatch and, for the old formats, https://kafka.apache.org/documentation/#messageset
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple
from zlib import crc32

import cramjam
import numpy as np
from aiokafka.record.util import calc_crc32c

from penstock.native import native as installed
from penstock.record import Header, RecordLike, Unreadable

__all__ = ["BUDGET", "Packed", "Run"]

BUDGET: Final = 64 << 20  # bytes of one batch, unpacked
LEAST: Final = 32  # bytes that a record counts in a budget, at least: it becomes an object
HEADER: Final = 128  # bytes that a header counts in a run, at least: two bytes become a tuple and its parts
MOST_HEADERS: Final = 65_536  # of a record; and of a run, which so has at most twice as many
FIRST_GUESS: Final = 1 << 20  # bytes; most batches are smaller, and only a larger one gets room for the whole budget

_crc32c: Callable[[Any], int] = calc_crc32c if installed is None else installed.crc32c
_BATCH = struct.Struct(">qiibIhiqqqhii")  # format 2: see `encode`
_OLD = struct.Struct(">qiIbb")  # offset, size, checksum, format, attributes
_PLACE = struct.Struct(">qi")  # offset, size: the same in every format
_LONG, _INT = struct.Struct(">q"), struct.Struct(">i")
_MARKER = struct.Struct(">hh")  # the key of a control record: version, kind
_CODEC, _APPEND_TIME, _TRANSACTION, _CONTROL = 0x07, 0x08, 0x10, 0x20  # bits of a batch's attributes
_FORMAT_AT, _CRC_END = 16, 21
_ABORT = 0
_SIGN = 1 << 63
_XERIAL = b"\x82SNAPPY\0"  # Java's frame around blocks of snappy


class Run(NamedTuple):
    """Positions [start, end) and what is in them: records, or (then nothing else) `Unreadable`s.

    `size` is in bytes, unpacked. `stamped` is whether the broker set the timestamps, None where several batches were read at once.
    `damaged`: the bytes do not have their checksum, so that they may be better when they are fetched again.
    """

    start: int
    end: int
    records: Sequence[RecordLike]
    size: int
    stamped: bool | None = None
    damaged: bool = False


class _Plain(NamedTuple):
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[Header]


class _Bad(Exception):
    """The bytes are not what the format prescribes; the text says what is wrong."""


class _Batch(NamedTuple):
    """One batch of format 2, or one message of an older format: positions [base, end), and the batch's bytes."""

    base: int
    end: int
    data: memoryview
    timestamp: int = -1
    stamped: bool = False

    def unreadable(self, start: int, reason: str, *, whole: bool = True, damaged: bool = False) -> Run:
        what = "the records" if whole else "the rest of the batch"
        text = f"{what} from offset {start} to {self.end - 1} cannot be read: {reason}"
        lost = Unreadable(start, self.end, self.timestamp, bytes(self.data), text)
        return Run(start, self.end, [lost], len(self.data), self.stamped, damaged)


class Packed(Iterator[Run]):
    """The bytes that a fetch of one partition brought, read run by run; `position` is the first one that was not read yet.

    `aborted` gives (producer, first offset) of each aborted transaction: those records are left out. `native` allows the native part.
    """

    def __init__(
        self, data: bytes, position: int, aborted: Iterable[tuple[int, int]] = (), *, budget: int = BUDGET, native: bool = True
    ) -> None:
        self.position = position
        self._data = data
        self._budget = budget
        self._native = installed if native else None
        self._aborted = sorted(aborted, key=lambda one: one[1])
        self._aborting: set[int] = set()  # producers whose transaction is open here and will be aborted
        self._runs = self._read()

    def __next__(self) -> Run:
        return next(self._runs)

    def _read(self) -> Iterator[Run]:
        if self._native is not None and not self._aborted:
            found = self._native.unpack_fetch(self._data, self.position)
            if found is not None:
                records, end = found
                start, self.position = self.position, max(self.position, end)
                if self.position > start:
                    yield Run(start, self.position, records, len(self._data))
                return
        for run in self._batches(memoryview(self._data)):
            if run.end > self.position:
                start, self.position = self.position, run.end
                yield run._replace(start=start)

    def _batches(self, data: memoryview) -> Iterator[Run]:
        while len(data) > _FORMAT_AT:
            base, size = _PLACE.unpack_from(data)
            stop = _PLACE.size + size
            if stop > len(data):
                return  # brokers cut an answer at its limit, so the last batch may be incomplete
            if stop <= _FORMAT_AT:
                one = _Batch(self.position, self.position + 1, data)
                yield one.unreadable(self.position, f"a batch of {size} bytes", damaged=True)
                return
            yield from self._batch(base, data[:stop])
            data = data[stop:]

    def _batch(self, base: int, data: memoryview) -> Iterator[Run]:
        kind = data[_FORMAT_AT]
        if kind == 2:
            yield from self._current(base, data)
        elif kind < 2:
            yield self._old(base, data)
        else:
            one = _Batch(base, base + 1, data)
            yield one.unreadable(max(base, self.position), f"message format {kind} is not known")

    # -- format 2 --------------------------------------------------------------------------------------------------

    def _current(self, base: int, data: memoryview) -> Iterator[Run]:
        begin = max(base, self.position)  # what is before the position was read; a batch is sent whole
        if len(data) < _BATCH.size:
            yield _Batch(base, base + 1, data).unreadable(begin, f"a batch of {len(data)} bytes")
            return
        _, _, _, _, crc, attributes, last, first, latest, producer, _, _, count = _BATCH.unpack_from(data)
        stamped = bool(attributes & _APPEND_TIME)
        one = _Batch(base, base + max(last, 0) + 1, data, latest, stamped)
        if _crc32c(data[_CRC_END:]) != crc:
            yield one.unreadable(begin, "its bytes do not have the checksum that they were sent with", damaged=True)
            return
        if self._left_out(base, attributes, producer, data):
            yield Run(base, one.end, (), len(data), stamped)
            return
        try:
            body = unpack(attributes & _CODEC, data[_BATCH.size :], self._budget)
            if count * LEAST > self._budget:
                raise _Bad(f"{count} records are more than a batch may hold: {LEAST} bytes each of max_unpacked_bytes, {self._budget}")
        except _Bad as problem:
            yield one.unreadable(begin, str(problem))
            return
        if self._native is not None:
            records = self._native.unpack_records(data[: _BATCH.size], body, self.position)
            if records is not None:
                yield Run(base, one.end, records, len(body), stamped)
                return
        yield from _runs(one, _walk(body, one, first, count), self.position, len(body))

    def _left_out(self, base: int, attributes: int, producer: int, data: memoryview) -> bool:
        """Whether the batch is the end of a transaction, or of one that was aborted. Follows the transactions."""
        while self._aborted and self._aborted[0][1] <= base:
            self._aborting.add(self._aborted.pop(0)[0])
        if attributes & _CONTROL:
            if producer in self._aborting and _is_abort(data):
                self._aborting.discard(producer)
            return True
        return bool(attributes & _TRANSACTION) and producer in self._aborting

    # -- formats 0 and 1 -------------------------------------------------------------------------------------------

    def _old(self, base: int, data: memoryview) -> Run:
        """A message, or a compressed one that holds the others: `base` is the offset of the last of them."""
        one = _Batch(base, base + 1, data)
        try:
            if len(data) < _OLD.size:
                raise _Bad(f"a message of {len(data)} bytes")
            _, _, crc, kind, attributes = _OLD.unpack_from(data)
            if crc32(data[_FORMAT_AT:]) != crc:
                return one.unreadable(base, "its bytes do not have the checksum that they were sent with", damaged=True)
            stamped = kind == 1 and bool(attributes & _APPEND_TIME)
            outer = _message(data, base)
            one = one._replace(timestamp=outer.timestamp, stamped=stamped)
            codec = attributes & _CODEC
            if not codec:
                return Run(base, base + 1, [outer] if base >= self.position else (), len(data), stamped)
            body = unpack(codec, memoryview(outer.value or b""), self._budget)
            inner = list(_messages(body))
        except _Bad as problem:
            return one.unreadable(max(self.position, 0), str(problem))
        shift = base - inner[-1].offset if kind == 1 and inner else 0  # format 1 counts from 0 inside
        stamp = outer.timestamp if stamped else None
        records = [
            record._replace(offset=record.offset + shift, timestamp=record.timestamp if stamp is None else stamp) for record in inner
        ]
        offsets = [record.offset for record in records]
        if any(before >= after for before, after in pairwise(offsets)) or (offsets and offsets[-1] > base):
            return one.unreadable(self.position, "its offsets do not ascend")
        kept = [record for record in records if record.offset >= self.position]
        return Run(kept[0].offset if kept else base, base + 1, kept, len(body), stamped)


def unpack(codec: int, data: memoryview, budget: int) -> memoryview | bytes:
    """Returns the bytes of a batch's records. Raises _Bad when they are damaged, or more than `budget`."""
    if not codec:
        return data
    if codec not in _UNPACK:
        raise _Bad(f"compression {codec} is not known")
    try:
        for limit in (min(FIRST_GUESS, budget), budget):
            room = np.empty(limit, np.uint8).data  # its pages are not there before they are written to
            try:
                return room[: _UNPACK[codec](data, room)]
            except cramjam.DecompressionError as error:
                if "whole buffer" not in str(error) and "smaller than required" not in str(error):
                    raise
    except (cramjam.DecompressionError, struct.error, ValueError) as error:
        raise _Bad(f"it cannot be decompressed: {error}") from None
    raise _Bad(f"it unpacks to more than {budget} bytes (setting max_unpacked_bytes)")


def _snappy(data: memoryview, room: memoryview) -> int:
    if bytes(data[: len(_XERIAL)]) != _XERIAL:
        return int(cramjam.snappy.decompress_raw_into(data, room))
    at, done = 16, 0
    while at < len(data):
        (size,) = _INT.unpack_from(data, at)
        at += _INT.size
        if not 0 <= size <= len(data) - at:
            raise ValueError(f"a block of {size} bytes")
        done += int(cramjam.snappy.decompress_raw_into(data[at : at + size], room[done:]))
        at += size
    return done


_UNPACK: Final[dict[int, Callable[[memoryview, memoryview], int]]] = {
    1: lambda data, room: int(cramjam.gzip.decompress_into(data, room)),
    2: _snappy,
    3: lambda data, room: int(cramjam.lz4.decompress_into(data, room)),
    4: lambda data, room: int(cramjam.zstd.decompress_into(data, room)),
}


# -- one record after the other -----------------------------------------------------------------------------------------


def _runs(one: _Batch, found: Iterator[_Plain | Unreadable], least: int, size: int) -> Iterator[Run]:
    """Yields records and what is unreadable as runs of their own. Records with very many headers come in several runs, read one by one."""
    run: list[Any] = []
    start, headers = one.base, 0
    try:
        for record in found:
            if record.offset < least:  # a batch is sent whole, so it may contain records before
                continue
            if run and (headers > MOST_HEADERS or isinstance(record, Unreadable) != isinstance(run[-1], Unreadable)):
                yield Run(start, record.offset, run, size + headers * HEADER, one.stamped)
                start, run, size, headers = record.offset, [], 0, 0
            run.append(record)
            headers += len(record.headers)
    except _Bad as problem:
        begin = max(run[-1].offset + 1 if run else one.base, least)
        if run:
            yield Run(start, begin, run, size + headers * HEADER, one.stamped)
        if begin < one.end:
            yield one.unreadable(begin, str(problem), whole=not run)
        return
    yield Run(start, one.end, run, size + headers * HEADER, one.stamped)


def _walk(body: memoryview | bytes, one: _Batch, first: int, count: int) -> Iterator[_Plain | Unreadable]:
    """Yields the records of a batch, in order. Raises _Bad where the next one cannot be found."""
    data = memoryview(body)
    at, before = 0, one.base - 1
    for _ in range(count):
        size, at = _varint(data, at)
        stop = at + size
        if size < 0 or stop > len(data):
            raise _Bad(f"a record of {size} bytes with {len(data) - at} left")
        piece = data[at:stop]
        stamp, then = _varint(piece, 1)  # behind the attributes: a record has none
        place, then = _varint(piece, then)
        offset = one.base + place
        if not before < offset < one.end:
            raise _Bad(f"a record with offset {offset} behind offset {before}")
        timestamp = one.timestamp if one.stamped else (first + stamp + _SIGN) % (2 * _SIGN) - _SIGN
        try:
            yield _record(piece, then, offset, timestamp)
        except _Bad as problem:
            yield Unreadable(offset, offset + 1, timestamp, bytes(piece), f"the record cannot be read: {problem}")
        at, before = stop, offset
    if at != len(data):
        raise _Bad(f"{len(data) - at} bytes behind the last of its {count} records")


def _record(piece: memoryview, at: int, offset: int, timestamp: int) -> _Plain:
    key, at = _sized(piece, at)
    value, at = _sized(piece, at)
    count, at = _varint(piece, at)
    if not 0 <= count <= len(piece) - at:
        raise _Bad(f"{count} headers")
    if count > MOST_HEADERS:
        raise _Bad(f"{count} headers; a record may have {MOST_HEADERS}")
    headers = []
    for _ in range(count):
        name, at = _sized(piece, at)
        held, at = _sized(piece, at)
        if name is None:
            raise _Bad("a header without a name")
        headers.append((name.decode(errors="replace"), held))
    if at != len(piece):
        raise _Bad(f"{len(piece) - at} bytes are left behind its headers")
    return _Plain(offset, timestamp, key, value, tuple(headers))


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    raw = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        at += 1
        raw |= (byte & 0x7F) << shift
        if byte < 0x80:
            raw &= 0xFFFF_FFFF_FFFF_FFFF
            return (raw >> 1) ^ -(raw & 1), at
        shift += 7
    raise _Bad("a number without an end")


def _sized(data: memoryview, at: int) -> tuple[bytes | None, int]:
    size, at = _varint(data, at)
    if size > len(data) - at:
        raise _Bad(f"a part of {size} bytes with {len(data) - at} left")
    return (None, at) if size < 0 else (bytes(data[at : at + size]), at + size)


def _messages(body: memoryview | bytes) -> Iterator[_Plain]:
    """Yields the messages inside a compressed one."""
    data = memoryview(body)
    at = 0
    while at < len(data):
        if len(data) - at < _OLD.size:
            raise _Bad("a message that is cut off")
        offset, size = _PLACE.unpack_from(data, at)
        stop = at + _PLACE.size + size
        if size < _OLD.size - _PLACE.size or stop > len(data) or data[at + _FORMAT_AT] > 1:
            raise _Bad(f"a message of {size} bytes with {len(data) - at} left")
        yield _message(data[at:stop], offset)
        at = stop


def _message(data: memoryview, offset: int) -> _Plain:
    at, timestamp = _OLD.size, -1
    try:
        if data[_FORMAT_AT] == 1:
            (timestamp,) = _LONG.unpack_from(data, at)
            at += _LONG.size
        parts: list[bytes | None] = []
        for _ in range(2):
            (size,) = _INT.unpack_from(data, at)
            at += _INT.size
            if size > len(data) - at:
                raise _Bad(f"a part of {size} bytes with {len(data) - at} left")
            parts.append(None if size < 0 else bytes(data[at : at + size]))
            at += max(size, 0)
    except struct.error:
        raise _Bad("a message that is cut off") from None
    return _Plain(offset, timestamp, parts[0], parts[1], ())


def _is_abort(data: memoryview) -> bool:
    """Whether a control batch ends its transaction by aborting it."""
    try:
        body = data[_BATCH.size :]
        _, at = _varint(body, 0)
        _, at = _varint(body, at + 1)
        _, at = _varint(body, at)
        key, _ = _sized(body, at)
        return key is not None and len(key) >= _MARKER.size and _MARKER.unpack_from(key)[1] == _ABORT
    except _Bad:
        return False
