"""Wiring: every name of a topology resolved to the column that it means, stage by stage; `engine.compile` turns it into a plan.

Values only. `penstock.topology.check.wire` makes them, and reports every problem that it finds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from penstock.expressions import Graph
from penstock.joins import Quorum
from penstock.schema import Column, Missing
from penstock.signature import Tensor
from penstock.topology.spec import Constant, Match, Node, Sink, Source, Topology

__all__ = ["Each", "Emit", "Feed", "Gap", "Input", "Joined", "Matched", "Nan", "OutputField", "Part", "Stage", "Step", "Wiring"]


@dataclass(frozen=True, slots=True)
class Gap:
    """The rows for which a part has no value: those for which the column `when` is false. They get `fill`, or are null without one.

    `dtype` and `axes` are those of the filled part.
    """

    when: str
    fill: Constant | None = None
    dtype: str = ""
    axes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Nan:
    """What takes the place of NaN: a number, or null."""

    fill: float | None


@dataclass(frozen=True, slots=True)
class Part:
    """A column of the batch, or one element of its last axis. Columns of a node are named `node.output`.

    `cast` is the dtype that it is read as, "" for its own. `nan` is what becomes of NaN, which is null in the column: the
    number of a `missing`, or null; without it, NaN stays.
    """

    column: str
    index: int | None = None
    gap: Gap | None = None
    cast: str = ""
    nan: Nan | None = None


@dataclass(frozen=True, slots=True)
class Feed:
    """One input tensor of a step: one part, reshaped to the tensor's axes, or several stacked along the last axis.

    Without a part it is a parameter: every row gets `constant`. Its tensor keeps the open axes of the model, because a
    release may replace the constant. `how` is as in `spec.Input`; "rows" is an array whose rows have different lengths: rows of one length
    run together.
    """

    tensor: Tensor
    parts: tuple[Part, ...]
    stacked: bool = False
    constant: Constant | None = None
    how: Literal["", "reshape", "pad", "mask", "rows"] = ""
    pad: Constant | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """A node in its stage: its feeds, and the outputs that something reads (the node computes only these).

    `graph` is the ONNX file of a node that the topology itself computes; a release binds the others. `least` is how long the last
    axis of each output has to be for the elements of it that are read by `[INDEX]`: where the axis is open, a model may give fewer.
    `key` is that of the records that a materialised node's outputs become, None for the event's.
    """

    node: Node
    feeds: tuple[Feed, ...]
    outputs: tuple[Tensor, ...]
    graph: Graph | None = None
    least: tuple[int, ...] = ()
    key: Part | None = None

    @property
    def reads(self) -> frozenset[str]:
        """The columns that the feeds are made of, that of the condition, and that of the key, if it is no output."""
        parts = [part for feed in self.feeds for part in feed.parts]
        others = [self.when, *(part.gap.when for part in parts if part.gap is not None)]
        if self.key is not None and self.key.column not in self.columns:
            others.append(self.key.column)
        return frozenset([*(part.column for part in parts), *(one for one in others if one is not None)])

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the outputs become."""
        return tuple(f"{self.node.name}.{tensor.name}" for tensor in self.outputs)

    @property
    def when(self) -> str | None:
        """The column that is true for the rows that the node computes; None: all rows."""
        return None if self.node.when is None else self.node.when.column


@dataclass(frozen=True, slots=True)
class OutputField:
    """A field of an output event: its name, the part that fills it, and the type and axes of one value.

    Between two stages, `missing` says whether null, or NaN in its place, may be written, and is read again.
    """

    name: str
    part: Part
    dtype: str
    shape: tuple[int | None, ...] = ()
    missing: Missing = Missing()  # noqa: RUF009  it is frozen


@dataclass(frozen=True, slots=True)
class Emit:
    """What a stage writes to a sink. `key` None keeps the input's key; a key column is a string or integer column."""

    sink: Sink
    fields: tuple[OutputField, ...]
    key: Part | None = None

    @property
    def when(self) -> str | None:
        """The column that is true for the rows that are written; None: all rows."""
        return None if self.sink.when is None else self.sink.when.column


@dataclass(frozen=True, slots=True)
class Input:
    """One topic that a stage reads: its source, the columns that its events are decoded into, and which of these is their id.

    `behind` is the materialised node whose stage writes the topic; "" of a source of the file. `unit` is the column of what is assigned
    as a whole while a release is on trial.
    """

    source: Source
    columns: tuple[Column, ...]
    id: str | None = None
    behind: str = ""
    unit: str | None = None


@dataclass(frozen=True, slots=True)
class Each:
    """How a stage gathers its rows: each event on its own."""


@dataclass(frozen=True, slots=True)
class Joined:
    """How a stage gathers its rows: the records of one event id, one of each input, as far as `quorum` waits for them.

    The members of the quorum are the nodes behind which the inputs are, in their order. Several inputs have the columns in `shared`;
    `fills` has, by member, the value of the other columns of one that is missing.
    """

    quorum: Quorum
    shared: tuple[str, ...]
    fills: Mapping[str, Constant]


@dataclass(frozen=True, slots=True)
class Matched:
    """How a stage gathers its rows: pairs of an event of its first input, and one of its second, as `match` says.

    `by` are the columns of the key of both, `times` the column of the event time (ms, or us with `scales` 1000) of both; "" is the
    record's timestamp. `state` is the name of what is remembered: another match is another one.
    """

    match: Match
    by: tuple[tuple[str, ...], tuple[str, ...]]
    times: tuple[str, str]
    scales: tuple[int, int]
    state: str

    @property
    def remembers(self) -> tuple[str, str]:
        """The names under which the left and the right side are remembered. No node has such a name."""
        return f"{self.match.name}.left", f"{self.match.name}.right"


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything that an event goes through in one process: decode the inputs' columns, gather, run `steps` in order, write `emits`.

    The name of a stage with one input is the name of its source.
    """

    name: str
    inputs: tuple[Input, ...]
    steps: tuple[Step, ...]
    emits: tuple[Emit, ...]
    gather: Each | Joined | Matched = Each()

    @property
    def source(self) -> Source:
        """The source of a stage; of one that joins or matches, that of its first input."""
        return self.inputs[0].source

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics that it reads."""
        return tuple(one.source.topic for one in self.inputs)


@dataclass(frozen=True, slots=True)
class Wiring:
    """A topology with every name resolved. `stages` come in an order in which each stands after those that feed it."""

    topology: Topology
    stages: tuple[Stage, ...]

    @property
    def graphs(self) -> dict[str, Graph]:
        """The graphs of the nodes that the topology itself computes, by node, in the order of the file."""
        found = {step.node.name: step.graph for stage in self.stages for step in stage.steps if step.graph is not None}
        return {node.name: found[node.name] for node in self.topology.nodes if node.name in found}
