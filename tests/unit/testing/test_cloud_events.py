"""CloudEvents from one topic, structured and binary: read alike, with attributes; others are skipped, or dead letters with a reason."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import fastavro
import pytest

import penstock
from penstock.errors import ConfigError, TopologyError
from penstock.record import Header, Record
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models
from penstock.testing.case_file import read_cases
from penstock.testing.cases import run_case
from penstock.testing.driver import TopologyDriver, explain

SCHEMA = {
    "type": "record",
    "name": "Order",
    "fields": [{"name": "item", "type": "long"}, {"name": "note", "type": ["null", "string"], "default": None}],
}
TOPOLOGY = """\
topology: shop
sources: {{orders: {{topic: orders, schema: order.avsc, format: {format}, envelope: cloudevents{source}}}}}
nodes: {{price: {{kind: model, model: table@1, inputs: {{x: item}}}}}}
sinks: {{prices: {{topic: prices, fields: {{price: price{fields}}}}}}}
"""
ATTRIBUTES = {"specversion": "1.0", "id": "7", "source": "/shop", "type": "order.placed", "time": "2026-11-30T10:00:00.5Z", "priority": 3}
STRUCTURED: Header = ("content-type", b"application/cloudevents+json; charset=UTF-8")
Make = Callable[..., TopologyDriver]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    (tmp_path / "order.avsc").write_text(json.dumps(SCHEMA))
    (tmp_path / "ids").mkdir()
    (tmp_path / "ids/7.avsc").write_text(json.dumps(SCHEMA))
    DirectoryRegistry(tmp_path / "models").publish("table", models.gather([10, 20, 30]))

    def made(format: str = "json", source: str = "", fields: str = "") -> TopologyDriver:
        (tmp_path / "shop.yaml").write_text(TOPOLOGY.format(format=format, source=source, fields=fields))
        return TopologyDriver(tmp_path / "shop.yaml", models=tmp_path / "models", schemas=tmp_path)

    return made


def structured(data: Any = None, *, headers: tuple[Header, ...] = (STRUCTURED,), key: bytes | None = None, **changed: Any) -> Record:
    event = {**ATTRIBUTES, "data": {"item": 1} if data is None else data} | changed
    return Record("", json.dumps({name: value for name, value in event.items() if value is not ...}).encode(), key, headers)


def binary(data: bytes | None = b'{"item": 1}', **changed: Any) -> Record:
    headers = [(f"ce_{name}", str(value).encode()) for name, value in (ATTRIBUTES | changed).items() if value is not ...]
    return Record("", data, None, [("content-type", b"application/json"), *headers])


def avro(event: Mapping[str, Any]) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(SCHEMA), dict(event))
    return out.getvalue()


def reasons(driver: TopologyDriver) -> list[str]:
    return [(dict(one.headers)["__streams.errors.message"] or b"").decode() for one in driver.dead_letters("orders")]


def test_both_modes_are_read_alike(make: Make) -> None:
    """Fields of the data, attributes, and extensions; a number of JSON is the text that the header has."""
    driver = make(fields=", kind: ce.type, at: ce.time, priority: ce.priority, subject: ce.subject, both: ce, note: note")
    driver.send_records(
        "orders", [structured(), binary(), structured({"item": 2, "note": "n"}, subject="s"), binary(subject="s", time=...)]
    )
    assert not driver.dead_letters("orders"), explain(driver.dead_letters("orders"))
    same = {"price": 20.0, "kind": "order.placed", "at": 1796032800500, "priority": "3", "subject": None, "both": "/shop 7", "note": None}
    assert driver.events("prices") == [
        same,
        same,
        {**same, "price": 30.0, "note": "n", "subject": "s"},
        {**same, "subject": "s", "at": None},
    ]


def test_id_is_source_and_id_or_what_the_source_names(make: Make) -> None:
    for source, expected in (("", b"/shop 7"), (", id: ce.id, time: ce.time", b"7"), (", id: item", b"1")):
        driver = make(source=source)
        driver.send_records("orders", [structured(), binary()])
        assert [dict(one.headers)["penstock-id"] for one in driver.records("prices")] == [expected] * 2


def test_outputs_are_not_taken_for_the_event(make: Make) -> None:
    """They keep other headers of their input; a dead letter keeps all, since it is the event."""
    driver = make()
    driver.send_records("orders", [structured(headers=(STRUCTURED, ("tenant", b"a"))), binary(), binary(b"{}")])
    for record in driver.records("prices"):
        assert not [name for name, _ in record.headers if name.startswith(("ce_", "content"))]
    assert dict(driver.records("prices")[0].headers)["tenant"] == b"a"
    assert dict(driver.dead_letters("orders")[0].headers)["ce_id"] == b"7"


@pytest.mark.parametrize(("format", "frame"), [("avro", b""), ("avro-confluent", b"\0\0\0\0\7")])
def test_data_in_avro(make: Make, format: str, frame: bytes) -> None:
    driver = make(format)
    data = frame + avro({"item": 2})
    driver.send_records("orders", [binary(data), structured(data=..., data_base64=base64.b64encode(data).decode()), structured()])
    assert driver.events("prices") == [{"price": 30.0}] * 2
    assert reasons(driver) == ["the CloudEvent has its data as JSON, and the source reads another format: that is in data_base64"]


def test_json_data_may_be_in_base64(make: Make) -> None:
    driver = make()
    driver.send_records("orders", [structured(data=..., data_base64=base64.b64encode(b'{"item": 2}').decode()), structured(headers=())])
    assert driver.events("prices") == [{"price": 30.0}, {"price": 20.0}]


def test_other_types_are_skipped(make: Make) -> None:
    """Whatever their data is: it is not decoded."""
    driver = make(source=", types: [order.placed, order.changed]")
    lost = "order.lost"
    other = [structured({"x": 1}, type=lost), binary(b"\xff", type=lost), binary(None, type=lost), structured(data=..., type=lost)]
    driver.send_records("orders", [other[0], structured(type="order.changed"), *other[1:], binary(), binary(b"{}")])
    assert driver.events("prices") == [{"price": 20.0}] * 2
    assert len(driver.dead_letters("orders")) == 1
    driver = make("avro", source=", types: [order.placed]")
    driver.send_records("orders", [structured(type=lost), structured()])
    assert len(driver.dead_letters("orders")) == 1


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (structured(specversion="0.3"), "a CloudEvent of version '0.3': 1.0 is read"),
        (binary(specversion="2.0"), "a CloudEvent of version '2.0': 1.0 is read"),
        (structured(id=..., type=""), "the CloudEvent has no id and no type"),
        (binary(id="", source=...), "the CloudEvent has no id and no source"),
        (structured(data=...), "the CloudEvent has no data"),
        (structured(data_base64="e30="), "the CloudEvent has data and data_base64, and may have one of them"),
        (structured(data={"item": "x"}), "Expected `int`, got `str` - at `$.item`"),
        (binary(b'{"item": "x"}'), "Expected `int`, got `str` - at `$.item`"),
        (binary(None), "the value is null (a tombstone), not an event"),
        (Record("", None), "the value is null (a tombstone), not an event"),
        (Record("", b'{"item": 1}'), "no CloudEvent: it has no header ce_specversion, and is no JSON object with specversion"),
        (Record("", b"\xff\x00"), "no CloudEvent: it has no header ce_specversion, and is no JSON object with specversion"),
        (Record("", b"[]"), "it is a batch of CloudEvents, and a record has one event"),
        (Record("", b"[]", None, [("content-type", b"application/cloudevents-batch+json")]), "it is a batch of CloudEvents"),
        (
            Record("", b"", None, [("Content-Type", b"application/cloudevents+avro")]),
            "in application/cloudevents+avro: only application/cloudevents+json is read",
        ),
        (Record("", b'{"specversion": "1.0", ', None, [STRUCTURED]), "no CloudEvent: Input data was truncated"),
        (Record("", b'{"specversion": "1.0", "x": "\xff"}', None, [STRUCTURED]), "no CloudEvent: 'utf-8' codec can't decode"),
        (Record("", b'{"x":' * 100_000, None, [STRUCTURED]), "no CloudEvent: "),
        (Record("", b'{"x": "' + b"x" * 2_000_000, None, [STRUCTURED]), "more than the 1048576 allowed (max_bytes of the source)"),
        (structured(id={"a": 1}), "no CloudEvent: Expected `"),
        (structured(time="soon"), "'soon' is not a date of ISO 8601 in 'ce.time'"),
        (binary(time="soon"), "'soon' is not a date of ISO 8601 in 'ce.time'"),
    ],
)
def test_what_is_no_event_is_a_dead_letter_and_its_neighbours_are_not(make: Make, record: Record, reason: str) -> None:
    driver = make(fields=", at: ce.time")
    driver.send_records("orders", [structured(), record, binary()])
    assert [one["price"] for one in driver.events("prices")] == [20.0] * 2
    (found,) = reasons(driver)
    assert reason in found


def test_batch_of_nothing_but_bad_and_skipped_records(make: Make) -> None:
    driver = make(source=", types: [order.placed]", fields=", at: ce.time")
    driver.send_records("orders", [Record("", b"{"), structured(type="order.lost")])
    assert (driver.events("prices"), len(driver.dead_letters("orders"))) == ([], 1)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"source": ", types: []"}, "types"),
        ({"fields": ", a: data.item"}, "there is no source or node 'data'|no field 'data.item'"),
        ({"source": ", time: ce.type"}, "the field 'ce.type' is of kind string"),
        ({"fields": ", a: ce.data"}, "ce.data"),
        ({"fields": ", a: ce.data_base64"}, "ce.data_base64"),
        ({"fields": ", a: ce.dataContentType"}, "ce.dataContentType"),
    ],
)
def test_what_does_not_fit_is_refused_at_start(make: Make, parts: dict[str, str], reason: str) -> None:
    with pytest.raises(TopologyError, match=reason):
        make(**parts)


def test_types_and_sinks_that_make_no_sense_are_refused(make: Make, tmp_path: Path) -> None:
    make()
    file = tmp_path / "shop.yaml"
    for old, new, reason in (
        ("envelope: cloudevents", "types: [a]", "only CloudEvents have types"),
        ("topic: prices", "topic: orders", "the source 'orders' reads CloudEvents from 'orders', and no sink writes them"),
    ):
        changed = tmp_path / "changed.yaml"
        changed.write_text(file.read_text().replace(old, new))
        with pytest.raises(TopologyError, match=reason):
            TopologyDriver(changed, models=tmp_path / "models", schemas=tmp_path)


def test_a_program_gives_structured_events(make: Make, tmp_path: Path) -> None:
    make(source=", types: [order.placed]")
    with penstock.open(tmp_path / "shop.yaml", models=tmp_path / "models", schemas=tmp_path) as plan:
        events = [{**ATTRIBUTES, "data": {"item": 2}}, {**ATTRIBUTES, "type": "other", "data": 1}]
        assert plan.score(events) == [{"price": 30.0}, {}]


CASE = """\
cases:
  - name: a
    given:
      orders:
        - {specversion: "1.0", id: "7", source: /shop, type: order.placed, priority: 3, data: {item: 2}}
        - {specversion: "1.0", id: "8", source: /shop, type: order.lost, data: {itm: 2}}
        - {event: {item: 1}, headers: {ce_specversion: "1.0", ce_id: "9", ce_source: /shop, ce_type: order.placed}}
    expect: {prices: [{price: 30}, {price: 20}]}
"""


def test_a_file_of_cases_gives_structured_and_binary_events(make: Make, tmp_path: Path) -> None:
    """The fields of the data are checked; those of a type that is not read may be any."""
    make(source=", types: [order.placed]")
    file = tmp_path / "shop.test.yaml"
    file.write_text(CASE)
    cases = read_cases(file, models=tmp_path / "models", schemas=tmp_path)
    assert run_case(cases.driver, cases.cases[0]) == ()
    file.write_text(CASE.replace("{item: 2}", "{itm: 2}"))
    with pytest.raises(ConfigError, match=r"5:\d+: .*order.avsc has no field 'itm' \(did you mean 'item'\?\)"):
        read_cases(file, models=tmp_path / "models", schemas=tmp_path)


def test_structured_events_are_written_as_json_whatever_the_data_is(make: Make) -> None:
    driver = make("avro")
    driver.send("orders", {**ATTRIBUTES, "data_base64": base64.b64encode(avro({"item": 2})).decode()})
    assert driver.events("prices") == [{"price": 30.0}]
