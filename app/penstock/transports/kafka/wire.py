"""The two messages of the hot path as bytes: Fetch (version 11) and Produce (version 7), requests and answers.

aiokafka describes messages by schemas, which walk every field of every message in Python: a fifth of what a small
batch costs. All other messages to a broker go through aiokafka, and so does an answer to these two that contains an
error. A property test compares both directions with aiokafka's schemas.

The layout: https://kafka.apache.org/protocol (KIP-98, KIP-110, KIP-227, KIP-320 and KIP-392 for the fields of these versions)
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple, TypeVar

__all__ = [
    "FETCH",
    "PRODUCE",
    "Api",
    "FetchPart",
    "ProducePart",
    "fetch_request",
    "frame",
    "parse_fetch",
    "parse_produce",
    "produce_request",
]


class Api(NamedTuple):
    """A kind of request, and the version of it that is used here."""

    key: int
    version: int


FETCH: Final = Api(1, 11)  # 10 is the first that may be answered with zstd
PRODUCE: Final = Api(0, 7)  # the first that may bring zstd

_FRAME = struct.Struct(">ihhi")  # length of what follows, api, version, correlation id
_LENGTH = struct.Struct(">h")
_COUNT = struct.Struct(">i")

_FETCH = struct.Struct(">iiiibiii")  # replica, wait, least, most, isolation, session, its epoch, topics
_FETCH_PARTITION = struct.Struct(">iiqqi")  # partition, leader epoch, offset, start of a follower's log, most
_FETCH_END = struct.pack(">ih", 0, 0)  # topics to forget, rack
_FETCH_ANSWER = struct.Struct(">ihii")  # throttled, error, session, topics
_FETCHED = struct.Struct(">ihqqqi")  # partition, error, high watermark, last stable offset, log start, aborted transactions
_ABORTED = struct.Struct(">qq")  # producer, first offset
_RECORDS = struct.Struct(">ii")  # preferred replica, bytes of records

_PRODUCE = struct.Struct(">hhii")  # transactional id, acks, timeout, topics
_PRODUCE_PARTITION = struct.Struct(">ii")  # partition, bytes of records
_PRODUCED = struct.Struct(">ihqqq")  # partition, error, base offset, append time, log start

_Part = TypeVar("_Part")

_NOBODY = -1  # a client's replica id; also "not known" for the epochs and offsets that only followers send


class FetchPart(NamedTuple):
    """A partition in an answer to a fetch. `error` is the protocol's code, `aborted` (producer, first offset) of each transaction."""

    topic: str
    partition: int
    error: int
    high_watermark: int
    last_stable_offset: int
    aborted: Sequence[tuple[int, int]]
    records: bytes


class ProducePart(NamedTuple):
    """A partition in an answer to a produce request. `timestamp` is the broker's, -1 where the records keep their own."""

    topic: str
    partition: int
    error: int
    offset: int
    timestamp: int
    log_start: int


def frame(api: Api, correlation_id: int, client_id: str, body: Sequence[bytes | bytearray]) -> bytes:
    """A request as it goes over the connection. `body` is in pieces, so that large ones are copied once."""
    client = _string(client_id)
    size = _FRAME.size - 4 + len(client) + sum(map(len, body))
    return b"".join((_FRAME.pack(size, *api, correlation_id), client, *body))


def fetch_request(
    topics: Mapping[str, Sequence[tuple[int, int]]], *, wait_ms: int, min_bytes: int, max_bytes: int, partition_bytes: int, isolation: int
) -> list[bytes]:
    """Asks for each topic's (partition, offset). The limits are bytes of the answer; `isolation` is 1 for committed records only."""
    out = [_FETCH.pack(_NOBODY, wait_ms, min_bytes, max_bytes, isolation, 0, -1, len(topics))]
    for topic, partitions in topics.items():
        out += (_string(topic), _COUNT.pack(len(partitions)))
        out += [_FETCH_PARTITION.pack(partition, _NOBODY, offset, _NOBODY, partition_bytes) for partition, offset in partitions]
    out.append(_FETCH_END)
    return out


def parse_fetch(data: bytes, at: int) -> tuple[int, list[FetchPart]]:
    """The error of the whole fetch, and its partitions, from an answer whose body begins at `at`. Raises ValueError for any other bytes."""
    try:
        _, error, _, topics = _FETCH_ANSWER.unpack_from(data, at)
        at += _FETCH_ANSWER.size
        out: list[FetchPart] = []
        for _ in range(topics):
            topic, count, at = _topic(data, at)
            for _ in range(count):
                partition, code, high, stable, _, transactions = _FETCHED.unpack_from(data, at)
                at += _FETCHED.size
                aborted: Sequence[tuple[int, int]] = ()
                if transactions > 0:
                    end = at + transactions * _ABORTED.size
                    aborted = list(_ABORTED.iter_unpack(data[at:end]))
                    at = end
                _, size = _RECORDS.unpack_from(data, at)
                at += _RECORDS.size
                end = at + max(size, 0)
                out.append(FetchPart(topic, partition, code, high, stable, aborted, data[at:end]))
                at = end
    except (struct.error, UnicodeDecodeError) as problem:
        raise ValueError(f"not an answer to a fetch: {problem}") from problem
    return error, _whole(data, at, out)


def produce_request(topics: Mapping[str, Sequence[tuple[int, bytes | bytearray]]], *, timeout_ms: int) -> list[bytes | bytearray]:
    """Sends each topic's (partition, record batch), to be acknowledged by all replicas in sync."""
    out: list[bytes | bytearray] = [_PRODUCE.pack(_NOBODY, -1, timeout_ms, len(topics))]
    for topic, partitions in topics.items():
        out += (_string(topic), _COUNT.pack(len(partitions)))
        for partition, records in partitions:
            out += (_PRODUCE_PARTITION.pack(partition, len(records)), records)
    return out


def parse_produce(data: bytes, at: int) -> list[ProducePart]:
    """The partitions from an answer whose body begins at `at`. Raises ValueError for any other bytes."""
    try:
        (topics,) = _COUNT.unpack_from(data, at)
        at += _COUNT.size
        out: list[ProducePart] = []
        for _ in range(topics):
            topic, count, at = _topic(data, at)
            for _ in range(count):
                out.append(ProducePart(topic, *_PRODUCED.unpack_from(data, at)))
                at += _PRODUCED.size
    except (struct.error, UnicodeDecodeError) as problem:
        raise ValueError(f"not an answer to a produce request: {problem}") from problem
    return _whole(data, at + _COUNT.size, out)  # how long it was throttled


def _whole(data: bytes, end: int, parts: list[_Part]) -> list[_Part]:
    if end != len(data):
        raise ValueError(f"an answer of {len(data)} bytes, read as one of {end}")
    return parts


def _topic(data: bytes, at: int) -> tuple[str, int, int]:
    """A topic's name, how many partitions follow, and where."""
    (length,) = _LENGTH.unpack_from(data, at)
    if length < 0:  # it would lead backwards, again and again
        raise ValueError(f"a topic's name of {length} bytes")
    at += _LENGTH.size
    (count,) = _COUNT.unpack_from(data, at + length)
    return data[at : at + length].decode(), count, at + length + _COUNT.size


@lru_cache(maxsize=256)
def _string(text: str) -> bytes:
    data = text.encode()
    return _LENGTH.pack(len(data)) + data
