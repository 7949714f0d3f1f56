"""Topologies over raw bytes: images of one size, values of different lengths, single bytes, and what is a dead letter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

import penstock
from penstock.errors import TopologyError
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models
from penstock.testing.case_file import read_cases
from penstock.testing.cases import run_case
from penstock.testing.driver import TopologyDriver, explain

TOPOLOGY = """\
topology: raw
sources: {{images: {{topic: images, format: bytes{source}}}}}
nodes: {{n: {{kind: model, model: "{model}@1", inputs: {inputs}}}}}
sinks: {{answers: {{topic: answers, fields: {{y: n{fields}}}}}}}
"""
Make = Callable[..., TopologyDriver]


def brightness(shape: tuple[int | None, ...], dtype: str = "uint8") -> bytes:
    """The mean of all bytes."""
    axes = np.arange(1, 1 + len(shape), dtype=np.int64)
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=1), helper.make_node("ReduceMean", ["f", "axes"], ["y"], keepdims=0)]
    return models.model(nodes, [models.tensor("x", dtype, shape)], [models.tensor("y", shape=())], {"axes": axes})


def masked() -> bytes:
    """The sum of the bytes that are there."""
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=1),
        helper.make_node("Mul", ["f", "m"], ["there"]),
        helper.make_node("ReduceSum", ["there", "axes"], ["y"], keepdims=0),
    ]
    inputs = [models.tensor("x", "uint8", (None,)), models.tensor("m", shape=(None,))]
    return models.model(nodes, inputs, [models.tensor("y", shape=())], {"axes": np.array([1], np.int64)})


@pytest.fixture
def make(tmp_path: Path) -> Make:
    registry = DirectoryRegistry(tmp_path / "models")
    for name, data in {
        "image": brightness((2, 3)),
        "flat": brightness((6,)),
        "floats": brightness((6,), "float32"),
        "any": brightness((None,)),
        "masked": masked(),
        "table": models.gather([10, 20, 30]),
    }.items():
        registry.publish(name, data)

    def made(model: str = "image", inputs: str = "{x: {reshape: value}}", source: str = "", fields: str = "") -> TopologyDriver:
        (tmp_path / "raw.yaml").write_text(TOPOLOGY.format(model=model, inputs=inputs, source=source, fields=fields))
        return TopologyDriver(tmp_path / "raw.yaml", models=tmp_path / "models", schemas=tmp_path)

    return made


def answers(driver: TopologyDriver) -> list[float]:
    assert not driver.dead_letters("images"), explain(driver.dead_letters("images"))
    return [one["y"] for one in driver.events("answers")]


@pytest.mark.parametrize(("model", "inputs"), [("image", "{x: {reshape: value}}"), ("flat", "{x: value}"), ("floats", "{x: value}")])
def test_image_of_one_size(make: Make, model: str, inputs: str) -> None:
    driver = make(model, inputs)
    driver.send("images", bytes([0, 1, 2, 3, 4, 255]), b"\xff" * 6)
    assert answers(driver) == pytest.approx([265 / 6, 255])


def test_values_of_different_lengths(make: Make) -> None:
    driver = make("any", "{x: value}")
    driver.send("images", b"\1", b"\1\3", b"\2" * 9)
    assert answers(driver) == [1, 2, 2]


def test_values_of_different_lengths_are_padded_with_a_mask(make: Make) -> None:
    driver = make("masked", "{x: {field: value, pad: 9}, m: {mask: value}}")
    driver.send("images", b"\1", b"\1\3", b"", b"\2" * 9)
    assert answers(driver) == [1, 4, 0, 18]


def test_single_bytes_and_what_is_beside_the_value(make: Make) -> None:
    driver = make("table", '{x: {field: "value[1]", missing: 0}}', ", id: key", ", tenant: header.tenant")
    driver.send("images", b"\1\2", b"\1", key=b"k", headers=[("tenant", b"a")])
    assert driver.events("answers") == [{"y": 30.0, "tenant": "a"}, {"y": 10.0, "tenant": "a"}]
    assert dict(driver.records("answers")[0].headers)["penstock-id"] == b"k"


def test_what_no_model_takes_is_a_dead_letter(make: Make) -> None:
    driver = make(source=", max_bytes: 10")
    driver.send("images", b"\1" * 6, b"\1" * 5, None, b"\1" * 11, b"")
    assert [one["y"] for one in driver.events("answers")] == [1]
    assert [dict(one.headers)["__streams.errors.message"] for one in driver.dead_letters("images")] == [
        b"5 bytes, and the model takes 6",
        b"the value is null (a tombstone), not an event",
        b"11 bytes, more than the 10 allowed (max_bytes of the source)",
        b"0 bytes, and the model takes 6",
    ]


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"source": ", schema: x.avsc"}, "bytes have no schema"),
        ({"source": ", key_schema: x.avsc"}, "keys beside bytes are text"),
        ({"inputs": "{x: value}"}, r"the array field 'value' has no fixed size|value as uint8\[N, \?\]"),
        ({"inputs": "{x: pixels}"}, "'pixels' is neither a field nor a node"),
        ({"fields": ", copy: value"}, "the array field 'value' has no fixed size"),
        ({"source": ", coerce: [dates]"}, "bytes writes every value by its type"),
    ],
)
def test_what_does_not_fit_is_refused_at_start(make: Make, tmp_path: Path, parts: dict[str, str], reason: str) -> None:
    (tmp_path / "x.avsc").write_text('{"type": "record", "name": "X", "fields": [{"name": "a", "type": "int"}]}')
    with pytest.raises(TopologyError, match=reason):
        make(**parts)


def test_all_other_formats_need_a_schema(make: Make, tmp_path: Path) -> None:
    make()
    file = tmp_path / "raw.yaml"
    file.write_text(file.read_text().replace("format: bytes", "format: avro"))
    with pytest.raises(TopologyError, match=r"sources.images: the key 'schema' is missing: .*add schema: FILE.avsc"):
        TopologyDriver(file, models=tmp_path / "models", schemas=tmp_path)


def test_a_program_gives_bytes_and_a_test_lists_them(make: Make, tmp_path: Path) -> None:
    make()
    with penstock.open(tmp_path / "raw.yaml", models=tmp_path / "models", schemas=tmp_path) as plan:
        assert plan.score({"value": b"\2" * 6}) == plan.score({"value": [2] * 6}) == {"y": 2.0}
        (failed,) = plan.score([b"\2" * 6])  # type: ignore[list-item]
        assert str(failed.error) == 'an event is a mapping of its fields: {"value": ...}, not bytes'  # type: ignore[union-attr]
        for image in (memoryview(b"\2" * 6).cast("B", (2, 3)), np.bytes_(b"\2" * 6), bytearray(b"\2" * 6)):
            assert plan.score({"value": image}) == {"y": 2.0}
    (tmp_path / "raw.test.yaml").write_text(CASE)
    cases = read_cases(tmp_path / "raw.test.yaml", models=tmp_path / "models", schemas=tmp_path)
    assert [[*run_case(cases.driver, case)] for case in cases.cases] == [[]]


CASE = """\
topology: raw.yaml
cases:
- {name: an image, given: {images: [{value: [1, 1, 1, 1, 1, 1]}]}, expect: {answers: [{y: 1.0}]}}
"""
