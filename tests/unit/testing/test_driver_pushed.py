"""Models as converters write them, pushed from the command line, score the events of a topology."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from penstock.cli.main import main
from penstock.testing import models
from penstock.testing.driver import TopologyDriver

CASES: Final = Path(__file__).parents[2] / "cases"
TOPOLOGY: Final = """\
topology: pushed
sources: {events: {topic: in, schema: in.avsc}}
nodes:
  review: {kind: model, model: review@1, inputs: {text: text}}
  alone: {kind: model, model: alone@1, inputs: {X: x}}
  spaced: {kind: model, model: spaced@1, inputs: {"Petal Length (cm)": x}}
  half: {kind: model, model: half@1, inputs: {x: x}}
  both: {kind: model, model: both@1, inputs: {X: [x, x, x, x]}}
sinks:
  out:
    topic: out
    fields: {late: review.label, side: alone.label, p: "alone.probabilities[1]", spaced: spaced, half: half, second: "both.label[1]"}
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> TopologyDriver:
    folder = tmp_path_factory.mktemp("pushed")
    fields = [{"name": "text", "type": "string"}, {"name": "x", "type": "float"}]
    (folder / "in.avsc").write_text(json.dumps({"type": "record", "name": "In", "fields": fields}))
    (folder / "pushed.yaml").write_text(TOPOLOGY)
    (folder / "half.onnx").write_bytes(models.identity("float16"))
    for name, file, *arguments in (
        ("review", CASES / "text-tokenizer.onnx"),
        ("alone", CASES / "fixed-batch-1.onnx", "--rows", "1"),
        ("spaced", CASES / "name-with-spaces.onnx"),
        ("half", folder / "half.onnx"),
        ("both", CASES / "extra-output-sequence.onnx"),
    ):
        assert main(["model", "push", str(file), "--name", name, "--models", str(folder / "models"), *map(str, arguments)]) == 0
    return TopologyDriver(folder / "pushed.yaml", models=folder / "models", schemas=folder, chunk_rows=4)


def test_each_model_answers_for_each_event(driver: TopologyDriver) -> None:
    """Seven events in chunks of four: the last piece of a chunk is not full either."""
    xs = [-3.0, -1.0, -0.25, 0.1, 0.5, 2.0, 4.0]
    texts = ["Late AGAIN", "a quiet day", "storm", "on time", "late", "good", "quiet"]
    driver.send("events", *({"text": text, "x": x} for text, x in zip(texts, xs, strict=True)))
    events = driver.events("out")
    assert driver.dead_letters("events") == []
    assert [event["late"] for event in events] == [events[0]["late"], 1 - events[0]["late"]] * 3 + [1 - events[0]["late"]]
    assert [event["side"] for event in events] == [int(x > 0) for x in xs]
    assert np.allclose([event["p"] for event in events], 1 / (1 + np.exp(-2 * np.array(xs))), atol=1e-6)
    assert np.allclose([event["spaced"] for event in events], xs)
    # 0.1 has fewer digits in float16, so the model did get it in its own type.
    assert np.array([event["half"] for event in events], np.float32).tolist() == np.array(xs, np.float16).tolist()
    assert all(event["second"] in (0, 1) for event in events)
