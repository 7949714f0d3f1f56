"""A window over the columns of a batch: features of the events of each row's key that came before it, from the state of its partition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Final

import numpy as np

from penstock.batch import Array, Batch
from penstock.errors import InferenceError, RecordError
from penstock.nodes.base import WHOLE, Context, Feed, Feeds
from penstock.nodes.model import Runs
from penstock.nodes.recalled import note, recall
from penstock.signature import Tensor
from penstock.topology.kinds.reads import KEY, TIME, TIME_US
from penstock.topology.kinds.window import DISTINCT, LATE, VALUE, WHERE
from penstock.topology.spec import Feature, Ref, Topology
from penstock.topology.spec import WindowNode as Spec
from penstock.topology.wiring import Step
from penstock.windows import Aggregate, Definition, LookBack, Mark, Windowed, keys_of, open_partition

__all__ = ["WindowNode", "changelogs", "definition", "make"]

_COUNTED: Final = (Mark.LATE, Mark.REPLAYED, Mark.DISORDERED)


@dataclass(frozen=True, slots=True)
class WindowNode:
    """`by`, `time`, `values` and `columns` make the columns of a window; `scale` is how many units of the time are a millisecond.

    `columns` are taken as they are: those of filters, and those that `distinct` counts.

    `outputs` are the columns of the features that are read, by output, and `tensors` these by column.
    """

    name: str
    definition: Definition
    by: tuple[Feed, ...]
    time: Feed | None
    scale: int
    values: Mapping[str, Feed]
    columns: Mapping[str, Feed]
    outputs: Mapping[str, str]
    tensors: Mapping[str, Tensor]
    version: str = ""
    stateful: ClassVar[bool] = True

    def run(self, batch: Batch, context: Context = WHOLE) -> Batch:
        """Returns the batch with the features. Rows whose time is in the future fail.

        Without the states of a stream rows have the features that they had when they were scored; others fail, as what came before them
        is not known.
        """
        columns, states = batch.columns, context.states
        if states is None or batch.origin is None:
            return recall(batch, self.name, self.tensors, "its features depend on the events before, which are not known here")
        keys = keys_of([feed(columns) for feed in self.by])
        times = batch.timestamps if self.time is None else self.time(columns) // self.scale
        values = {name: feed(columns).astype(np.float64) for name, feed in self.values.items()}
        values |= {name: feed(columns) for name, feed in self.columns.items()}
        now, (partitions, offsets) = int(states.clock() * 1000), states.order(batch.partitions, batch.offsets)
        events = batch.events
        parts: list[tuple[Array, Windowed]] = []
        for partition in np.unique(partitions).tolist():
            rows = np.flatnonzero(partitions == partition)
            state = states.at(self.name, partition, partial(open_partition, self.definition))
            of = {name: column[rows] for name, column in values.items()}
            came = None if events is None else [events[row] for row in rows.tolist()]
            parts.append((rows, state.run([keys[row] for row in rows.tolist()], times[rows], offsets[rows], of, now, came)))
        made, marks = _together(parts, batch.size)
        states.note(self.name, {str(mark.name).lower(): int(np.count_nonzero(marks & mark)) for mark in _COUNTED})
        late = (marks & Mark.LATE) != 0
        features = {column: late if name == LATE else made[name] for name, column in self.outputs.items()}
        note(batch, self.name, features, (marks & Mark.FUTURE) == 0)
        return batch.with_columns(features).fail(self._ahead(times, marks, now))

    def _ahead(self, times: Array, marks: Array, now: int) -> dict[int, RecordError]:
        most = f"more than {self.definition.ahead / 1000:g} s (ahead)"
        found: dict[int, RecordError] = {}
        for row in np.flatnonzero(marks & Mark.FUTURE).tolist():
            ahead = (int(times[row]) - now) / 1000
            text = (
                f"the event is {ahead:,.0f} s ahead of the clock, {most}" if ahead > 0 else f"{int(times[row])} ms is not a time of events"
            )
            found[row] = InferenceError(text, where=self.name)
        return found


def _together(parts: Sequence[tuple[Array, Windowed]], size: int) -> tuple[Mapping[str, Array], Array]:
    if len(parts) == 1:
        return parts[0][1]
    made = {name: np.empty((size, *one.shape[1:]), one.dtype) for name, one in parts[0][1].columns.items()}
    marks = np.empty(size, np.uint8)
    for rows, found in parts:
        marks[rows] = found.marks
        for name, column in found.columns.items():
            made[name][rows] = column
    return made, marks


def make(step: Step, feeds: Feeds, model: Runs | None, version: str) -> WindowNode:
    """Returns the node of a step; `version` is the beginning of the name of its state."""
    node = step.node
    assert isinstance(node, Spec), "the table of makers is by class"
    given = dict(feeds)
    time = next((name for name in (TIME, TIME_US) if name in given), None)
    return WindowNode(
        node.name,
        definition(node),
        tuple(given[f"{KEY}.{number}"] for number in range(len(node.by))),
        None if time is None else given[time],
        1000 if time == TIME_US else 1,
        {_value(node, one): given[f"{VALUE}.{one.of.text}"] for one in node.features if one.of is not None and one.kind != "distinct"},
        {
            **{
                _value(node, one): given[f"{DISTINCT}.{one.of.text}"]
                for one in node.features
                if one.of is not None and one.kind == "distinct"
            },
            **{_filter(node, one.where): given[f"{WHERE}.{one.where.text}"] for one in node.features if one.where is not None},
        },
        {tensor.name: column for tensor, column in zip(step.outputs, step.columns, strict=True)},
        dict(zip(step.columns, step.outputs, strict=True)),
        version,
    )


def definition(node: Spec) -> Definition:
    """Returns what a window node of a file computes. Its columns are named by what they mean: another rule is another state."""
    return Definition(
        by=tuple(_meaning(node, one) for one in node.by),
        aggregates=tuple(Aggregate(one.name, one.kind, _value(node, one), _filter(node, one.where), one.k, one.q) for one in node.features),
        look_backs=tuple(LookBack(name, length, node.hops) for name, length in node.over),
        exact=node.exact,
        include_self=node.include_self,
        late=node.late,
        lateness=node.lateness_ms,
        ahead=node.ahead_ms,
        cap=node.max_keys,
        about=(
            node.clock if node.time is None else _meaning(node, node.time),
            "" if node.when is None else _meaning(node, node.when.ref),
        ),
    )


def changelogs(topology: Topology, prefix: str) -> dict[str, str]:
    """Returns the topic of each window's changelog, by node; another definition has another one. `prefix` begins the names."""
    return {node.name: f"{prefix}.{node.name}.{definition(node).state}" for node in topology.windows}


def _value(node: Spec, one: Feature) -> str:
    """Returns what a value means: of a distinct count another column than of a number, since it keeps its type."""
    return f"{_meaning(node, one.of)}#" if one.kind == "distinct" else _meaning(node, one.of)


def _filter(node: Spec, found: Ref | None) -> str:
    """Returns what a filter means: another column than the same reference as a value, where null is no value."""
    return f"{_meaning(node, found)}?" if found is not None else ""


def _meaning(node: Spec, found: Ref | None) -> str:
    if found is None:
        return ""
    rule = dict(node.rules).get(found.text)
    return found.text if rule is None else f"{found.text} {rule}"
