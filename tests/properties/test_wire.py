"""Our bytes of the hot path's messages are aiokafka's bytes, both ways; and nothing that comes over a wire breaks the parsers."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka.protocol.api import RequestHeader_v1
from aiokafka.protocol.fetch import FetchRequest_v11, FetchResponse_v11
from aiokafka.protocol.produce import ProduceRequest_v7, ProduceResponse_v7
from hypothesis import given
from hypothesis import strategies as st

from penstock.transports.kafka.wire import FETCH, PRODUCE, fetch_request, frame, parse_fetch, parse_produce, produce_request

NAMES = st.text(st.characters(codec="utf-8"), max_size=12)
INT16, INT32, INT64 = (st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (16, 32, 64))
BEFORE = b"\0\0\0\0size"  # an answer's body does not begin the bytes that it comes in


@given(st.integers(0, 2**31 - 1), NAMES, st.binary(max_size=40), st.sampled_from([FETCH, PRODUCE]))
def test_a_frame_is_aiokafkas(number: int, client: str, body: bytes, api: Any) -> None:
    class Request:
        API_KEY, API_VERSION = api

    message = RequestHeader_v1(Request, correlation_id=number, client_id=client).encode() + body
    assert frame(api, number, client, [body[:9], body[9:]]) == struct.pack(">i", len(message)) + message


@given(
    st.dictionaries(NAMES, st.lists(st.tuples(INT32, INT64), max_size=4), max_size=3), INT32, INT32, INT32, INT32, st.sampled_from([0, 1])
)
def test_a_fetch_request_is_aiokafkas(
    topics: dict[str, list[tuple[int, int]]], wait: int, least: int, most: int, each: int, isolation: int
) -> None:
    asked = [(topic, [(partition, -1, offset, -1, each) for partition, offset in partitions]) for topic, partitions in topics.items()]
    theirs = FetchRequest_v11(-1, wait, least, most, isolation, 0, -1, asked, [], "").encode()
    ours = fetch_request(topics, wait_ms=wait, min_bytes=least, max_bytes=most, partition_bytes=each, isolation=isolation)
    assert b"".join(ours) == theirs


@given(st.dictionaries(NAMES, st.lists(st.tuples(INT32, st.binary(max_size=30)), max_size=4), max_size=3), INT32)
def test_a_produce_request_is_aiokafkas(topics: dict[str, list[tuple[int, bytes]]], timeout: int) -> None:
    assert b"".join(produce_request(topics, timeout_ms=timeout)) == ProduceRequest_v7(None, -1, timeout, list(topics.items())).encode()


ABORTED = st.none() | st.lists(st.tuples(INT64, INT64), max_size=3)
FETCHED = st.tuples(INT32, INT16, INT64, INT64, INT64, ABORTED, INT32, st.none() | st.binary(max_size=50))
PRODUCED = st.tuples(INT32, INT16, INT64, INT64, INT64)


@given(st.lists(st.tuples(NAMES, st.lists(FETCHED, max_size=4)), max_size=3), INT16, INT32, INT32)
def test_an_answer_to_a_fetch_is_read_as_aiokafka_wrote_it(
    topics: list[tuple[str, list[Any]]], error: int, throttled: int, session: int
) -> None:
    data = FetchResponse_v11(throttled, error, session, topics).encode()
    expected = [
        (topic, partition, code, high, stable, aborted or [], records or b"")
        for topic, partitions in topics
        for partition, code, high, stable, _, aborted, _, records in partitions
    ]
    found, parts = parse_fetch(BEFORE + data, len(BEFORE))
    assert found == error
    assert [(*part[:5], list(part.aborted), part.records) for part in parts] == expected


@given(st.lists(st.tuples(NAMES, st.lists(PRODUCED, max_size=4)), max_size=3), INT32)
def test_an_answer_to_a_produce_request_is_read_as_aiokafka_wrote_it(topics: list[tuple[str, list[Any]]], throttled: int) -> None:
    data = ProduceResponse_v7(topics, throttled).encode()
    expected = [(topic, *partition) for topic, partitions in topics for partition in partitions]
    assert parse_produce(BEFORE + data, len(BEFORE)) == expected


@pytest.mark.parametrize("parse", [parse_fetch, parse_produce])
@given(st.binary(max_size=120), st.booleans())
def test_other_bytes_are_refused_or_read_and_nothing_else(parse: Callable[[bytes, int], Any], data: bytes, counted: bool) -> None:
    """`counted`: with plausible counts in front, so that the parser gets further than to the first of them."""
    if counted:
        data = struct.pack(">ihii", 0, 0, 0, 1) + struct.pack(">h2si", 2, b"in", 2) + data
    with contextlib.suppress(ValueError):
        parse(data, 0)


@pytest.mark.parametrize("cut", [1, 10, 30])
def test_an_answer_that_ends_early_is_refused(cut: int) -> None:
    fetched = FetchResponse_v11(0, 0, 0, [("in", [(0, 0, 9, 9, 0, None, -1, b"records" * 9)])]).encode()
    produced = ProduceResponse_v7([("out", [(0, 0, 9, -1, 0), (1, 0, 9, -1, 0)])], 0).encode()
    for parse, data in ((parse_fetch, fetched), (parse_produce, produced)):
        with pytest.raises(ValueError, match="answer"):
            parse(data[:-cut], 0)
        with pytest.raises(ValueError, match="answer"):
            parse(data + b"x", 0)
