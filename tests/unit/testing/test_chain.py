"""A chain through the driver: what the first stage writes is what the second reads, and only the first source is sent to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from penstock.record import Record
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models
from penstock.testing.cases import Case, Expected, run_case
from penstock.testing.driver import TopologyDriver
from penstock.topology.spec import Mark

TOPOLOGY = """\
topology: chain
sources:
  scored: {topic: scored, schema: scored.avsc}
  orders: {topic: orders, schema: order.avsc, id: id}
nodes:
  risk: {kind: model, model: double@1, inputs: {x: orders.amount}}
  review: {kind: model, model: table@1, inputs: {x: scored.grade}}
sinks:
  reviews: {topic: reviews, fields: {id: scored.id, review: review}}
  scores: {topic: scored, key: orders.customer, fields: {id: orders.id, grade: orders.grade, risk: risk.y}}
"""
ORDER = {"id": "string", "customer": "string", "grade": "long", "amount": "float"}
SCORED = {"id": "string", "grade": "long", "risk": "float"}


@pytest.fixture
def driver(tmp_path: Path) -> TopologyDriver:
    (tmp_path / "schemas").mkdir()
    for name, fields in {"order": ORDER, "scored": SCORED}.items():
        declared = [{"name": field, "type": kind} for field, kind in fields.items()]
        (tmp_path / f"schemas/{name}.avsc").write_text(json.dumps({"type": "record", "name": name, "fields": declared}))
    registry = DirectoryRegistry(tmp_path / "models")
    registry.publish("double", models.linear([2]))
    registry.publish("table", models.gather([10, 20, 30]))
    (tmp_path / "chain.yaml").write_text(TOPOLOGY)
    return TopologyDriver(tmp_path / "chain.yaml", models=tmp_path / "models", schemas=tmp_path / "schemas", partitions=3)


def order(number: int, grade: int = 0) -> dict[str, object]:
    return {"id": f"o{number}", "customer": f"c{number % 2}", "grade": grade, "amount": float(number)}


def test_events_sent_to_the_first_source_reach_the_last_sink(driver: TopologyDriver) -> None:
    driver.send("orders", *(order(number, number) for number in range(3)), key=b"k")
    scores = sorted(driver.events("scores"), key=lambda one: one["id"])  # they are re-keyed, so in several partitions
    assert scores == [{"id": f"o{number}", "grade": number, "risk": 2.0 * number} for number in range(3)]
    reviews = {one["id"]: one["review"] for one in driver.events("reviews")}
    assert reviews == {"o0": 10.0, "o1": 20.0, "o2": 30.0}


def test_second_stage_reads_where_the_first_one_wrote(driver: TopologyDriver) -> None:
    """Key, partition and timestamp are those of the record between, which the first stage has re-keyed."""
    driver.send("orders", order(1), order(2), order(3), key=b"k", partition=2, timestamp=1_700_000_000_000)
    between = {record.key: record.partition for record in driver.records("scores")}
    assert set(between) == {b"c0", b"c1"}
    for record in driver.records("reviews"):
        assert record.partition == between[record.key]
        assert record.timestamp == 1_700_000_000_000
        assert (dict(record.headers)["penstock-source"] or b"").startswith(b"scored/")


def test_an_event_keeps_the_id_that_it_entered_the_topology_with(driver: TopologyDriver) -> None:
    """The second source names no id field: the id travels as a header of the record between."""
    driver.send("orders", order(1), order(2, grade=7))
    (record,) = driver.records("reviews")
    assert dict(record.headers)["penstock-id"] == b"o1"
    (letter,) = driver.dead_letters("scored")
    assert dict(letter.headers)["penstock-id"] == b"o2"


def test_id_of_another_topology_is_not_taken_over(driver: TopologyDriver) -> None:
    driver.send("scored", {"id": "x", "grade": 1, "risk": 0.0}, headers=[("penstock-topology", b"other"), ("penstock-id", b"theirs")])
    (record,) = driver.records("reviews")
    assert dict(record.headers)["penstock-id"] == b"scored:0:0"


def test_each_stage_has_its_own_dead_letters(driver: TopologyDriver) -> None:
    """A grade that the table does not have fails in the second stage, with the bytes that the first one wrote."""
    driver.send("orders", b"not an order", order(1), order(2, grade=7))
    assert [record.value for record in driver.dead_letters("orders")] == [b"not an order"]
    (letter,) = driver.dead_letters("scored")
    assert json.loads(letter.value or b"") == {"id": "o2", "grade": 7, "risk": 4.0}
    assert [one["id"] for one in driver.events("reviews")] == ["o1"]


def test_what_is_given_to_the_second_stage_is_no_output_of_the_first(driver: TopologyDriver) -> None:
    """Both are records of one topic. So a case can test the second stage alone, or both."""
    given = Record("", json.dumps({"id": "x", "grade": 1, "risk": 0.0}).encode(), partition=1)
    reviewed = Expected("reviews", "reviews", 1, (), Mark())
    assert run_case(driver, Case("second", (("scored", (given,)),), (reviewed,), Mark())) == ()
    both = (("scored", (given,)), ("orders", (Record("", json.dumps(order(1)).encode()),)))
    found = run_case(driver, Case("both", both, (reviewed,), Mark()))
    assert [(one.where, one.expected, one.got.partition(":")[0]) for one in found] == [
        ("reviews", "1 record", "2"),
        ("scores", "nothing", "1"),
    ]
    assert [one["id"] for one in driver.events("scores")] == ["o1"]
    assert len(driver.records("scores")) == 2
