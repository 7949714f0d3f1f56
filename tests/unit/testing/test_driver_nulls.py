"""Optional fields that go to a sink as they are: null in, null out, through the real plan and pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models
from penstock.testing.driver import TopologyDriver

OPTIONAL = {"note": "string", "colour": {"type": "enum", "name": "Colour", "symbols": ["RED", "BLUE"]}, "count": "long", "weight": "double"}
EVENTS: list[dict[str, Any]] = [
    {"x": 1, "note": None, "colour": None, "count": None, "weight": None},
    {"x": 2, "note": "kept", "colour": "BLUE", "count": 7, "weight": 0.25},
    {"x": 3, "note": "", "colour": None, "count": 0, "weight": None},
]


@pytest.mark.parametrize("sink", ["json", "avro"])
@pytest.mark.parametrize("source", ["json", "avro"])
def test_null_of_a_copied_field_reaches_the_sink(tmp_path: Path, source: str, sink: str) -> None:
    fields = [{"name": name, "type": ["null", type], "default": None} for name, type in OPTIONAL.items()]
    for name, first in {"in": {"name": "x", "type": "float"}, "out": {"name": "y", "type": "float"}}.items():
        (tmp_path / f"{name}.avsc").write_text(json.dumps({"type": "record", "name": name, "fields": [first, *fields]}))
    DirectoryRegistry(tmp_path / "models").publish("double", models.linear([2]))
    copied = ", ".join(f"{name}: {name}" for name in OPTIONAL)
    file = tmp_path / "copy.yaml"
    file.write_text(f"""
topology: copy
sources: {{events: {{topic: in, schema: in.avsc, format: {source}}}}}
nodes: {{double: {{kind: model, model: double@1, inputs: {{x: x}}}}}}
sinks: {{scores: {{topic: out, schema: out.avsc, format: {sink}, fields: {{y: double, {copied}}}}}}}
""")
    driver = TopologyDriver(file, models=tmp_path / "models", schemas=tmp_path)
    driver.send("events", *EVENTS * 10)
    assert driver.dead_letters("events") == []
    expected = [{"y": 2 * event["x"], **{name: event[name] for name in OPTIONAL}} for event in EVENTS]
    assert driver.events("scores") == expected * 10
