"""A model under test: what its metadata declare, a valid request, and requests that are wrong in one way each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from penstock.conformance.tensors import AXES, DATATYPES, Tensor, flattened, made

__all__ = ["NOWHERE", "NO_INPUTS", "Bad", "Declared", "Model", "bad_requests", "declared", "given", "misfit", "unreadable", "wanted"]

NO_INPUTS: Final = "its metadata list no inputs: give a valid request with --input"
_VALUES: Final = 2**20  # of a tensor that is made from metadata
NOWHERE: Final = "no-such-name-7f3a"  # of a model, a tensor, a version


@dataclass(frozen=True, slots=True)
class Declared:
    """A tensor of a model's metadata; an axis below 1 is open."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Model:
    """`request` are the tensors of a valid request, or are `guessed` from the metadata; `versions` may be empty."""

    name: str
    versions: tuple[str, ...]
    inputs: tuple[Declared, ...]
    outputs: tuple[Declared, ...]
    request: tuple[Tensor, ...]
    guessed: bool = False


class Bad(NamedTuple):
    """A request that a server has to refuse, by the rule of this name."""

    rule: str
    tensors: tuple[Tensor, ...]


def declared(metadata: Any, kind: str) -> tuple[Declared, ...]:
    """Returns the tensors that a model's metadata list under `inputs` or `outputs`. Raises ValueError with what is wrong."""
    listed = metadata.get(kind)
    if not isinstance(listed, list):
        raise ValueError(f"{kind} is no list")
    found = []
    for one in listed:
        if not isinstance(one, dict) or not isinstance(one.get("name"), str):
            raise ValueError(f"a tensor of {kind} without a name")
        name, datatype, shape = one["name"], one.get("datatype"), one.get("shape")
        if datatype not in DATATYPES:
            raise ValueError(f"{kind}.{name}: the datatype {datatype!r} is not one of the protocol's")
        if not isinstance(shape, list) or not all(type(axis) is int for axis in shape):
            raise ValueError(f"{kind}.{name}: the shape {shape!r} is no list of whole numbers")
        if len(shape) > AXES:
            raise ValueError(f"{kind}.{name}: the shape has {len(shape)} axes, more than {AXES}")
        found.append(Declared(name, datatype, tuple(shape)))
    return tuple(found)


def wanted(inputs: Iterable[Declared]) -> Iterator[Tensor]:
    """Yields tensors that the metadata allow. A model may want other values, of text above all. Raises ValueError for one that is large."""
    for one in inputs:
        shape = [axis if axis > 0 else -1 for axis in one.shape]
        if abs(math.prod(shape)) > _VALUES:
            raise ValueError(f"{one.name} has the shape {list(one.shape)}: give a valid request with --input")
        yield made(one.name, one.datatype, shape)


def given(request: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """Returns the tensors of a request that a person wrote as JSON. Raises ValueError with what is wrong."""
    listed = request.get("inputs")
    if not isinstance(listed, list) or not listed:
        raise ValueError('there are no "inputs"')
    found = []
    for one in listed:
        if not isinstance(one, dict) or not {"name", "datatype", "shape", "data"} <= one.keys():
            raise ValueError("an input has name, datatype, shape and data")
        values = flattened(one["data"])
        if one["datatype"] not in DATATYPES or len(values) != math.prod(one["shape"]):
            raise ValueError(f"the input {one['name']}: {len(values)} values of {one['datatype']} for the shape {one['shape']}")
        if one["datatype"].startswith(("FP", "BF")):
            values = [float(value) for value in values]
        found.append(Tensor(one["name"], one["datatype"], tuple(one["shape"]), tuple(values)))
    return tuple(found)


def bad_requests(tensors: Sequence[Tensor]) -> Iterator[Bad]:
    """Yields the wrong requests that a valid one becomes. The first tensor is the one that is changed."""
    first, *rest = tensors
    other = "FP32" if first.datatype == "BYTES" else "BYTES"
    deeper = first.with_values([value for value in first.values for _ in range(3)], (*first.shape, 3))
    for rule, changed in (
        ("unknown-input", [*tensors, replace(first, name=NOWHERE)]),
        ("missing-input", rest),
        ("wrong-datatype", [made(first.name, other, first.shape), *rest]),
        ("wrong-shape", [deeper, *rest]),
        ("too-few-values", [first.with_values(first.values[:-1], first.shape), *rest]),
        ("too-many-values", [first.with_values((*first.values, first.values[-1]), first.shape), *rest]),
        ("negative-shape", [first.with_values(first.values, (-first.shape[0], *first.shape[1:])), *rest]),
    ):
        if changed or rule == "missing-input":
            yield Bad(rule, tuple(changed))


def unreadable(tensor: Tensor) -> str:
    """Returns what is wrong with a tensor of an answer; "" for nothing."""
    if tensor.datatype not in DATATYPES:
        return f"{tensor.name}: the datatype {tensor.datatype!r} is not one of the protocol's"
    if len(tensor.shape) > AXES or any(type(axis) is not int or axis < 0 for axis in tensor.shape):
        return f"{tensor.name}: the shape {list(tensor.shape)!r:.100}"
    if len(tensor.values) != math.prod(tensor.shape):
        return f"{tensor.name}: {len(tensor.values)} values for the shape {list(tensor.shape)}"
    kind: Any = bool if tensor.datatype == "BOOL" else (int, float) if tensor.datatype.startswith(("FP", "BF")) else int
    if tensor.datatype == "BYTES":
        kind = str
    strange = next((one for one in tensor.values if not isinstance(one, kind) or (isinstance(one, bool) and kind is not bool)), None)
    return "" if strange is None else f"{tensor.name}: the value {strange!r} in a tensor of {tensor.datatype}"


def misfit(model: Model, answer: Sequence[Tensor]) -> str:
    """Returns how an answer with all outputs differs from the metadata; "" for not at all."""
    there = {one.name: one for one in answer}
    if {one.name for one in model.outputs} != there.keys():
        return f"outputs {', '.join(there)}, declared are {', '.join(one.name for one in model.outputs)}"
    for one in model.outputs:
        found = there[one.name]
        fits = len(found.shape) == len(one.shape) and all(
            a in (b, abs(a)) and (b < 1 or a == b) for a, b in zip(found.shape, one.shape, strict=True)
        )
        if found.datatype != one.datatype or not fits:
            return f"{one.name}: {found.datatype} {list(found.shape)}, declared is {one.datatype} {list(one.shape)}"
    return ""
