"""Record batches made byte by byte, and a Produce request that sends them as they are: what other clients can put into a topic."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import Final

from aiokafka.codec import gzip_encode, lz4_encode, snappy_encode, zstd_encode
from aiokafka.record.util import calc_crc32c

from penstock.testing import Broker
from penstock.transports.kafka.wire import PRODUCE, frame, parse_produce, produce_request

PACK: Final[dict[int, Callable[[bytes], bytes]]] = {
    0: bytes,
    1: lambda data: bytes(gzip_encode(data)),
    2: lambda data: bytes(snappy_encode(data)),
    3: lambda data: bytes(lz4_encode(data)),
    4: lambda data: bytes(zstd_encode(data)),
}


def varint(number: int) -> bytes:
    left, out = (number << 1) ^ (number >> 63), bytearray()
    while left > 0x7F:
        out.append(left & 0x7F | 0x80)
        left >>= 7
    return bytes([*out, left])


def sized(text: bytes | None) -> bytes:
    return varint(-1) if text is None else varint(len(text)) + text


def inner(place: int, key: bytes | None, value: bytes | None, headers: Sequence[tuple[bytes, bytes | None]] = ()) -> bytes:
    """A record without its length, `place` ms after the batch's first."""
    tail = b"".join(sized(name) + sized(held) for name, held in headers)
    return b"\0" + varint(place) + varint(place) + sized(key) + sized(value) + varint(len(headers)) + tail


# A record, by its place in the batch, whose inner lengths are wrong.
DAMAGE: Final[dict[str, Callable[[int], bytes]]] = {
    "the key's length": lambda place: b"\0" + varint(place) * 2 + varint(99) + b"key",
    "a length without an end": lambda place: b"\0" + varint(place) * 2 + b"\xff" * 12,
    "many headers": lambda place: b"\0" + varint(place) * 2 + sized(b"k") + sized(b"v") + varint(9),
    "less than no headers": lambda place: b"\0" + varint(place) * 2 + sized(b"k") + sized(b"v") + varint(-2),
    "a header without a name": lambda place: b"\0" + varint(place) * 2 + sized(b"k") + sized(b"v") + varint(1) + varint(-1) + sized(b"x"),
    "bytes behind the headers": lambda place: inner(place, b"k", b"v") + b"more",
}


def batch(records: Sequence[bytes], codec: int = 0, *, base: int = 0, count: int | None = None, first: int = 1000) -> bytes:
    """A batch of format 2 with a correct checksum, whatever its records are."""
    return sealed(b"".join(varint(len(one)) + one for one in records), len(records), codec, base=base, count=count, first=first)


def sealed(body: bytes, places: int, codec: int = 0, *, base: int = 0, count: int | None = None, first: int = 1000) -> bytes:
    packed = PACK[codec](body)
    head = struct.pack(">hiqqqhii", codec, places - 1, first, first + places - 1, -1, -1, -1, places if count is None else count)
    return struct.pack(">qiibI", base, len(head) + len(packed) + 9, -1, 2, calc_crc32c(head + packed)) + head + packed


def now_ms() -> int:
    return int(time.time() * 1000)


def produce_raw(broker: Broker, topic: str, data: bytes, *, partition: int = 0) -> int:
    """Sends the bytes as a record batch, without a look at them; returns the broker's answer, 0 when it took them."""
    host, _, port = broker.bootstrap.rpartition(":")
    body = produce_request({topic: [(partition, data)]}, timeout_ms=10_000)
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(frame(PRODUCE, 1, "raw", body))
        (size,) = struct.unpack(">i", _exactly(connection, 4))
        (part,) = parse_produce(_exactly(connection, size), 4)
    return part.error


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise ConnectionError(f"the broker closed the connection after {len(data)} of {size} bytes")
        data += piece
    return data
