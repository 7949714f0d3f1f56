"""An ensemble whose weights, threshold and label are parameters: what the file says is what every event gets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models
from penstock.testing.driver import TopologyDriver

TOPOLOGY = """\
topology: votes
sources: {events: {topic: in, schema: in.avsc}}
nodes:
  first: {kind: model, model: double@1, inputs: {x: x}}
  second: {kind: model, model: half@1, inputs: {x: x}}
  vote:
    kind: ensemble
    model: vote@1
    inputs: {scores: [first, second]}
    parameters: {weights: [0.25, 0.75], threshold: 3, label: off}
sinks: {votes: {topic: out, fields: {score: vote.score, over: vote.over, label: vote.name}}}
"""


def vote() -> bytes:
    """The weighted sum of two scores, whether it is above a threshold, and a text as it came."""
    nodes = [
        helper.make_node("Mul", ["scores", "weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "axis"], ["score"], keepdims=1),
        helper.make_node("Greater", ["score", "threshold"], ["over"]),
        helper.make_node("Identity", ["label"], ["name"]),
    ]
    inputs = [models.tensor(name, shape=(2,)) for name in ("scores", "weights")]
    inputs += [models.tensor("threshold"), models.tensor("label", "string", ())]
    outputs = [models.tensor("score"), models.tensor("over", "bool"), models.tensor("name", "string", ())]
    return models.model(nodes, inputs, outputs, {"axis": np.array([1])})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("votes")
    (folder / "in.avsc").write_text(json.dumps({"type": "record", "name": "In", "fields": [{"name": "x", "type": "float"}]}))
    registry = DirectoryRegistry(folder / "models")
    for name, model in {"double": models.linear([2]), "half": models.linear([0.5]), "vote": vote()}.items():
        registry.publish(name, model)
    return folder


def driver(folder: Path, text: str = TOPOLOGY) -> TopologyDriver:
    file = folder / "votes.yaml"
    file.write_text(text)
    return TopologyDriver(file, models=folder / "models", schemas=folder, chunk_rows=4)


def test_every_event_is_weighed_alike(folder: Path) -> None:
    """Ten events in chunks of four, and one that is refused among them."""
    votes = driver(folder)
    votes.send("events", *({"x": x} for x in range(5)), b"{", *({"x": x} for x in range(5, 10)))
    assert votes.events("votes") == [{"score": 0.875 * x, "over": 0.875 * x > 3, "label": "off"} for x in range(10)]
    assert len(votes.dead_letters("events")) == 1


def test_other_parameters_give_other_answers_by_the_same_models(folder: Path) -> None:
    votes = driver(
        folder, TOPOLOGY.replace("{weights: [0.25, 0.75], threshold: 3, label: off}", "{weights: [1, 0], threshold: -1, label: on}")
    )
    votes.send("events", {"x": 1}, {"x": 2})
    assert votes.events("votes") == [{"score": 2, "over": True, "label": "on"}, {"score": 4, "over": True, "label": "on"}]
