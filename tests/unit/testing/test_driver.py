"""What goes into the driver comes out as from a worker: values, keys, headers, timestamps, places, dead letters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock import testing
from penstock.errors import TopologyError
from penstock.record import Record
from penstock.testing.driver import START, TopologyDriver, explain

Event = Callable[..., dict[str, Any]]


def headers_of(record: Record) -> dict[str, bytes | None]:
    return dict(record.headers)


def test_every_sink_of_a_source_gets_each_event(driver: TopologyDriver, order: Event) -> None:
    driver.send("orders", order(id="a"), order(id="b", item=1, amount=0.5, embedding=[0, 0, 2]))
    assert driver.events("scores") == [
        {"id": "a", "base": 10, "total": 11, "embedding": [1, 1, 1]},
        {"id": "b", "base": 20, "total": 6.5, "embedding": [0, 0, 2]},
    ]
    assert driver.events("by_item") == [{"total": 11}, {"total": 6.5}]
    assert driver.dead_letters("orders") == []


def test_missing_value_is_what_the_file_puts_in_its_place(driver: TopologyDriver, order: Event) -> None:
    """Null and a field that is left out are the same."""
    absent = order()
    del absent["amount"]
    driver.send("orders", order(amount=None), absent)
    assert [event["total"] for event in driver.events("scores")] == [11, 11]


def test_two_sources_do_not_meet(driver: TopologyDriver, order: Event) -> None:
    driver.send("returns", {"id": "r", "refunded": 4})
    assert driver.events("refunds") == [{"id": "r", "amount": 8}]
    assert driver.events("scores") == driver.events("by_item") == []
    driver.send("orders", order())
    assert len(driver.events("refunds")) == 1


def test_key_timestamp_and_headers_pass_through(driver: TopologyDriver, order: Event) -> None:
    given = [("traceparent", b"00-1"), ("empty", None), ("traceparent", b"00-2"), ("penstock-topology", b"an earlier one")]
    driver.send("orders", order(), key=b"k", headers=given, timestamp=77, partition=1)
    (record,) = driver.records("scores")
    offset = driver.records("orders")[0].offset
    assert (record.key, record.timestamp, record.partition) == (b"k", 77, 1)
    assert list(record.headers) == [
        ("penstock-topology", b"shop"),
        ("penstock-generation", b"0"),
        ("penstock-models", b"weight=weigh@1,base=table@1,total=sum@1,refund=double@1"),
        ("penstock-source", b"orders/1/%d" % offset),
        ("penstock-id", driver.events("scores")[0]["id"].encode()),
        *given[:3],
    ]


def test_event_without_a_key_has_an_output_without_one(driver: TopologyDriver, order: Event) -> None:
    driver.send("orders", order())
    assert driver.records("scores")[0].key is None


def test_sink_with_a_key_addresses_by_it(driver: TopologyDriver, order: Event) -> None:
    """One key, one partition, whatever partition the inputs came from; the input's own key is not kept."""
    for partition in range(3):
        driver.send("orders", *(order(item=item) for item in range(3)), key=b"input", partition=partition)
    places = {(record.key, record.partition) for record in driver.records("by_item")}
    assert sorted(key for key, _ in places if key) == [b"0", b"1", b"2"]
    assert {record.partition for record in driver.records("scores")} == {0, 1, 2}


def test_partition_keeps_its_order_and_counts_its_offsets(driver: TopologyDriver, order: Event) -> None:
    """Small slices of several partitions share a chunk, large ones are cut: neither shows."""
    counts = {0: 9, 1: 1, 2: 2}
    records = [Record("", driver.write("orders", order(id=f"{p}-{n}")), partition=p) for p, count in counts.items() for n in range(count)]
    driver.send_records("orders", records)
    for partition, count in counts.items():
        out = [record for record in driver.records("scores") if record.partition == partition]
        ids = [event["id"] for event, record in zip(driver.events("scores"), driver.records("scores"), strict=True) if record in out]
        assert ids == [f"{partition}-{n}" for n in range(count)]
        assert [record.offset for record in out] == list(range(out[0].offset, out[0].offset + count))


def test_clock_moves_when_told(driver: TopologyDriver, order: Event) -> None:
    driver.send("orders", order())
    began = driver.now
    driver.advance(1.5)
    driver.send("orders", order())
    assert began >= START
    assert [record.timestamp - began for record in driver.records("scores")] == [0, 1500]


def test_dead_letter_is_the_record_as_it_came_with_the_reason(driver: TopologyDriver) -> None:
    headers = [("x-request-id", b"r1"), ("penstock-source", b"before")]
    driver.send("orders", b"\xffnot JSON", key=b"k", headers=headers, timestamp=5, partition=2)
    (letter,) = driver.dead_letters("orders")
    (record,) = driver.records("orders")
    assert letter.topic == "orders.dead-letter"
    assert (letter.value, letter.key, letter.timestamp, letter.partition) == (b"\xffnot JSON", b"k", 5, 2)
    assert list(letter.headers)[:2] == headers
    reasons = headers_of(letter)
    assert (reasons.pop("__streams.errors.message") or b"").startswith(b"invalid UTF-8")
    assert list(reasons.items())[2:] == [
        ("__streams.errors.exception", b"penstock.errors.DecodeError"),
        ("__streams.errors.offset", b"%d" % record.offset),
        ("__streams.errors.topic", b"orders"),
        ("__streams.errors.partition", b"2"),
        ("penstock-topology", reasons["penstock-topology"]),
        ("penstock-generation", b"0"),
        ("penstock-models", reasons["penstock-models"]),
        ("penstock-variant", b"live"),
        ("penstock-stage", b"decode"),
        ("penstock-id", b"orders:2:%d" % record.offset),
    ]
    assert driver.events("scores") == []


def test_tombstone_is_a_dead_letter(driver: TopologyDriver) -> None:
    """It is no event, and dropping it unseen would be a loss."""
    driver.send("returns", None, key=b"k")
    (letter,) = driver.dead_letters("returns")
    assert (letter.topic, letter.key, letter.value) == ("lost-returns", b"k", None)
    assert "tombstone" in explain([letter])


def test_guilty_rows_leave_their_neighbours_alone(driver: TopologyDriver, order: Event) -> None:
    """One is no JSON, one makes the model raise, one has a number too large to add up; the chunk holds all of them."""
    huge = order(id="e", amount=3.4e38, embedding=[3.4e38, 0, 0])
    driver.send("orders", order(id="a"), b"{", order(id="c"), order(id="d", item=9), huge, order(id="f"))
    assert [event["id"] for event in driver.events("scores")] == ["a", "c", "f"]
    letters = driver.dead_letters("orders")
    assert [headers_of(letter)["penstock-stage"] for letter in letters] == [b"decode", b"base", b"total"]
    assert [headers_of(letter).get("penstock-node") for letter in letters] == [None, b"base", b"total"]
    assert b"table@1 cannot score the event" in (headers_of(letters[1])["__streams.errors.message"] or b"")


def test_record_that_two_sinks_refuse_is_one_dead_letter(driver: TopologyDriver, order: Event) -> None:
    """Whoever replays dead letters must not double the event."""
    driver.send("orders", order(amount=3.4e38, embedding=[3.4e38, 0, 0]))
    assert driver.events("by_item") == []
    assert len(driver.dead_letters("orders")) == 1


def test_clear_forgets_records_and_not_offsets(driver: TopologyDriver, order: Event) -> None:
    driver.send("orders", order())
    (before,) = driver.records("orders")
    driver.clear()
    assert driver.records("orders") == driver.records("scores") == []
    driver.send("orders", order())
    assert driver.records("orders")[0].offset == before.offset + 1


def test_nothing_sent_is_nothing_done(driver: TopologyDriver) -> None:
    driver.send("orders")
    assert driver.records("orders") == driver.records("scores") == []


def test_mistyped_name_is_no_empty_topic(driver: TopologyDriver, order: Event) -> None:
    """A test that asserts emptiness of a name that is not there would hold for ever."""
    with pytest.raises(KeyError, match="there is no source 'order'; did you mean 'orders'"):
        driver.send("order", order())
    with pytest.raises(KeyError, match="there is no sink 'score'; did you mean 'scores'"):
        driver.events("score")
    with pytest.raises(KeyError, match="no source 'scores'"):
        driver.dead_letters("scores")
    with pytest.raises(KeyError, match="no topic 'lost-orders'"):
        driver.records("lost-orders")


def test_partition_that_is_not_there_is_refused(driver: TopologyDriver, order: Event) -> None:
    with pytest.raises(ValueError, match="orders has no partition 3: this driver was made with 3"):
        driver.send("orders", order(), partition=3)
    assert driver.records("orders") == []


def test_topology_is_checked_as_a_worker_does(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text((shop / "shop.yaml").read_text().replace("table@1", "tabel@1"))
    with pytest.raises(TopologyError, match=r"bad.yaml:7:30: nodes.base: .*did you mean 'table'"):
        TopologyDriver(tmp_path / "bad.yaml", models=shop / "models", schemas=shop / "schemas")


def test_driver_is_offered_by_the_test_kit() -> None:
    assert testing.TopologyDriver is TopologyDriver


def test_trace_context_passes_untouched(driver: TopologyDriver, order: Event) -> None:
    """W3C trace headers come out on every output and on the dead letter as they came in: byte by byte, and once."""
    trace = [("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), ("tracestate", b"vendor=1,other=2")]
    driver.send("orders", order(), b"{not json", headers=trace)
    for record in (*driver.records("scores"), *driver.records("by_item"), *driver.dead_letters("orders")):
        assert [header for header in record.headers if header[0].startswith("trace")] == trace
    assert len(driver.dead_letters("orders")) == 1
