"""Constants feed the tensors that the file names, and a value that is no row of its tensor is refused with what would be one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from penstock.errors import TopologyError
from penstock.schema import Schema
from penstock.signature import Signature, Tensor
from penstock.topology.check import wire
from penstock.topology.parameters import check_parameters, misfit, shown
from penstock.topology.parse import parse_text
from penstock.topology.spec import ModelNode, ModelRef
from penstock.topology.wiring import Feed, Part

STACK = Signature(
    (Tensor("p", "float32", (2,)), Tensor("weights", "float32", (2,)), Tensor("threshold", "float32", (1,))), (Tensor("score", "float32"),)
)
PARAMETERS = "parameters: {weights: [0.3, 0.7], threshold: 0.5}"

Edit = Callable[..., str]


@pytest.fixture
def edit(text: str) -> Edit:
    """The topology, its node `stack` with these parameters."""

    def call(parameters: str = PARAMETERS) -> str:
        old = "stack@2, "
        assert text.count(old) == 1
        return text.replace(old, f"{old}{parameters}, ")

    return call


@pytest.fixture
def problems(schemas: dict[str, Schema], signatures: dict[str, Signature]) -> Callable[[str], list[str]]:
    def find(text: str) -> list[str]:
        with pytest.raises(TopologyError) as caught:
            wire(parse_text(text, "t.yaml"), schemas, signatures | {"stack": STACK})
        return [str(problem) for problem in caught.value.problems]

    return find


def test_values_are_frozen(edit: Edit) -> None:
    node = parse_text(edit("parameters: {a: 1, b: no, c: [true, [1.5, x]]}")).model_nodes[3]
    assert dict(node.parameters) == {"a": 1, "b": "no", "c": (True, (1.5, "x"))}
    with pytest.raises(TypeError):
        node.parameters["a"] = 2  # type: ignore[index]  # what is asserted
    assert isinstance(hash(node), int)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("{a: null}", "17:59: nodes.stack.parameters.a: expected a number, text or a boolean, or lists of them, found nothing"),
        ("{a: []}", "17:59: nodes.stack.parameters.a: the list is empty (name at least one, or remove the key)"),
        ("{a: [1, [2, []]]}", "17:67: nodes.stack.parameters.a[1][1]: the list is empty (name at least one, or remove the key)"),
        ("{a: [{b: 1}]}", "17:60: nodes.stack.parameters.a[0]: expected a number, text or a boolean, or lists of them, found a mapping"),
        ("[0.5]", "17:55: nodes.stack.parameters: expected a mapping with a key for each tensor, found a list"),
    ],
)
def test_what_is_no_value(edit: Edit, said: str, expected: str) -> None:
    with pytest.raises(TopologyError) as caught:
        parse_text(edit(f"parameters: {said}"), "t.yaml")
    assert [str(problem) for problem in caught.value.problems] == [f"t.yaml:{expected}"]


def test_parameters_are_feeds_in_the_order_of_the_model(edit: Edit, schemas: dict[str, Schema], signatures: dict[str, Signature]) -> None:
    (stage,) = wire(parse_text(edit()), schemas, signatures | {"stack": STACK}).stages
    p, weights, threshold = STACK.inputs
    parts = (Part("logistic.probabilities", 1), Part("trees.probabilities", 1))
    assert stage.steps[-1].feeds == (Feed(p, parts, True), Feed(weights, (), constant=(0.3, 0.7)), Feed(threshold, (), constant=0.5))


def test_parameter_comes_before_a_field_of_its_name(schemas: dict[str, Schema]) -> None:
    text = """\
topology: t
sources: {departures: {topic: a, schema: flight.avsc}}
nodes: {n: {kind: model, model: m@1, parameters: {month: 7}}}
sinks: {p: {topic: b, fields: [n]}}
"""
    signature = Signature((Tensor("month", "int64", (1,)), Tensor("day", "int64", (1,))), (Tensor("y", "float32", (1,)),))
    (stage,) = wire(parse_text(text), schemas, {"n": signature}).stages
    assert [column.name for column in stage.inputs[0].columns] == ["day"]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            "weights: [0.3, 0.7]",
            "17:3: nodes.stack: nothing feeds the input tensor `threshold: float32[N, 1]`, and no field or output has its name"
            " (add inputs: {threshold: FIELD or NODE.OUTPUT}, or parameters: {threshold: VALUE} for a constant)",
        ),
        (
            "weights: [0.3, 0.7], threshold: 0.5, treshold: 0.5",
            "17:93: nodes.stack.parameters: stack@2 has no input tensor 'treshold' (did you mean 'threshold'?)",
        ),
        (
            "weights: [0.3, 0.7], threshold: 0.5, p: [0, 0]",
            "17:93: nodes.stack: the tensor 'p' is in inputs and in parameters"
            " (keep it in inputs if events feed it, in parameters if it is a constant)",
        ),
        (
            "weights: 1, threshold: 0.5",
            "17:56: nodes.stack.parameters.weights: the tensor is `weights: float32[N, 2]`, its value is not a list"
            " (give a list of 2 finite numbers)",
        ),
    ],
)
def test_parameters_that_do_not_fit_the_model(edit: Edit, problems: Callable[[str], list[str]], said: str, expected: str) -> None:
    assert problems(edit(f"parameters: {{{said}}}")) == [f"t.yaml:{expected}"]


def test_node_that_reads_nothing(text: str, problems: Callable[[str], list[str]]) -> None:
    old = '{kind: ensemble, model: stack@2, inputs: {p: ["logistic.probabilities[1]", "trees.probabilities[1]"]}}'
    assert text.count(old) == 1
    found = problems(text.replace(old, "{kind: ensemble, model: stack@2, parameters: {p: [0, 0], weights: [0.3, 0.7], threshold: 0.5}}"))
    assert found[-1] == (
        "t.yaml:17:55: nodes.stack.parameters: every input tensor of stack@2 is a parameter, so each event would get the same answer"
        " (feed one of them from a field or another node)"
    )


FITS: list[tuple[Tensor, Any]] = [
    (Tensor("t", "float32"), 1),
    (Tensor("t", "float32"), [0.5]),
    (Tensor("t", "float32", (1,)), 0.5),
    (Tensor("t", "float64", (2,)), (1, 2.5)),
    (Tensor("t", "float32", (None,)), [1.0, 2.0, 3.0]),
    (Tensor("t", "float32", (2, None)), [[1, 2, 3], [4, 5, 6]]),
    (Tensor("t", "uint8", (2,)), [0, 255]),
    (Tensor("t", "int64"), -(2**63)),
    (Tensor("t", "uint64"), 2**64 - 1),
    (Tensor("t", "bool", (2,)), [True, False]),
    (Tensor("t", "string"), "off"),
]

MISFITS: list[tuple[Tensor, Any, str, str]] = [
    (Tensor("t", "float32", (2,)), [1, 2, 3], "its value has the axes [3]", "give a list of 2 finite numbers"),
    (Tensor("t", "float32", (None,)), [], "its value has the axes [0]", "give a list of finite numbers"),
    (Tensor("t", "float32"), [1, 2], "its value has the axes [2]", "give a finite number"),
    (Tensor("t", "float32", (2, None)), [[1, 2], [3]], "the lists in its value differ in length or depth", "give lists of the axes [2, ?]"),
    (Tensor("t", "float32", (2,)), [1, [2]], "the lists in its value differ in length or depth", "give a list of 2 finite numbers"),
    (Tensor("t", "float32", (2,)), [1, math.nan], "NaN is not of type float32", "give a list of 2 finite numbers"),
    (Tensor("t", "float64"), math.inf, "Infinity is not of type float64", "give a finite number"),
    (Tensor("t", "float32"), 1e39, "1e+39 is not of type float32", "give a finite number"),
    (Tensor("t", "float32"), True, "true is not of type float32", "give a finite number"),
    (Tensor("t", "float32"), "0.5", '"0.5" is not of type float32', "give a finite number"),
    (Tensor("t", "uint8", (1,)), 256, "256 is not of type uint8", "give a whole number from 0 to 255"),
    (Tensor("t", "int8", (2,)), [-128, -129], "-129 is not of type int8", "give a list of 2 whole numbers from -128 to 127"),
    (Tensor("t", "int64"), 1.0, "1.0 is not of type int64", "give a whole number from -9223372036854775808"),
    (Tensor("t", "bool"), 1, "1 is not of type bool", "give true or false"),
    (Tensor("t", "string", (2,)), ["a", 1], "1 is not of type string", "give a list of 2 texts"),
    (Tensor("t", "float32"), None, "null is not of type float32", "give a finite number"),
    (Tensor("t", "float32"), {"a": 1}, '{"a": 1} is not of type float32', "give a finite number"),
]


@pytest.mark.parametrize(("tensor", "value"), FITS)
def test_rows(tensor: Tensor, value: Any) -> None:
    assert misfit(tensor, value) is None


@pytest.mark.parametrize(("tensor", "value", "why", "fix"), MISFITS)
def test_what_is_no_row(tensor: Tensor, value: Any, why: str, fix: str) -> None:
    found = misfit(tensor, value)
    assert found is not None
    assert found[0] == f"the tensor is `{tensor}`, {why}"
    assert found[1].startswith(fix)


def test_depth_of_a_value_exhausts_nothing() -> None:
    """It may come from a control topic."""
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    found = misfit(Tensor("t", "float32", (2,)), value)
    assert found is not None
    assert len(found[0]) < 200


class TestRelease:
    """Values in place of the file's."""

    NODE = ModelNode("stack", "ensemble", ModelRef("stack", "2"), parameters={"weights": (0.3, 0.7), "threshold": 0.5})

    def test_other_values_are_fine(self) -> None:
        assert check_parameters(self.NODE, STACK, {"weights": [0.5, 0.5]}) == []
        assert check_parameters(self.NODE, STACK, {}) == []

    def test_every_misfit_is_told(self) -> None:
        assert check_parameters(self.NODE, STACK, {"weights": [1], "threshold": "high", "bias": 1, "wieghts": 2}) == [
            "nodes.stack.parameters.weights: the tensor is `weights: float32[N, 2]`, its value has the axes [1]"
            " (give a list of 2 finite numbers)",
            'nodes.stack.parameters.threshold: the tensor is `threshold: float32[N, 1]`, "high" is not of type float32'
            " (give a finite number)",
            "nodes.stack.parameters: the topology declares no parameter 'bias' (known: weights, threshold)",
            "nodes.stack.parameters: the topology declares no parameter 'wieghts' (did you mean 'weights'?)",
        ]

    def test_node_without_parameters_has_none_to_change(self) -> None:
        node = ModelNode("n", "model", ModelRef("m", "1"))
        assert check_parameters(node, STACK, {"weights": [1, 1]}) == [
            "nodes.n.parameters: the topology declares no parameter 'weights' (a release can change only what the topology declares)"
        ]

    def test_values_of_the_file_are_held_against_another_model_too(self) -> None:
        """One that has no threshold any more, and takes three weights."""
        other = Signature((Tensor("p", "float32", (3,)), Tensor("weights", "float32", (3,))), STACK.outputs)
        assert check_parameters(self.NODE, other, {"weights": [1, 1, 1]}) == [
            "nodes.stack.parameters: the model has no input tensor 'threshold' (it has p, weights)"
        ]
        assert len(check_parameters(self.NODE, other, {})) == 2


def test_long_values_are_cut() -> None:
    assert shown((0.5, "a\n", True)) == '[0.5, "a\\n", true]'
    assert shown(tuple(range(1000))).endswith("...")
    assert len(shown(tuple(range(1000)))) < 70
    assert json.loads(shown((1, (2, 3)))) == [1, [2, 3]]
