"""The graph as it is written: operators of ONNX in the order in which they run, each once, and its bytes in the end."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from penstock.expressions.error import ExpressionError
from penstock.signature import Tensor

if TYPE_CHECKING:  # the parser of topologies knows this module, and `--help` and completion do without the libraries behind graphs
    from onnx import NodeProto, TensorProto

__all__ = ["FREE", "OK", "Given", "Graph", "Read", "Scope", "Tape", "Value"]

OK: Final = "{}.ok"  # the output that marks the rows for which the output of this name has a value
FREE: Final = "{}.ok.{}"  # where there are several causes: for each but the last, from 1, whether the row is free of it
OPSET: Final = 21
ML_OPSET: Final = 4
IR: Final = 10
MAX_OPERATORS: Final = 10_000
Axes = tuple[int | None, ...]

_TYPES: Final = {  # the numbers of ONNX's TensorProto.DataType
    "float32": 1, "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "int32": 6, "int64": 7, "string": 8, "bool": 9, "float64": 11,
    "uint32": 12, "uint64": 13,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Given:
    """What a reference gives: its dtype, the axes of one value, whether it may be null, and whether it is finite if it is a float.

    `replaceable`: nulls can be replaced where it is read, as those of a field can. `branch`: it is null for the events that
    its node leaves out. `otherwise` is what the file can do about null beside replacing it.
    """

    dtype: str
    shape: Axes = ()
    nullable: bool = False
    finite: bool = False
    replaceable: bool = False
    branch: bool = False
    otherwise: str = ""


class Scope(Protocol):
    """The names that an expression may read."""

    def given(self, name: str, at: int) -> Given | None:
        """Returns what the reference gives; None when it leads nowhere, which the scope has reported. May raise ExpressionError."""

    def local(self, name: str, at: int) -> None:
        """Called where an earlier output is read. Raises ExpressionError when the name could mean something else too."""


@dataclass(frozen=True, slots=True)
class Read:
    """An input of the graph: its tensor, the reference that feeds it, and the replacement of its nulls, if it replaces them.

    `at` is the offset of the reference in the first expression that names it, `first` the name of that expression's output.
    """

    tensor: Tensor
    name: str
    fill: bool | int | float | str | None
    at: int
    first: str


@dataclass(frozen=True, slots=True)
class Graph:
    """An ONNX file that expressions were compiled to.

    `doubts` is, by output, why a row may have no value; the output `OK` of the same name marks the rows that have one. Where there are
    several causes, the outputs `FREE` mark, for each but the last, the rows that are free of it.
    """

    model: bytes
    reads: tuple[Read, ...]
    outputs: tuple[Tensor, ...]
    doubts: Mapping[str, tuple[str, ...]]

    @property
    def digest(self) -> str:
        """The SHA-256 of the file, in hexadecimal. It changes when what is computed changes, not with blanks in the text."""
        return hashlib.sha256(self.model).hexdigest()

    @property
    def label(self) -> str:
        """What names the graph where a model has its version: `rule:` and the first 12 characters of the digest."""
        return f"rule:{self.digest[:12]}"


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the graph. `rows` is false for what is the same in every row: it has no first axis. `shape` are the other axes."""

    name: str
    dtype: str
    shape: Axes = ()
    rows: bool = True


class Tape:
    """A graph in the making. The same operator over the same values is written once."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        """`taken` are the names of the outputs: no input gets one of them."""
        self.reads: dict[str, Read] = {}
        self._taken = frozenset(taken)
        self._nodes: list[NodeProto] = []
        self._constants: dict[str, TensorProto] = {}
        self._known: dict[Any, Value] = {}

    def read(self, read: Read) -> Value:
        """Returns the value of an input; integers become int64."""
        name = f"{read.tensor.name} (read)" if read.tensor.name in self._taken else read.tensor.name
        read = replace(read, tensor=replace(read.tensor, name=name))
        tensor = self.reads.setdefault(name, read).tensor
        value = Value(tensor.name, tensor.dtype, tensor.shape)
        return value if "int" not in tensor.dtype else self.cast(value, "int64")

    def constant(self, value: Any, dtype: str) -> Value:
        """Returns a constant: a scalar, or a list as a vector."""
        items = value if isinstance(value, list) else [value]
        shape = (len(items),) if isinstance(value, list) else ()
        key = ("constant", dtype, shape, *map(repr, items))
        if key not in self._known:
            import numpy as np
            from onnx import helper

            name = f":c{len(self._constants)}"
            raw = [one.encode() for one in items] if dtype == "string" else np.array(items, dtype).tolist()
            self._constants[name] = helper.make_tensor(name, _TYPES[dtype], shape, raw)
            self._known[key] = Value(name, dtype, shape, rows=False)
        return self._known[key]

    def op(self, kind: str, *inputs: Value, dtype: str, shape: Axes | None = None, rows: bool | None = None, **attributes: Any) -> Value:
        """Returns the result of an operator. `shape` None: that of the input with most axes; `rows` None: whether an input has them."""
        has_rows = any(one.rows for one in inputs) if rows is None else rows
        axes = max((one.shape for one in inputs), key=len) if shape is None else shape
        key = (kind, *(one.name for one in inputs), dtype, repr(sorted(attributes.items())))
        if key not in self._known:
            if len(self._nodes) >= MAX_OPERATORS:
                raise ExpressionError(f"the rule needs more than {MAX_OPERATORS:,} operators", 0, "divide it into several rules")
            from onnx import helper

            name = f":v{len(self._nodes)}"
            domain = "ai.onnx.ml" if kind == "LabelEncoder" else ""
            self._nodes.append(helper.make_node(kind, [one.name for one in inputs], [name], domain=domain, **attributes))
            self._known[key] = Value(name, dtype, axes, has_rows)
        return self._known[key]

    def cast(self, value: Value, dtype: str) -> Value:
        return value if value.dtype == dtype else self.op("Cast", value, dtype=dtype, to=_TYPES[dtype])

    def together(self, *values: Value) -> list[Value]:
        """Returns the values with axes that broadcast row by row: a scalar beside a vector gets a last axis of one."""
        if not any(one.shape for one in values):
            return list(values)
        return [one if one.shape or not one.rows else self.deepen(one) for one in values]

    def deepen(self, value: Value) -> Value:
        """Returns a scalar as a vector of one."""
        axis = self.constant([1 if value.rows else 0], "int64")
        return self.op("Unsqueeze", value, axis, dtype=value.dtype, shape=(1,), rows=value.rows)

    def binary(self, kind: str, left: Value, right: Value, dtype: str | None = None, **attributes: Any) -> Value:
        left, right = self.together(left, right)
        return self.op(kind, left, right, dtype=dtype or left.dtype, shape=joint(left.shape, right.shape), **attributes)

    def where(self, condition: Value, yes: Value, no: Value) -> Value:
        condition, yes, no = self.together(condition, yes, no)
        if yes.dtype == "bool":  # Where takes no booleans
            kept = self.binary("And", condition, yes)
            return self.binary("Or", kept, self.binary("And", self.negated(condition), no))
        shape = joint(condition.shape, joint(yes.shape, no.shape))
        return self.op("Where", condition, yes, no, dtype=yes.dtype, shape=shape)

    def negated(self, value: Value) -> Value:
        return self.op("Not", value, dtype="bool")

    def reduced(self, kind: str, value: Value) -> Value:
        """Returns a vector reduced to a scalar."""
        found = self.op(kind, value, self.constant([-1], "int64"), dtype=value.dtype, shape=(), keepdims=0)
        if value.shape != (None,):
            return found
        # Over no elements the runtime gives an array of another shape, without an error. To pick the first element is one.
        first = self.element(value, 0)
        return self.op("Add", found, self.op("Sub", first, first, dtype=value.dtype), dtype=value.dtype)

    def element(self, value: Value, index: int) -> Value:
        axis = 1 if value.rows else 0
        return self.op("Gather", value, self.constant(index, "int64"), dtype=value.dtype, shape=value.shape[:-1], axis=axis)

    def stacked(self, values: Sequence[Value]) -> Value:
        """Returns scalars of one dtype as a vector. Constants get rows where others have them."""
        if not any(one.rows for one in values):
            parts = [self.deepen(one) for one in values]
            return self.op("Concat", *parts, dtype=values[0].dtype, shape=(len(values),), axis=0)
        sample = next(one for one in values if one.rows)
        parts = [self.deepen(one if one.rows else self.spread(one, sample)) for one in values]
        return self.op("Concat", *parts, dtype=values[0].dtype, shape=(len(values),), axis=1)

    def spread(self, value: Value, like: Value) -> Value:
        """Returns a constant with the rows of `like`."""
        rows = self.op("Shape", like, dtype="int64", shape=(1,), rows=False, start=0, end=1)
        if value.shape:
            width = self.constant(list(value.shape), "int64")
            rows = self.op("Concat", rows, width, dtype="int64", shape=(2,), rows=False, axis=0)
        return self.op("Expand", value, rows, dtype=value.dtype, shape=value.shape, rows=True)

    def finite(self, value: Value) -> Value:
        """Returns, for each row, whether every element is finite: x - x is 0 for those alone."""
        zero = self.op("Sub", value, value, dtype=value.dtype)
        if value.shape:
            zero = self.reduced("ReduceSum", zero)
        return self.op("Equal", zero, self.constant(0, value.dtype), dtype="bool")

    def every(self, value: Value) -> Value:
        """Returns, for each row, whether all elements of a boolean are true."""
        if not value.shape:
            return value
        numbers = self.reduced("ReduceMin", self.cast(value, "int64"))
        return self.cast(numbers, "bool")

    def finish(self, outputs: Mapping[str, tuple[Value, Value | None, tuple[tuple[str, Value], ...]]]) -> Graph:
        """Returns the graph of these outputs: value, for which rows it holds (None: for all), and the causes. One input at least."""
        sample = next(iter(self.reads.values())).tensor
        like = Value(sample.name, sample.dtype, sample.shape)
        from onnx import helper

        results: list[tuple[Tensor, Value]] = []
        for name, (value, ok, why) in outputs.items():
            results.append((Tensor(name, value.dtype, value.shape), value if value.rows else self.spread(value, like)))
            if ok is not None:
                results.append((Tensor(OK.format(name), "bool"), ok if ok.rows else self.spread(ok, like)))
            for number, (_, free) in enumerate(why[:-1], 1):
                results.append((Tensor(FREE.format(name, number), "bool"), free if free.rows else self.spread(free, like)))
        body = _needed(self._nodes, [value.name for _, value in results])
        # Names of tensors are those of the file. All others begin with a colon, as no name of a file does.
        leave = [helper.make_node("Identity", [value.name], [tensor.name]) for tensor, value in results]
        used = {name for node in [*body, *leave] for name in node.input}
        graph = helper.make_graph(
            [*body, *leave],
            "rule",
            [_declared(read.tensor) for read in self.reads.values()],
            [_declared(tensor) for tensor, _ in results],
            [tensor for name, tensor in self._constants.items() if name in used],
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR, producer_name="penstock")
        declared = tuple(Tensor(name, value.dtype, value.shape) for name, (value, _, _) in outputs.items())
        doubts = {name: tuple(cause for cause, _ in why) for name, (_, ok, why) in outputs.items() if ok is not None}
        return Graph(bytes(model.SerializeToString(deterministic=True)), tuple(self.reads.values()), declared, doubts)


def joint(left: Axes, right: Axes) -> Axes:
    """Returns the axes of two values together: a scalar takes those of the other, and an open axis too."""
    if not left or not right:
        return left or right
    if left == (1,) or left[0] is None:
        return right
    return left


def _needed(nodes: Sequence[NodeProto], outputs: Iterable[str]) -> list[NodeProto]:
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if node.output[0] in wanted:
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]


def _declared(tensor: Tensor) -> Any:
    axes = [f"{tensor.name}:{at}" if axis is None else axis for at, axis in enumerate(tensor.shape)]
    from onnx import helper

    return helper.make_tensor_value_info(tensor.name, _TYPES[tensor.dtype], ["N", *axes])
