"""The model and the topology with which Penstock does what `app.py` does: an event's fate is what happens in the model."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from onnx import GraphProto, TensorProto, helper

from penstock.model.golden import GoldenRecord
from penstock.registry.directory import DirectoryRegistry
from penstock.testing.models import model, tensor

__all__ = ["TURNS", "register", "write_topology"]

# How many turns of a loop an event of the fate `slow` costs, by model version; a turn is about a microsecond.
TURNS: Final = {"1": 0, "2": 4_000_000, "3": 2**62}

_SCHEMA = """{"type": "record", "name": "Event", "fields": [
  {"name": "id", "type": "long"}, {"name": "fate", "type": "string"}, {"name": "text", "type": "string"}]}
"""

_TOPOLOGY = """topology: probe
sources:
  events: {{topic: {source}, schema: event.avsc, id: id, dead_letter: {dead}}}
nodes:
  probe: {{kind: model, model: probe@{version}}}
sinks:
  answers: {{topic: {sink}, fields: {{id: id, text: text, score: probe}}{key}}}
"""


def register(models: Path) -> None:
    """Publishes `probe` in all its versions."""
    registry = DirectoryRegistry(models)
    for version, turns in TURNS.items():
        registry.publish("probe", _probe(turns), version=version, golden=[GoldenRecord({"fate": ["ok"]}, {"y": [0.0]})])


def write_topology(folder: Path, *, source: str, sink: str, dead: str, version: str, key: str | None = None) -> Path:
    """The topology with its schema in `folder`; `key` names a field that answers are re-keyed by."""
    (folder / "schemas").mkdir(exist_ok=True)
    (folder / "schemas" / "event.avsc").write_text(_SCHEMA)
    path = folder / f"probe-{version}.yaml"
    path.write_text(_TOPOLOGY.format(source=source, sink=sink, dead=dead, version=version, key=f", key: {key}" if key else ""))
    return path


def _probe(turns: int) -> bytes:
    """Scores 0; loops for the slowest row of the batch; raises for a batch with a poisonous row, as a bad index does."""
    nodes = [
        helper.make_node(
            "LabelEncoder", ["fate"], ["code"], domain="ai.onnx.ml", keys_strings=["slow", "poison"], values_int64s=[1, 2], default_int64=0
        ),
        helper.make_node("Equal", ["code", "one"], ["is_slow"]),
        helper.make_node("Cast", ["is_slow"], ["slow"], to=TensorProto.INT64),
        helper.make_node("ReduceMax", ["slow"], ["any_slow"], keepdims=0),
        helper.make_node("Mul", ["any_slow", "turns"], ["count"]),
        helper.make_node("Equal", ["code", "two"], ["is_poison"]),
        helper.make_node("Cast", ["is_poison"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["scores", "index"], ["score"]),
        helper.make_node("Loop", ["count", "go_on", "score"], ["y"], body=_turn()),
    ]
    values = {
        "one": np.int64(1), "two": np.int64(2), "turns": np.int64(turns), "go_on": np.bool_(True), "scores": np.zeros(1, np.float32),
    }  # fmt: skip
    return model(nodes, [tensor("fate", "string")], [tensor("y")], values)


def _turn() -> GraphProto:
    return helper.make_graph(
        [helper.make_node("Identity", ["go"], ["still"]), helper.make_node("Neg", ["value"], ["next"])],
        "turn",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            tensor("value"),
        ],
        [helper.make_tensor_value_info("still", TensorProto.BOOL, []), tensor("next")],
    )
