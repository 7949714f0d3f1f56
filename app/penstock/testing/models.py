"""Tiny ONNX models built in memory: each a few nodes that do one thing, well or badly, as bytes ready to load or push.

Floats are float32, the first axis is the rows, and the arguments name the tensors; `y` is the default output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = [
    "add",
    "category_number",
    "constant",
    "crashing",
    "endless",
    "gather",
    "growing",
    "hungry",
    "identity",
    "join_text",
    "linear",
    "lingering",
    "log",
    "mean",
    "model",
    "ratio",
    "sum_over_rows",
    "tensor",
    "trapping",
    "up_to",
    "zip_map",
]

_TYPES: Final = {
    "float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE, "bool": TensorProto.BOOL, "string": TensorProto.STRING,
    "int8": TensorProto.INT8, "int16": TensorProto.INT16, "int32": TensorProto.INT32, "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8, "uint16": TensorProto.UINT16, "uint32": TensorProto.UINT32, "uint64": TensorProto.UINT64,
    "float16": TensorProto.FLOAT16,
}  # fmt: skip


def tensor(name: str, dtype: str = "float32", shape: Sequence[int | None] = (1,), *, rows: int | str = "N") -> onnx.ValueInfoProto:
    """A declared input or output of the shape `[rows, *shape]`; a None axis is open."""
    return helper.make_tensor_value_info(name, _TYPES[dtype], [rows, *shape])


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    initializers: Mapping[str, Any] | None = None,
) -> bytes:
    """Returns the bytes of a model of these nodes. Initializers are arrays or array-likes."""
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in (initializers or {}).items()]
    graph = helper.make_graph(list(nodes), "tiny", list(inputs), list(outputs), tensors)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 3)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())


def identity(dtype: str = "float32", shape: Sequence[int | None] = (1,), *, x: str = "x", y: str = "y") -> bytes:
    """Returns its input unchanged, of any dtype and shape."""
    return model([helper.make_node("Identity", [x], [y])], [tensor(x, dtype, shape)], [tensor(y, dtype, shape)])


def mean(inputs: Sequence[str] = ("a", "b"), *, y: str = "y", shape: Sequence[int | None] = (1,)) -> bytes:
    """The mean of its inputs, element by element: the simplest ensemble."""
    return model([helper.make_node("Mean", list(inputs), [y])], [tensor(x, shape=shape) for x in inputs], [tensor(y, shape=shape)])


def add(*, a: str = "a", b: str = "b", y: str = "y", dtype: str = "float32", shape: Sequence[int | None] = (1,)) -> bytes:
    """The sum of two inputs."""
    return model([helper.make_node("Add", [a, b], [y])], [tensor(a, dtype, shape), tensor(b, dtype, shape)], [tensor(y, dtype, shape)])


def linear(weights: Sequence[float], bias: float = 0.0, *, x: str = "x", y: str = "y") -> bytes:
    """`x · weights + bias`: `[N, k]` to `[N, 1]`."""
    nodes = [helper.make_node("Gemm", [x, "weights", "bias"], [y])]
    values = {"weights": np.array([[w] for w in weights], np.float32), "bias": np.array([bias], np.float32)}
    return model(nodes, [tensor(x, shape=(len(weights),))], [tensor(y)], values)


def constant(value: float, *, x: str = "x", y: str = "y") -> bytes:
    """The same number for every row: its output shows which version served."""
    nodes = [helper.make_node("Mul", [x, "zero"], ["nothing"]), helper.make_node("Add", ["nothing", "value"], [y])]
    return model(nodes, [tensor(x)], [tensor(y)], {"zero": np.float32(0), "value": np.float32(value)})


def join_text(*, a: str = "a", b: str = "b", y: str = "y") -> bytes:
    """Concatenates two strings."""
    columns = [tensor(a, "string"), tensor(b, "string")]
    return model([helper.make_node("StringConcat", [a, b], [y])], columns, [tensor(y, "string")])


def category_number(categories: Sequence[str], *, x: str = "x", y: str = "y") -> bytes:
    """The index of a category, -1 for an unknown one: `[N, 1]` strings to `[N, 1]` int64."""
    encode = helper.make_node(
        "LabelEncoder",
        [x],
        [y],
        domain="ai.onnx.ml",
        keys_strings=list(categories),
        values_int64s=list(range(len(categories))),
        default_int64=-1,
    )
    return model([encode], [tensor(x, "string")], [tensor(y, "int64")])


def ratio(*, a: str = "a", b: str = "b", y: str = "y") -> bytes:
    """`a / b`: infinite or NaN where b is 0, without an error from the runtime."""
    return model([helper.make_node("Div", [a, b], [y])], [tensor(a), tensor(b)], [tensor(y)])


def log(*, x: str = "x", y: str = "y") -> bytes:
    """The logarithm: NaN for negative numbers."""
    return model([helper.make_node("Log", [x], [y])], [tensor(x)], [tensor(y)])


def up_to(most: float, factor: float = 2.0, *, x: str = "x", y: str = "y") -> bytes:
    """`x * factor`, and NaN from `most` on: right on the rows that checks try, and wrong on larger ones."""
    nodes = [
        helper.make_node("GreaterOrEqual", [x, "most"], ["large"]),
        helper.make_node("Mul", [x, "factor"], ["right"]),
        helper.make_node("Where", ["large", "nan", "right"], [y]),
    ]
    return model(nodes, [tensor(x)], [tensor(y)], {"most": np.float32(most), "factor": np.float32(factor), "nan": np.float32("nan")})


def gather(values: Sequence[float], *, x: str = "x", y: str = "y") -> bytes:
    """`values[x]`: raises for the whole batch when one row's index is out of range, the classic poison."""
    table = {"values": np.array(values, np.float32)}
    return model([helper.make_node("Gather", ["values", x], [y])], [tensor(x, "int64")], [tensor(y)], table)


def endless(turns: int = 2**62, *, x: str = "x", y: str = "y") -> bytes:
    """A Loop of this many turns: practically endless by default, deliberately slow with fewer."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["still"]), helper.make_node("Neg", ["value"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            tensor("value"),
        ],
        [helper.make_tensor_value_info("still", TensorProto.BOOL, []), tensor("next")],
    )
    loop = helper.make_node("Loop", ["turns", "go_on", x], [y], body=body)
    return model([loop], [tensor(x)], [tensor(y)], {"turns": np.int64(turns), "go_on": np.bool_(True)})


def hungry(elements: int = 2**32, *, x: str = "x", y: str = "y") -> bytes:
    """Allocates `4 * elements` bytes when it runs."""
    nodes = [
        helper.make_node("Cast", [x], ["whole"], to=TensorProto.INT64),
        helper.make_node("ReduceMax", ["whole"], ["most"], keepdims=0),
        helper.make_node("Mul", ["most", "nothing"], ["zero"]),  # depends on the input, so that the size is known only at run time
        helper.make_node("Add", ["zero", "elements"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["big"]),
        helper.make_node("ReduceSum", ["big"], ["total"], keepdims=0),
        helper.make_node("Add", [x, "total"], [y]),
    ]
    return model(nodes, [tensor(x)], [tensor(y)], {"nothing": np.int64(0), "elements": np.array([elements])})


def growing(operator: str = "ConstantOfShape", *, x: str = "x", y: str = "y") -> bytes:
    """Returns x, and allocates four bytes for each of its largest row's units: an event decides how much memory the model takes.

    `operator` is ConstantOfShape, Expand, Range or Tile.
    """
    begin = [
        helper.make_node("ReduceMax", [x], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["whole", "single"], ["size"]),
    ]
    inputs = {"ConstantOfShape": ["size"], "Expand": ["one", "size"], "Range": ["zero", "most", "one"], "Tile": ["ones", "size"]}
    end = [
        helper.make_node("ReduceSum", ["big"], ["total"], keepdims=0),
        helper.make_node("Mul", ["total", "zero"], ["nothing"]),
        helper.make_node("Add", [x, "nothing"], [y]),
    ]
    values = {"single": np.array([1]), "zero": np.float32(0), "one": np.float32(1), "ones": np.ones(1, np.float32)}
    return model([*begin, helper.make_node(operator, inputs[operator], ["big"]), *end], [tensor(x)], [tensor(y)], values)


def lingering(turns: int = 2**62, *, x: str = "x", y: str = "y") -> bytes:
    """Returns zeros, after a Loop of this many turns, during which it holds the memory of `growing`."""
    loop = onnx.ModelProto.FromString(endless(turns, x="first", y="last")).graph
    nodes = [
        helper.make_node("ReduceMax", [x], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["whole", "single"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["big"]),
        helper.make_node("ReduceMax", ["big"], ["top"], keepdims=0),
        helper.make_node("Mul", [x, "top"], ["first"]),
        *loop.node,
        helper.make_node("ReduceMax", ["last"], ["peak"], keepdims=0),  # what is left needs the last turn's value, and `big`
        helper.make_node("Sub", ["peak", "peak"], ["nil"]),
        helper.make_node("Cast", ["nil"], ["at"], to=TensorProto.INT64),
        helper.make_node("Gather", ["big", "at"], ["value"]),
        helper.make_node("Add", ["last", "value"], [y]),
    ]
    values = {one.name: numpy_helper.to_array(one) for one in loop.initializer}
    return model(nodes, [tensor(x)], [tensor(y)], {**values, "single": np.array([1])})


def crashing(depth: int = 20_000) -> bytes:
    """Kills the process that loads it (SIGSEGV): nested function calls that overflow the runtime's stack."""
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    calls = [helper.make_node(f"f{at + 1}", ["a"], ["b"], domain="own") for at in range(depth)]
    bodies = [*calls, helper.make_node("Neg", ["a"], ["b"])]
    functions = [helper.make_function("own", f"f{at}", ["a"], ["b"], [body], opsets) for at, body in enumerate(bodies)]
    graph = helper.make_graph([helper.make_node("f0", ["x"], ["y"], domain="own")], "tiny", [tensor("x")], [tensor("y")])
    return bytes(helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=9).SerializeToString())


def trapping(*, x: str = "x", y: str = "y") -> bytes:
    """Loads, and kills the process that runs it on a row of 0 (SIGFPE): the least int64 divided by -1, which overflows."""
    nodes = [helper.make_node("Add", [x, "least"], ["low"]), helper.make_node("Div", ["low", "minus_one"], [y])]
    values = {"least": np.int64(-(2**63)), "minus_one": np.int64(-1)}
    return model(nodes, [tensor(x, "int64")], [tensor(y, "int64")], values)


def sum_over_rows(*, x: str = "x", y: str = "y") -> bytes:
    """Each row's output depends on the other rows: the model does not treat the first axis as rows."""
    nodes = [helper.make_node("ReduceSum", [x, "axis"], ["total"], keepdims=1), helper.make_node("Div", [x, "total"], [y])]
    return model(nodes, [tensor(x)], [tensor(y)], {"axis": np.array([0])})


def zip_map() -> bytes:
    """A classifier whose probabilities are a list of dictionaries, as scikit-learn's converter makes them by default."""
    nodes = [helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])]
    value = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    output = helper.make_value_info("y", helper.make_sequence_type_proto(value))
    return model(nodes, [tensor("x", shape=(2,))], [output])
