"""The events are what they say, in both formats, and the comparison of outputs can tell a wrong one."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from benchmarks import workload
from benchmarks.penstock_job import registry, write_schema, write_topology
from benchmarks.workload import Flights, Scorer, check, export_models, flights, key, number
from penstock.codecs import event_reader, load_schema
from penstock.testing import TopologyDriver


@pytest.fixture(scope="module")
def few() -> Flights:
    return flights(50)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_models(tmp_path_factory.mktemp("bench") / "models")


@pytest.mark.parametrize("format", ["json", "avro"])
def test_events_repeat_flights_under_new_ids(few: Flights, format: str, tmp_path: Path) -> None:
    values = list(few.values(120, format, tmp_path))
    read = event_reader(format, load_schema(write_schema(tmp_path)))
    events = [read(value) for value in values]
    assert [event["event_id"].encode() for event in events] == [key(at) for at in range(120)]
    assert [{**few.row(at), "event_id": f"f{at:08d}"} for at in range(120)] == events


def test_key_and_number_are_inverse() -> None:
    assert [number(key(at)) for at in (0, 7, 12_345_678)] == [0, 7, 12_345_678]


@pytest.mark.parametrize("format", ["json", "avro"])
def test_the_topology_scores_as_the_models_do(few: Flights, models: Path, format: str, tmp_path: Path) -> None:
    """The whole job without Kafka: what Penstock says of every event is what the check wants."""
    topology = write_topology(tmp_path, input="flights", output="scores", format=format)
    driver = TopologyDriver(topology, models=registry(models), schemas=tmp_path)
    for at, value in enumerate(few.values(60, format, tmp_path)):
        driver.send("flights", value, key=key(at))
    outputs = [(record.key or b"", record.value or b"") for record in driver.records("scores")]
    assert len(outputs) == 60
    assert check(Scorer(models), few, outputs) == "ok"


def test_a_wrong_output_is_told(few: Flights, models: Path) -> None:
    scorer = Scorer(models)
    (lr,), (gb,) = (column.tolist() for column in scorer.run(scorer.feeds([few.row(0)])))
    right = {"event_id": key(0).decode(), "score": (lr + gb) / 2, "lr": lr, "gb": gb}
    assert check(scorer, few, [(key(0), json.dumps(right).encode())]) == "ok"
    assert check(scorer, few, [(key(0), json.dumps({**right, "score": right["score"] + 0.01}).encode())]) == "off by 0.01"
    assert check(scorer, few, [(key(1), msgspec.json.encode(right))]) == "key f00000001 has the output of f00000000"


def test_models_are_the_registered_ones(models: Path) -> None:
    for name, registered in workload.MODELS.items():
        assert (models / f"{name}.onnx").read_bytes() == (workload.ROOT / "models" / registered / "1" / "model.onnx").read_bytes()
