"""What of a program can be asked: the whole topology, from each source that events enter by, and each node alone, as models with tensors.

A target runs the parts of several requests together and answers each part. Nothing here waits, and nothing raises for what is in a part:
a row that failed is in its outcome.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import numpy as np

from penstock.batch import Array, Batch, Failure, Table
from penstock.codecs import event_reader
from penstock.engine.observe import Observers
from penstock.errors import InferenceError, Malformed, NotThere
from penstock.model.session import Session
from penstock.nodes import ModelNode
from penstock.nodes.base import Feed
from penstock.nodes.rule import RuleNode
from penstock.pipeline import Answers, Program, ports
from penstock.pipeline.letters import LIVE
from penstock.pipeline.ports import Port
from penstock.record import RecordLike
from penstock.runtime import Loaded
from penstock.schema import REQUIRED
from penstock.serving import oip
from penstock.serving.codes import failure
from penstock.signature import Tensor
from penstock.telemetry import Metrics
from penstock.topology.names import did_you_mean
from penstock.topology.wiring import Wiring

__all__ = ["Columns", "Events", "Live", "Model", "Outcome", "Scored", "failed", "gaps"]

_JSON: Final = msgspec.json.Encoder().encode


class Columns(NamedTuple):
    """The tensors of one request by name, with the axes that the model reads, and the outputs that it asks for (None: all)."""

    rows: int
    tensors: Mapping[str, oip.Tensor]
    outputs: tuple[str, ...] | None = None

    def asked(self) -> oip.Request:
        """Returns the request again, for another model."""
        return oip.Request(dict(self.tensors), None if self.outputs is None else [oip.Wanted(name) for name in self.outputs])


class Scored(NamedTuple):
    """What became of the tensors of one request: the outputs by name, and the rows that failed; with any of them, no outputs."""

    outputs: Mapping[str, Array]
    failures: Sequence[Failure]


Outcome = Scored | list[bytes | Failure] | Exception


class Model(Protocol):
    """What tensors can be sent to."""

    name: str
    version: str
    platform: str
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]

    def fit(self, request: oip.Request) -> Columns:
        """Returns the tensors of a request as this model reads them. Raises Malformed."""

    def run(self, parts: Sequence[Columns]) -> list[Scored | Exception]:
        """Returns the outcome of each part."""


class Events:
    """Events of one source, as they are on Kafka: JSON by the source's schema, in and out."""

    def __init__(self, answers: Answers, loaded: Loaded, port: Port) -> None:
        self.source, self.outputs = answers.source, answers.outputs
        self._answers, self._port = answers, port
        self._only = answers.sinks[0] if len(answers.sinks) == 1 else ""
        self._names = {sink: _JSON(sink) + b":" for sink in answers.sinks}
        self._readers = {
            name: event_reader(output.emit.sink.format, loaded.sink_schemas.get(name))
            for name, output in answers.outputs.items()
            if output.emit.sink.format != "json"
        }

    def opened(self, records: Sequence[RecordLike]) -> list[bytes | None]:
        """Returns what holds the fields of each event; None where its envelope cannot be opened, or says that it is skipped."""
        if self._port.events is None:
            return [record.value for record in records]
        opened, rows, _ = self._port.events.open(records)
        found: list[bytes | None] = [None] * len(records)
        for row, one in zip(rows, opened, strict=True):
            found[row] = one.value
        return found

    def run(self, parts: Sequence[list[RecordLike]]) -> list[list[bytes | Failure]]:
        """Returns for each event of each part its answer as JSON, or its Failure.

        Where the events reach several sinks, an answer has an object per sink that it reached.
        """
        records = parts[0] if len(parts) == 1 else [record for part in parts for record in part]
        answered = self._answers.run(records)
        found: list[bytes | Failure]
        if self._only and not answered.failures and len(answered.answers[self._only].values) == len(records) and not self._readers:
            found = answered.answers[self._only].values  # type: ignore[assignment]  # a list that is only read
        else:
            found = self._each(len(records), answered.answers)
            for one in answered.failures:
                found[one.row] = one
        if len(parts) == 1:
            return [found]
        ends = np.cumsum([len(part) for part in parts]).tolist()
        return [found[end - len(part) : end] for part, end in zip(parts, ends, strict=True)]

    def _each(self, count: int, answers: Mapping[str, Any]) -> list[bytes | Failure]:
        written: list[list[bytes]] = [[] for _ in range(count)]
        for sink, answer in answers.items():
            reader, name = self._readers.get(sink), b"" if self._only else self._names[sink]
            for row, value in zip(answer.rows, answer.values, strict=True):
                written[row].append(name + (value if reader is None else _JSON(reader(value))))
        if self._only:
            return [one[0] if one else b"{}" for one in written]
        return [b"{" + b",".join(one) + b"}" for one in written]


def failed(one: Failure) -> bytes:
    """Returns a failed event as JSON among the answers of others."""
    return _JSON({"failure": failure(one.error)})


@dataclass
class _Topology:
    """A topology as a model: its tensors are the fields of the source that it reads, and those of the sinks."""

    name: str
    version: str
    answers: Answers
    inputs: Sequence[Tensor]
    optional: frozenset[str]
    lacking: str  # why no tensors can be sent to it
    platform: str = "penstock_topology"
    outputs: Sequence[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self._fields: dict[str, list[tuple[str, str]]] = {}  # by sink: the field, and the tensor that it becomes
        outputs = []
        for sink, output in self.answers.outputs.items():
            for one in output.emit.fields:
                name = one.name if len(self.answers.outputs) == 1 else f"{sink}.{one.name}"
                outputs.append(Tensor(name, one.dtype, one.shape))
                self._fields.setdefault(sink, []).append((one.name, name))
        self.outputs = outputs
        self._inputs = {tensor.name: tensor for tensor in self.inputs}
        self._alike = not any(None in tensor.shape for tensor in self.inputs)

    def fit(self, request: oip.Request) -> Columns:
        if self.lacking:
            raise Malformed(f"{self.name} takes no tensors: {self.lacking}; send events to POST /v1/topologies/NAME:score")
        _named(self.name, request, self._inputs, self.optional)
        rows = -1
        for given in request.inputs.values():
            tensor = self._inputs[given.name]
            if _FAMILIES[oip.DTYPES[given.datatype]] != _FAMILIES[tensor.dtype]:
                raise Malformed(f"input {given.name!r} is {given.datatype}, but {self.name} takes {oip.DATATYPES[tensor.dtype]}")
            rows = _shape(given, tensor, rows)
        return Columns(rows, request.inputs, _wanted(self, request))

    def run(self, parts: Sequence[Columns]) -> list[Scored | Exception]:
        return _grouped(parts, self._run, alike=self._alike)

    def _run(self, whole: _Whole) -> tuple[Mapping[str, Array], Sequence[Failure]]:
        answered = self.answers.run(Table(self.answers.source.topic, whole.columns, whole.nulls()), columns=True)
        failures = {one.row: one for one in answered.failures}
        columns: dict[str, tuple[Sequence[int], Array]] = {}  # by tensor: the rows that it has
        for sink, answer in answered.answers.items():
            for row in set(range(whole.rows)).difference(answer.rows, failures) if len(answer.rows) < whole.rows else ():
                failures[row] = Failure(
                    row, InferenceError(f"the event is not written to the sink {sink}: tensors have no gaps", where=sink)
                )
            for source, name in self._fields[sink]:
                columns[name] = answer.rows, answer.columns[source]
        outputs = {}
        for tensor in self.outputs:
            rows, array = columns[tensor.name]
            outputs[tensor.name] = _without_nulls(tensor, rows, array, failures) if array.dtype == object else array
        if failures:
            for name, array in outputs.items():
                outputs[name] = array[[at for at, row in enumerate(columns[name][0]) if row not in failures]]
        return outputs, [failures[row] for row in sorted(failures)]


def _without_nulls(tensor: Tensor, rows: Sequence[int], array: Array, failures: dict[int, Failure]) -> Array:
    """Returns an output without nulls: in numbers with a fraction they are NaN; for others, their rows fail."""
    flat = array.reshape(len(array), math.prod(array.shape[1:])).tolist()
    if tensor.dtype.startswith("float"):
        return np.array([[math.nan if value is None else value for value in row] for row in flat], tensor.dtype).reshape(array.shape)
    gone = [at for at, row in enumerate(flat) if None in row]
    for at in gone:
        why = f"{tensor.name} is null: tensors have no nulls, answers to events have"
        failures.setdefault(rows[at], Failure(rows[at], InferenceError(why)))
    return array if gone or tensor.dtype == "string" else array.astype(tensor.dtype)


@dataclass
class _Node:
    """One node of a topology as a model: its own model's tensors."""

    name: str
    version: str
    node: ModelNode | RuleNode
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    constants: Mapping[str, Feed]
    platform: str

    def __post_init__(self) -> None:
        self._inputs = {tensor.name: tensor for tensor in self.inputs}
        self._alike = not any(None in tensor.shape for tensor in self.inputs)
        self.optional = frozenset(self.constants)

    def fit(self, request: oip.Request) -> Columns:
        _named(self.name, request, self._inputs, self.optional)
        rows = -1
        for given in request.inputs.values():
            tensor = self._inputs[given.name]
            if oip.DTYPES[given.datatype] != tensor.dtype:
                raise Malformed(f"input {given.name!r} is {given.datatype}, but {self.name} takes {oip.DATATYPES[tensor.dtype]}")
            if given.nulls is not None:
                raise Malformed(f"input {given.name!r} has a null, which no model reads")
            rows = _shape(given, tensor, rows)
        return Columns(rows, request.inputs, _wanted(self, request))

    def run(self, parts: Sequence[Columns]) -> list[Scored | Exception]:
        return _grouped(parts, self._run, alike=self._alike)

    def _run(self, whole: _Whole) -> tuple[Mapping[str, Array], Sequence[Failure]]:
        columns = {name: np.ascontiguousarray(array) for name, array in whole.columns.items()}
        for name, constant in self.constants.items():
            if name not in columns:
                columns[name] = constant(columns)
        wanted = whole.outputs or tuple(tensor.name for tensor in self.outputs)
        batch = self._made(wanted).run(Batch(whole.rows, columns))
        return {name: batch.columns[name] for name in wanted if name in batch.columns}, batch.failures

    def _made(self, wanted: tuple[str, ...]) -> ModelNode | RuleNode:
        """Returns the node with its tensors as columns by their own names."""
        if isinstance(self.node, RuleNode):
            prefix = f"{self.node.name}."

            def bare(name: str) -> str:
                return name.removeprefix(prefix)

            inner = replace(self.node.inner, feeds=_straight(self.inputs), columns=tuple(map(bare, self.node.inner.columns)))
            doubts = tuple((bare(column), causes, tuple(map(bare, free))) for column, causes, free in self.node.doubts)
            return replace(self.node, inner=inner, doubts=doubts)
        shapes = {tensor.name: tensor.shape for tensor in self.outputs}
        axes = tuple(shapes[name] for name in wanted)
        return replace(
            self.node, feeds=_straight(self.inputs), outputs=wanted, columns=wanted, ragged=frozenset(), axes=axes, least=()
        )  # fmt: skip


def _straight(inputs: Sequence[Tensor]) -> tuple[tuple[str, Feed], ...]:
    def feed(name: str) -> Feed:
        return lambda columns: columns[name]

    return tuple((tensor.name, feed(tensor.name)) for tensor in inputs)


def _named(model: str, request: oip.Request, inputs: Mapping[str, Tensor], optional: frozenset[str]) -> None:
    if len(request.inputs) == len(inputs) and request.inputs.keys() == inputs.keys():
        return
    for name in request.inputs:
        if name not in inputs:
            raise Malformed(f"{model} has no input {name!r}; {did_you_mean(name, inputs)}")
    if missing := [name for name in inputs if name not in request.inputs and name not in optional]:
        raise Malformed(f"{model} needs the input{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))}")
    if not request.inputs:
        raise Malformed(f"{model} needs an input: nothing else says how many rows there are")


def _wanted(model: Model, request: oip.Request) -> tuple[str, ...] | None:
    if request.outputs is None:
        return None
    known = {tensor.name for tensor in model.outputs}
    names: dict[str, None] = {}
    for one in request.outputs:
        if one.name not in known:
            raise Malformed(f"{model.name} has no output {one.name!r}; {did_you_mean(one.name, sorted(known))}")
        if one.name in names:  # each would be written: a request of 8 MB can name one 400,000 times
            raise Malformed(f"output {one.name!r} is asked for twice")
        names[one.name] = None
    return tuple(names) or None


def _shape(given: oip.Tensor, tensor: Tensor, rows: int) -> int:
    """Gives the tensor the axes that the model reads: [N] and [N, 1] are the same column. Returns its rows. Raises Malformed."""
    shape, axes = given.shape, tensor.shape
    if len(shape) != len(axes) + 1:
        if shape[1:] == (1,) and not axes:
            given.shape = shape[:1]
        elif len(shape) == 1 and axes in ((1,), (None,)):
            given.shape = (shape[0], 1)
        else:
            raise Malformed(_unshaped(given, tensor))
    elif axes and any(size is not None and size != axis for size, axis in zip(axes, shape[1:], strict=True)):
        raise Malformed(_unshaped(given, tensor))
    if rows not in (-1, shape[0]):
        raise Malformed(f"input {given.name!r} has {shape[0]} rows, but another input has {rows}")
    if not shape[0]:
        raise Malformed(f"input {given.name!r} has no rows")
    return shape[0]


def _unshaped(given: oip.Tensor, tensor: Tensor) -> str:
    wanted = [-1, *(-1 if axis is None else axis for axis in tensor.shape)]
    return f"input {given.name!r} has the shape {list(given.shape)}, but {wanted} is read, the rows first"


_FAMILIES: Final = {dtype: dtype if dtype in ("bool", "string") else "number" for dtype in oip.DATATYPES}  # what a field takes alike


class _Whole:
    """The tensors of several requests together: `[N, ...]` by name, and the outputs that any of them asks for (None: all)."""

    def __init__(self, parts: Sequence[Columns]) -> None:
        self.rows = sum(part.rows for part in parts)
        self._parts = parts
        self.columns = {name: oip.joined([part.tensors[name] for part in parts]) for name in parts[0].tensors}
        self.outputs: tuple[str, ...] | None = None
        if all(part.outputs is not None for part in parts):
            self.outputs = tuple(dict.fromkeys(name for part in parts for name in part.outputs or ()))

    def nulls(self) -> dict[str, Array]:
        """Returns the rows of each tensor with a null in it, where there are any."""
        found: dict[str, Array] = {}
        for name in self.columns:
            if any(part.tensors[name].nulls is not None for part in self._parts):
                found[name] = np.concatenate([gaps(part.tensors[name], part.rows) for part in self._parts])
        return found


def gaps(tensor: oip.Tensor, rows: int) -> Array:
    """Returns the rows of a tensor with a null in it: bool [N]."""
    return np.zeros(rows, bool) if tensor.nulls is None else np.logical_or.reduce(tensor.nulls.reshape(rows, -1), axis=1)


Run = Callable[[_Whole], tuple[Mapping[str, Array], Sequence[Failure]]]


def _grouped(parts: Sequence[Columns], run: Run, *, alike: bool) -> list[Scored | Exception]:
    """Runs the parts together as far as their tensors have the same names and axes, and divides what came out.

    `alike`: the axes of all tensors are fixed, so only the names may differ.
    """
    outcomes: list[Scored | Exception] = [Scored({}, ())] * len(parts)
    groups: dict[Any, list[int]] = {}
    for at, part in enumerate(parts):
        key = tuple(part.tensors) if alike else tuple((name, one.shape[1:]) for name, one in part.tensors.items())
        groups.setdefault(key, []).append(at)
    for members in groups.values():
        those = [parts[at] for at in members]
        outputs, failures = run(_Whole(those))
        if len(those) == 1:
            outcomes[members[0]] = Scored({} if failures else outputs, failures)
            continue
        start = 0
        for at, part in zip(members, those, strict=True):
            end, skip = start + part.rows, 0
            if failures:
                if here := [Failure(one.row - start, one.error) for one in failures if start <= one.row < end]:
                    outcomes[at] = Scored({}, here)
                    start = end
                    continue
                skip = sum(one.row < start for one in failures)  # rows that failed are not in the arrays
            outcomes[at] = Scored({name: array[start - skip : end - skip] for name, array in outputs.items()}, ())
            start = end
    return outcomes


class Live:
    """Everything that can be asked of one program. `about` describes it in the headers of answers, and `parameters` in OIP's."""

    def __init__(
        self, program: Program, generation: int, loaded: Loaded, *, chunk_rows: int, metrics: Metrics, observers: Observers | None = None
    ) -> None:
        plan = program.plan
        wired = Wiring(loaded.topology, tuple(stage.wired for stage in plan.stages.values()))
        written = {sink.topic for sink in loaded.topology.sinks}
        entries = [one.name for one in loaded.topology.sources if one.topic not in written and one.name in plan.stages]
        program = replace(program, ports=ports(wired, loaded, json=entries))
        self.name, self.generation = plan.topology, generation
        self.versions = dict(plan.versions)
        models = ",".join(f"{node}={version}" for node, version in plan.versions.items())
        self.about = (
            (b"penstock-generation", b"%d" % generation),
            (b"penstock-models", models.encode()),
            (b"penstock-variant", LIVE.encode()),
        )
        self.parameters: Mapping[str, Any] = {"generation": generation, "models": models, "variant": LIVE}
        self.events: dict[str, Events] = {}
        self.models: dict[str, Model] = {}
        for source in entries:
            answers = Answers(program, source, generation=generation, chunk_rows=chunk_rows, metrics=metrics, observers=observers)
            self.events[source] = Events(answers, loaded, program.ports[source])
            name = self.name if len(entries) == 1 else f"{self.name}.{source}"
            self.models[name] = _topology(name, answers, loaded, str(generation))
        for one in _nodes(program, self.name):
            self.models.setdefault(one.name, one)

    def model(self, name: str, version: str = "") -> Model:
        """Returns a model by its name. Raises NotThere; also for a version that is not live."""
        found = self.models.get(name)
        if found is None:
            raise NotThere(f"there is no model {name!r}; {did_you_mean(name, self.models)}")
        if version and version != found.version:
            raise NotThere(f"{name} has the version {found.version} now, not {version}: another one comes by a release (penstock deploy)")
        return found

    def source(self, name: str = "") -> Events:
        """Returns the events of a source; its name may be left out where there is one. Raises NotThere, Malformed."""
        if name in self.events:
            return self.events[name]
        if name:
            raise NotThere(f"{self.name} has no source {name!r} to send events to; {did_you_mean(name, self.events)}")
        if len(self.events) > 1:
            raise Malformed(f"{self.name} has several sources: name one of them, ?source={' or ?source='.join(self.events)}")
        return next(iter(self.events.values()))


def _topology(name: str, answers: Answers, loaded: Loaded, version: str) -> _Topology:
    schema = loaded.schemas[answers.source.name]
    inputs, optional, lacking = [], set(), ""
    order = {one.name: at for at, one in enumerate(schema.fields)}
    for path in sorted(answers.reads, key=lambda one: (order.get(one.partition(".")[0], len(order)), one)):
        found = schema.field(path)
        if found is None or not found.dtype:
            lacking = f"the field {path} has no type that a tensor has"
            continue
        inputs.append(Tensor(path, found.dtype, found.shape))
        if found.optional or found.default is not REQUIRED:
            optional.add(path)
    return _Topology(name, version, answers, inputs, frozenset(optional), lacking)


def _nodes(program: Program, topology: str) -> Iterator[_Node]:
    seen = set()
    for stage in program.plan.stages.values():
        for node, step in zip(stage.nodes, stage.wired.steps, strict=True):
            if node.name in seen or node.name.endswith("?"):
                continue
            seen.add(node.name)
            if not isinstance(node, ModelNode | RuleNode):
                continue
            inner = node.inner if isinstance(node, RuleNode) else node
            if not isinstance(inner.model, Session):
                continue
            feeds = dict(inner.feeds)
            constants = {one.tensor.name: feeds[one.tensor.name] for one in step.feeds if one.constant is not None}
            name = f"{topology}.{node.name}"
            if isinstance(node, RuleNode):
                inputs = tuple(one.tensor for one in step.feeds)
                yield _Node(name, node.version.rpartition(":")[2], node, inputs, step.outputs, constants, "penstock_rule")
            else:
                signature = inner.model.signature
                version = node.version.rpartition("@")[2]
                yield _Node(name, version, node, signature.inputs, signature.outputs, constants, "onnxruntime_onnx")
