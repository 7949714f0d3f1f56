"""Parameters: constants that feed input tensors of a node's model, so that a release can change what a node does without a new model.

The file declares which tensors are fed like this, and their values. A release may give other values, but not feed other
tensors: that would be another graph. A value is one row of its tensor, by the rules of `fit`; every row of a batch gets it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from penstock.signature import Signature, Tensor
from penstock.topology.fit import Axes, fit, holds, whole_numbers
from penstock.topology.names import did_you_mean
from penstock.topology.spec import ModelNode

__all__ = ["check_parameters", "misfit", "shown"]


def check_parameters(node: ModelNode, signature: Signature, parameters: Mapping[str, object]) -> list[str]:
    """Returns what is wrong with `parameters` in place of those of the file, for a model with this signature.

    Values are numbers, strings, booleans, or lists of them, nested as deep as the tensor has axes. A parameter that is
    not named keeps the file's value, which is compared with the signature too, since the model may be another one.
    """
    where = f"nodes.{node.name}.parameters"
    messages = []
    for name, value in {**node.parameters, **parameters}.items():
        tensor = signature.input(name)
        if name not in node.parameters:
            fix = did_you_mean(name, node.parameters) or "a release can change only what the topology declares"
            messages.append(f"{where}: the topology declares no parameter {name!r} ({fix})")
        elif tensor is None:
            known = ", ".join(one.name for one in signature.inputs)
            messages.append(f"{where}: the model has no input tensor {name!r} (it has {known})")
        elif found := misfit(tensor, value):
            messages.append(f"{where}.{name}: {found[0]} ({found[1]})")
    return messages


def misfit(tensor: Tensor, value: object) -> tuple[str, str] | None:
    """Returns (why `value` is not a row of the tensor, what to do), or None when it is one."""
    axes, scalars = _taken_apart(value)
    if axes is None:
        why = "the lists in its value differ in length or depth"
    elif 0 in axes or fit(axes, tensor.shape) is None:
        why = f"its value has the axes {shown(axes)}" if axes else "its value is not a list"
    elif wrong := [one for one in scalars if one != one or not holds(one, tensor.dtype)]:
        why = f"{shown(wrong[0])} is not of type {tensor.dtype}"
    else:
        return None
    return f"the tensor is `{tensor}`, {why}", _row_of(tensor)


def shown(value: object) -> str:
    """Returns the value on one line, as YAML and JSON write it; a long value is cut."""
    text = json.dumps(value, ensure_ascii=False, default=lambda other: type(other).__name__)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _taken_apart(value: object) -> tuple[Axes | None, list[object]]:
    """Returns the axes of nested lists (None when lengths differ) and the scalars. A level at a time, as depth could exhaust the stack."""
    axes: list[int] = []
    level = [value]
    while any(isinstance(one, list | tuple) for one in level):
        lengths = {len(one) if isinstance(one, list | tuple) else -1 for one in level}
        if len(lengths) > 1:
            return None, []
        axes += lengths
        level = [item for one in level if isinstance(one, list | tuple) for item in one]
    return tuple(axes), level


def _row_of(tensor: Tensor) -> str:
    match tensor.dtype:
        case "bool":
            one, many = "true or false", "true and false"
        case "string":
            one, many = "text", "texts"
        case "float32" | "float64":
            one, many = "a finite number", "finite numbers"
        case dtype:
            low, high = whole_numbers(dtype)
            one, many = (f"{which} from {low} to {high}" for which in ("a whole number", "whole numbers"))
    match tensor.shape:
        case () | (1,):
            return f"give {one}"
        case (size,):
            return f"give a list of {many}" if size is None else f"give a list of {size} {many}"
        case axes:
            return f"give lists of the axes [{', '.join('?' if axis is None else str(axis) for axis in axes)}] with {many}"
