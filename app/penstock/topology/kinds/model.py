"""The kinds feature, model and ensemble: a registered model at a place in the graph. They differ in how they are drawn.

Its tensors are those of the model's signature. Entries of `inputs` and `parameters` feed them; a tensor without an entry is
fed by what has its name (`Names.by_name`).
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from types import MappingProxyType
from typing import Final

from penstock.signature import Signature
from penstock.topology.document import Scalar, Value
from penstock.topology.kinds.base import Bound, Kind
from penstock.topology.names import did_you_mean
from penstock.topology.parameters import check_parameters, misfit, shown
from penstock.topology.requirements import requirement, unmet
from penstock.topology.resolve import Finding, Names, Wire
from penstock.topology.shapes import INPUTS, METRIC_NAME, MODEL_NAME, PROVIDERS, TENSOR_NAME, THRESHOLD_TEXT, Key, Keys, Named, Nested
from penstock.topology.spec import Input, ModelNode, ModelRef, Ref, Requirement
from penstock.topology.values import constant, inputs, items, keys, marks, providers, word

__all__ = ["ModelKind"]

_KEYS: Final = Keys(
    {
        "model": Key(MODEL_NAME, "The registered model.", required=True),
        "inputs": INPUTS,
        "parameters": Key(
            Named("tensor", TENSOR_NAME, Nested(), empty=True), "Input tensors with one value for all events, which a release may change."
        ),
        "require": Key(
            Named("metric", METRIC_NAME, THRESHOLD_TEXT),
            "Thresholds that the metrics of the model's manifest must meet before it may serve.",
        ),
        "providers": Key(PROVIDERS, "What computes the model: execution providers of onnxruntime, in this order."),
    }
)


class ModelKind(Kind[ModelNode]):
    """A node that a registered model computes."""

    keys = _KEYS

    def __init__(self, outline: tuple[str, str] = ("[", "]")) -> None:
        self._outline = outline

    @property
    def outline(self) -> tuple[str, str]:
        return self._outline

    def parse(self, name: Scalar, kind: str, value: Value) -> ModelNode:
        given = keys(value)
        model, version = word(given["model"]).split("@")
        parameters = items(given.get("parameters"))
        return ModelNode(
            name=name.text,
            kind=kind,
            model=ModelRef(model, version),
            inputs=inputs(given.get("inputs")),
            require=_requirements(given.get("require")),
            parameters=MappingProxyType({tensor.text: constant(item) for tensor, item in parameters}),
            providers=providers(given.get("providers")),
            mark=name.mark,
            marks=marks(value) | {f"parameters.{tensor.text}": tensor.mark for tensor, _ in parameters},
        )

    def clashes(self, node: ModelNode) -> Iterator[Finding]:
        for name in {entry.tensor: None for entry in node.inputs if entry.tensor in node.parameters}:
            message = f"nodes.{node.name}: the tensor {name!r} is in inputs and in parameters"
            yield node.at(f"parameters.{name}"), message, "keep it in inputs if events feed it, in parameters if it is a constant"

    def signature(self, node: ModelNode, model: Signature | None) -> Signature | None:
        return model

    def wires(self, node: ModelNode, names: Names) -> list[Wire]:
        signature = names.signatures.get(node.name)
        if signature is None:
            for entry in node.inputs:
                names.targets(entry.refs, f"nodes.{node.name}.inputs.{entry.tensor}")
            return []
        tensors = [tensor.name for tensor in signature.inputs]
        given = {entry.tensor: entry for entry in node.inputs}
        for name, entry in given.items():
            if name not in tensors:
                fix = did_you_mean(name, [tensor for tensor in tensors if tensor not in given] or tensors)
                names.nowhere(entry.mark, f"nodes.{node.name}.inputs: {node.model} has no input tensor {name!r}", fix)
        _check_parameters(node, signature, given, names)
        constants = node.parameters.keys() - given.keys()
        left_out = [tensor for tensor in signature.inputs if tensor.name not in given and tensor.name not in constants]
        fed = given | names.by_name(node, left_out, ", or parameters: {TENSOR: VALUE} for a constant")
        wires = []
        for tensor in signature.inputs:
            if tensor.name in constants:
                wires.append(Wire(tensor, Input(tensor.name, ()), (), node.parameters[tensor.name]))
            elif found := fed.get(tensor.name):
                wires.append(Wire(tensor, found, names.targets(found.refs, f"nodes.{node.name}.inputs.{tensor.name}")))
        return wires

    def fit(self, node: ModelNode, bound: Bound) -> Iterator[Finding]:
        for one in node.require:
            for message in unmet([one], bound.metrics):
                where = f"nodes.{node.name}.require: {bound.version}"
                yield one.mark, f"{where}: {message}", "choose a version that meets it, or change the requirement"
        if bound.parameters is not None:
            for message in check_parameters(node, bound.signature, bound.parameters):
                yield node.at("parameters"), message, ""

    def refs(self, node: ModelNode) -> tuple[Ref, ...]:
        return tuple(ref for entry in node.inputs for ref in entry.refs)

    def detail(self, node: ModelNode) -> str:
        return "; ".join([str(node.model), *(f"{name}: {shown(value)}" for name, value in node.parameters.items())])


def _requirements(value: Value | None) -> tuple[Requirement, ...]:
    found = (requirement(metric.text, word(item), metric.mark) for metric, item in items(value))
    return tuple(each for each in found if each is not None)  # conforming text is always a threshold


def _check_parameters(node: ModelNode, signature: Signature, given: Container[str], names: Names) -> None:
    where = f"nodes.{node.name}.parameters"
    for name, value in node.parameters.items():
        mark, tensor = node.at(f"parameters.{name}"), signature.input(name)
        if tensor is None:
            fix = did_you_mean(name, [one.name for one in signature.inputs])
            names.report.add(mark, f"{where}: {node.model} has no input tensor {name!r}", fix)
        elif found := misfit(tensor, value):
            names.report.add(mark, f"{where}.{name}: {found[0]}", found[1])
    if signature.inputs and all(tensor.name in node.parameters and tensor.name not in given for tensor in signature.inputs):
        message = f"{where}: every input tensor of {node.model} is a parameter, so each event would get the same answer"
        names.report.add(node.at("parameters"), message, "feed one of them from a field or another node")
