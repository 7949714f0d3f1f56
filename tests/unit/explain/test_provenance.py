"""Headers read back are what the pipeline wrote; anything else is not ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.errors import Untraceable
from penstock.explain.provenance import DeadLetter, Origin, provenance
from penstock.record import Position, Record
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models as tiny
from penstock.testing.driver import TopologyDriver
from penstock.topology.spec import ModelRef

TOPOLOGY = """\
topology: t
sources: {s: {topic: in, schema: event.avsc}}
nodes:
  scaled: {kind: feature, model: scale@1, inputs: {x: amount}}
  score: {kind: model, model: score@1, inputs: {x: scaled}}
sinks: {p: {topic: out, fields: {score: score}}}
"""
SCHEMA = '{"type": "record", "name": "Event", "fields": [{"name": "amount", "type": "float"}]}'


@pytest.fixture
def driver(tmp_path: Path) -> TopologyDriver:
    (tmp_path / "t.yaml").write_text(TOPOLOGY)
    (tmp_path / "event.avsc").write_text(SCHEMA)
    registry = DirectoryRegistry(tmp_path / "models")
    registry.publish("scale", tiny.identity())
    registry.publish("score", tiny.identity())
    return TopologyDriver(tmp_path / "t.yaml", models=tmp_path / "models", schemas=tmp_path)


def prediction(driver: TopologyDriver) -> Record:
    driver.send("s", b"{}", {"amount": 1.0}, headers=[("trace", b"1")])
    return driver.records("p")[0]


def test_prediction_says_where_it_came_from(driver: TopologyDriver) -> None:
    models = {"scaled": ModelRef("scale", "1"), "score": ModelRef("score", "1")}
    assert provenance(prediction(driver)) == Origin("t", 0, models, Position("in", 0, 1))


def test_prediction_says_which_members_its_joins_did_without(driver: TopologyDriver) -> None:
    """One after the other; none of a prediction that was not joined."""
    made = prediction(driver)
    assert isinstance(said := provenance(made), Origin)
    assert said.missing == ()
    decided = b"used=a,b;missing=c;deadline=10;late= used=d;missing=e,f;deadline=20;late=d"
    assert isinstance(said := provenance(made._replace(headers=(*made.headers, ("penstock-join", decided)))), Origin)
    assert said.missing == ("c", "e", "f")


def test_dead_letter_gives_back_the_record_as_it_came(driver: TopologyDriver) -> None:
    came = Record("in", b"{}", b"key", (("trace", b"1"), ("penstock-topology", b"upstream")), 1_600_000_000_000)
    driver.send_records("s", [came])
    said = provenance(driver.dead_letters("s")[0])
    origin = Origin("t", 0, {"scaled": ModelRef("scale", "1"), "score": ModelRef("score", "1")}, Position("in", 0, 0))
    assert said == DeadLetter(came, "decode", "Object missing required field `amount`", origin)


def test_dead_letter_of_a_dead_letter_is_read_by_its_last_words(driver: TopologyDriver) -> None:
    """Somebody sends a dead letter to the source again, headers and all, and it fails again."""
    driver.send("s", b"{}")
    driver.send_records("s", driver.dead_letters("s"))
    first, second = driver.dead_letters("s")
    said = provenance(second)
    assert isinstance(said, DeadLetter)
    assert said.input.position == Position("in", 0, 1)
    assert tuple(said.input.headers) == tuple(first.headers)


def test_prediction_of_a_dead_letter_that_was_sent_again_is_a_prediction(driver: TopologyDriver) -> None:
    driver.send("s", b"{}")
    (letter,) = driver.dead_letters("s")
    driver.send_records("s", [letter._replace(value=b'{"amount": 1.0}')])
    said = provenance(driver.records("p")[0])
    assert isinstance(said, Origin)
    assert said.source == Position("in", 0, 1)


@pytest.mark.parametrize("name", ["topology", "models", "source"])
def test_record_without_our_headers_is_nobody_s_of_ours(driver: TopologyDriver, name: str) -> None:
    record = prediction(driver)
    record = record._replace(headers=[header for header in record.headers if header[0] != f"penstock-{name}"])
    with pytest.raises(Untraceable, match=f"^out:0:0: no worker of Penstock wrote this record: it has no header penstock-{name}"):
        provenance(record)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("topology", b"../secret"),
        ("topology", b""),
        ("topology", None),
        ("generation", b"-1"),
        ("generation", b"1" * 100),
        ("models", b"score=score"),
        ("models", b"score=score@latest"),  # an alias: an exact version is written
        ("models", b"score=../score@1"),
        ("source", b"in/0"),
        ("source", b"in/0/x"),
        ("source", b"\xff"),
    ],
)
def test_headers_that_we_do_not_write_are_not_believed(driver: TopologyDriver, name: str, value: bytes | None) -> None:
    record = prediction(driver)
    headers = [(key, value if key == f"penstock-{name}" else old) for key, old in record.headers]
    with pytest.raises(Untraceable, match="its headers are not as a worker of Penstock writes them"):
        provenance(record._replace(headers=headers))


def test_record_of_a_time_before_releases_is_of_generation_0(driver: TopologyDriver) -> None:
    record = prediction(driver)
    said = provenance(record._replace(headers=[header for header in record.headers if header[0] != "penstock-generation"]))
    assert isinstance(said, Origin)
    assert said.generation == 0
