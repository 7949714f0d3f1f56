"""Arrays of other axes than the tensor, and of different lengths: reshaped, filled up with a mask, or run length by length."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from penstock.errors import TopologyError
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models
from penstock.testing.driver import TopologyDriver

FIELDS = [
    {"name": "x", "type": {"type": "array", "items": "float"}},
    {"name": "image", "type": {"type": "array", "size": 2, "items": {"type": "array", "size": 3, "items": "float"}}},
    {"name": "words", "type": {"type": "array", "items": "string"}},
    {"name": "maybe", "type": ["null", {"type": "array", "items": "float"}], "default": None},
]
TOPOLOGY = """\
topology: arrays
sources:
  events: {{topic: events, schema: event.avsc, format: {format}}}
nodes:
  n: {{kind: model, model: "{model}@1", inputs: {inputs}}}
sinks:
  scores: {{topic: scores, fields: {{y: n}}}}
"""

Make = Callable[..., TopologyDriver]


def reduced(*inputs: Any, nodes: Any, shape: tuple[int, ...] = (1,)) -> bytes:
    return models.model(nodes, inputs, [models.tensor("y", shape=shape)], {"axes": np.array([1], np.int64)})


MODELS = {
    # the sum of a row's items
    "total": reduced(models.tensor("x", shape=(None,)), nodes=[helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=1)]),
    # the mean of the items that the mask says are there
    "average": reduced(
        models.tensor("x", shape=(None,)),
        models.tensor("m", shape=(None,)),
        nodes=[
            helper.make_node("Mul", ["x", "m"], ["there"]),
            helper.make_node("ReduceSum", ["there", "axes"], ["sum"], keepdims=1),
            helper.make_node("ReduceSum", ["m", "axes"], ["count"], keepdims=1),
            helper.make_node("Div", ["sum", "count"], ["y"]),
        ],
    ),
    "first4": reduced(models.tensor("x", shape=(4,)), nodes=[helper.make_node("ReduceMax", ["x", "axes"], ["y"], keepdims=1)]),
    "six": models.linear([1, 10, 100, 1000, 10000, 100000]),
    "same": models.identity(shape=(None,)),
}


@pytest.fixture
def make(tmp_path: Path) -> Make:
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas/event.avsc").write_text(json.dumps({"type": "record", "name": "Event", "fields": FIELDS}))
    registry = DirectoryRegistry(tmp_path / "models")
    for name, data in MODELS.items():
        registry.publish(name, data)

    def driver(model: str, inputs: str, format: str = "json") -> TopologyDriver:
        (tmp_path / "t.yaml").write_text(TOPOLOGY.format(model=model, inputs=inputs, format=format))
        return TopologyDriver(tmp_path / "t.yaml", models=tmp_path / "models", schemas=tmp_path / "schemas")

    return driver


def event(*x: float) -> dict[str, Any]:
    return {"x": list(x), "image": [[1, 2, 3], [4, 5, 6]], "words": [], "maybe": None}


def scores(driver: TopologyDriver) -> list[float]:
    return [one["y"] for one in driver.events("scores")]


@pytest.mark.parametrize("format", ["json", "avro"])
@pytest.mark.parametrize("inputs", ["{x: x}", "{x: {field: x, pad: 0}}"])
def test_arrays_of_different_lengths_feed_an_open_axis(make: Make, inputs: str, format: str) -> None:
    """Case 19. By itself, rows of one length run together, and no row depends on its neighbours."""
    driver = make("total", inputs, format)
    driver.send("events", event(1, 2), event(3, 4, 5), event(7), event(), event(2, 1))
    assert scores(driver) == [3, 12, 7, 0, 3]
    assert driver.dead_letters("events") == []


@pytest.mark.parametrize("format", ["json", "avro"])
def test_null_is_padded_as_an_array_of_no_items(make: Make, format: str) -> None:
    driver = make("total", "{x: {field: maybe, pad: 0}}", format)
    driver.send("events", {**event(), "maybe": [1, 2]}, event())
    assert scores(driver) == [3, 0]
    driver = make("total", "{x: {field: maybe, pad: 0, missing: reject}}", format)
    driver.send("events", {**event(), "maybe": [1, 2]}, event())
    assert scores(driver) == [3]
    assert len(driver.dead_letters("events")) == 1


def test_one_long_array_takes_no_room_for_its_neighbours(make: Make) -> None:
    driver = make("total", "{x: {field: x, pad: 0}}")
    driver.send("events", *[event(1, 2)] * 100, event(*[1] * 100_000), *[event(3)] * 100)
    assert scores(driver) == [3] * 100 + [100_000] + [3] * 100


def test_mask_tells_items_from_padding(make: Make) -> None:
    driver = make("average", "{x: {field: x, pad: 100}, m: {mask: x}}")
    driver.send("events", event(1, 2), event(3, 4, 5), event(8))
    assert scores(driver) == [1.5, 4, 8]


@pytest.mark.parametrize("format", ["json", "avro"])
def test_pad_fills_up_to_a_fixed_axis_and_an_array_that_is_longer_fails(make: Make, format: str) -> None:
    driver = make("first4", "{x: {field: x, pad: -1}}", format)
    driver.send("events", event(1, 2), event(1, 2, 3, 4, 5), event(), event(1, 2, 3, 9))
    assert scores(driver) == [2, -1, 9]
    (letter,) = driver.dead_letters("events")
    said = dict(letter.headers)["__streams.errors.message"] or b""
    assert said.endswith(b"cannot score the event: x has 5 items, more than the 4 of the tensor 'x'")


RULE = """\
topology: rules
sources:
  events: {topic: events, schema: event.avsc}
nodes:
  n: {kind: rule, outputs: {y: mean(x)}}
sinks:
  scores: {topic: scores, fields: {y: n}}
"""


def test_rule_over_arrays_of_different_lengths(make: Make, tmp_path: Path) -> None:
    """The mean of nothing is no value: that event is a dead letter, and its neighbours are scored."""
    make("six", "{x: {reshape: image}}")
    (tmp_path / "rule.yaml").write_text(RULE)
    driver = TopologyDriver(tmp_path / "rule.yaml", models=tmp_path / "models", schemas=tmp_path / "schemas")
    driver.send("events", event(1, 2), event(), event(3, 4, 5), event(7, 8))
    assert scores(driver) == [1.5, 4, 7.5]
    assert len(driver.dead_letters("events")) == 1
    (tmp_path / "rule.yaml").write_text(RULE.replace("mean(x)", '"x[1] + 1"'))
    with pytest.raises(TopologyError, match="may be null"):
        TopologyDriver(tmp_path / "rule.yaml", models=tmp_path / "models", schemas=tmp_path / "schemas")
    (tmp_path / "rule.yaml").write_text(RULE.replace("mean(x)", '"coalesce(x[1], 0) + 1"'))
    driver = TopologyDriver(tmp_path / "rule.yaml", models=tmp_path / "models", schemas=tmp_path / "schemas")
    driver.send("events", event(1, 2), event())
    assert scores(driver) == [3, 1]
    (tmp_path / "rule.yaml").write_text(RULE.replace("outputs:", "inputs: {v: {reshape: image}}, outputs:").replace("mean(x)", "mean(v)"))
    with pytest.raises(TopologyError, match="reshape is for tensors of models"):
        TopologyDriver(tmp_path / "rule.yaml", models=tmp_path / "models", schemas=tmp_path / "schemas")


@pytest.mark.parametrize("format", ["json", "avro"])
def test_reshape_keeps_the_order_of_the_values(make: Make, format: str) -> None:
    driver = make("six", "{x: {reshape: image}}", format)
    driver.send("events", event())
    assert scores(driver) == [654321]


def test_coerce_is_a_key_of_a_json_source(make: Make) -> None:
    driver = make("total", "{x: x}", "json, coerce: [decimals]")
    driver.send("events", {**event(), "x": ["1.5", 2]})
    assert scores(driver) == [3.5]
    with pytest.raises(TopologyError, match=r"sources.events.coerce: avro writes every value by its type \(remove it; it is for json\)"):
        make("total", "{x: x}", "avro, coerce: [decimals]")
    with pytest.raises(TopologyError, match="did you mean 'dates'"):
        make("total", "{x: x}", "json, coerce: [date]")


@pytest.mark.parametrize(
    ("model", "inputs", "says"),
    [
        ("six", "{x: image}", "it gets image as float32[N, 2, 3] (as many values, in the same order: x: {reshape: NAME})"),
        ("first4", "{x: {reshape: image}}", "the tensor is `x: float32[N, 4]`, it gets image as float32[N, 2, 3]"),
        ("total", "{x: words}", "the field 'words' is an array of ? string"),
        ("total", "{x: {field: words, pad: 0}}", "the field 'words' is an array of ? string"),
        ("total", "{x: {field: x, pad: a}}", "pad: 'a' is not of type float32"),
        ("total", "{x: {field: maybe, missing: 0}}", "an array of no fixed size cannot be filled (add missing: reject)"),
        ("total", "{x: {field: maybe, pad: 0, missing: 0}}", "null is padded as an array of no items (leave missing out"),
        ("first4", "{x: {field: image, pad: 0}}", "the tensor is `x: float32[N, 4]`, it gets float32[N, ?, 3]"),
        ("average", "{x: {field: x, pad: 0}, m: {mask: 'x[0]'}}", "'x[0]' is not an array of the event"),
        ("same", "{x: {field: x, pad: 0}}", "with pad, the output `y: float32[N, ?]` is as long as the longest array of the chunk"),
    ],
)
def test_what_does_not_fit_is_said_with_a_fix(make: Make, model: str, inputs: str, says: str) -> None:
    with pytest.raises(TopologyError) as caught:
        make(model, inputs)
    assert says in str(caught.value)
