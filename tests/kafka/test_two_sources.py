"""A topology of another shape than flights: two sources in two formats, arrays, a stacked tensor, two sinks, one of them re-keyed."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiokafka.partitioner import murmur2
from onnx import helper

from penstock.codecs import event_writer, load_schema
from penstock.record import Record
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import Broker, create_topics, produce, read_all, unique, wait_for
from penstock.testing.models import linear, model, tensor

SPECTRUM = 8

PUMP = {
    "type": "record",
    "name": "Pump",
    "fields": [
        {"name": "machine", "type": "string"},
        {"name": "spectrum", "type": {"type": "array", "items": "float", "size": SPECTRUM}},
        {"name": "temperature", "type": ["null", "double"], "default": None},
        {"name": "litres", "type": "double"},
    ],
}
FAN = {**PUMP, "name": "Fan", "fields": PUMP["fields"][:3]}

TOPOLOGY = """\
topology: machines
sources:
  pumps: {{topic: {pumps}, format: json, schema: pump.avsc, id: machine}}
  fans: {{topic: {fans}, format: avro, schema: fan.avsc, id: machine}}
nodes:
  energy: {{kind: feature, model: energy@1, inputs: {{x: spectrum}}}}
  anomaly:
    kind: model
    model: anomaly@1
    inputs:
      x: {{stack: [energy, temperature], missing: 20}}
sinks:
  scores: {{topic: {scores}, fields: [machine, energy, anomaly]}}
  alarms: {{topic: {alarms}, key: machine, fields: {{machine: machine, litres: litres, anomaly: anomaly}}}}
"""


def energy() -> bytes:
    """The sum of squares of a spectrum: [N, 8] to [N, 1]."""
    node = helper.make_node("ReduceSumSquare", ["x", "axes"], ["y"], keepdims=1)
    return model([node], [tensor("x", shape=(SPECTRUM,))], [tensor("y")], {"axes": np.array([1])})


def event(number: int) -> dict[str, Any]:
    spectrum = [float(number % 7 + band) for band in range(SPECTRUM)]
    return {"machine": f"m{number}", "spectrum": spectrum, "temperature": None if number % 3 == 0 else 20.0 + number, "litres": number / 4}


def expected(one: dict[str, Any]) -> tuple[float, float]:
    power = sum(band * band for band in one["spectrum"])
    return power, 0.5 * power + 2.0 * (20.0 if one["temperature"] is None else one["temperature"]) + 1.0


@pytest.mark.broker
def test_two_sources_with_arrays_reach_two_sinks(broker: Broker, tmp_path: Path) -> None:
    topics = {name: unique(name) for name in ("pumps", "fans", "scores", "alarms")}
    (tmp_path / "schemas").mkdir()
    for name, schema in (("pump", PUMP), ("fan", FAN)):
        (tmp_path / "schemas" / f"{name}.avsc").write_text(json.dumps(schema))
    registry = DirectoryRegistry(tmp_path / "models")
    registry.publish("energy", energy(), version="1")
    registry.publish("anomaly", linear([0.5, 2.0], 1.0), version="1")
    file = tmp_path / "machines.yaml"
    file.write_text(TOPOLOGY.format(**topics))
    create_topics(broker, {topics["pumps"]: 3, topics["fans"]: 2})
    environment = {**os.environ, "PENSTOCK_BROKERS": broker.bootstrap, "PENSTOCK_APPLICATION": unique("app")}
    made = subprocess.run(
        [sys.executable, "-m", "penstock", "topics", "create", str(file)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr

    pumps, fans = [event(number) for number in range(60)], [event(number) for number in range(100, 140)]
    write = event_writer("avro", load_schema(tmp_path / "schemas" / "fan.avsc"))
    short = json.dumps({**event(999), "spectrum": [1.0, 2.0]}).encode()
    produce(broker, [Record(topics["pumps"], json.dumps(one).encode(), b"key", partition=at % 3) for at, one in enumerate(pumps)])
    produce(broker, [Record(topics["fans"], write(one), b"key", partition=at % 2) for at, one in enumerate(fans)])
    produce(broker, [Record(topics["pumps"], short, b"short"), Record(topics["fans"], b"\x02", b"short")])

    log = tmp_path / "log"
    with log.open("wb") as out:
        worker = subprocess.Popen(
            [sys.executable, "-m", "penstock", "run", str(file)], cwd=tmp_path, env=environment, stdout=out, stderr=out
        )
    try:
        wait_for(lambda: len(read_all(broker, topics["scores"])) >= 100, lambda: f"all scores\n{log.read_text()}", 40)
        worker.terminate()
        assert worker.wait(30) == 0, log.read_text()
    finally:
        worker.kill()
        worker.wait()

    scores = [json.loads(record.value or b"") for record in read_all(broker, topics["scores"])]
    assert Counter(score["machine"] for score in scores) == Counter(one["machine"] for one in pumps + fans)
    by_machine = {one["machine"]: expected(one) for one in pumps + fans}
    for score in scores:
        power, anomaly = by_machine[score["machine"]]
        assert math.isclose(score["energy"], power, rel_tol=1e-5)
        assert math.isclose(score["anomaly"], anomaly, rel_tol=1e-5)

    alarms = read_all(broker, topics["alarms"])
    # Only pumps have litres: a fan's event does not reach the sink that needs them.
    assert Counter(json.loads(alarm.value or b"")["machine"] for alarm in alarms) == Counter(one["machine"] for one in pumps)
    for alarm in alarms:
        assert alarm.key == json.loads(alarm.value or b"")["machine"].encode()
        assert alarm.partition == (murmur2(alarm.key) & 0x7FFFFFFF) % 3, "where a Java producer would have put the key"

    for source, stage in (("pumps", b"spectrum"), ("fans", b"")):
        (letter,) = read_all(broker, f"{topics[source]}.dead-letter")
        assert letter.key == b"short"
        assert stage in (dict(letter.headers)["__streams.errors.message"] or b"")
