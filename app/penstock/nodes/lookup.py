"""A lookup over the columns of a batch: fields of the row that each event's key has in a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from penstock.batch import Array, Batch
from penstock.nodes.base import WHOLE, Context, Feed, Feeds
from penstock.nodes.model import Runs
from penstock.nodes.recalled import note, recall
from penstock.signature import Tensor
from penstock.topology.kinds.reads import KEY, TIME, TIME_US
from penstock.topology.spec import FOUND, there
from penstock.topology.spec import LookupNode as Spec
from penstock.topology.wiring import Step
from penstock.windows import keys_of

__all__ = ["LookupNode", "make"]


@dataclass(frozen=True, slots=True)
class LookupNode:
    """`by` makes the columns of the key; `time` is None where the record's timestamp is it, or the table has no history.

    `scale` is how many units of the time are a millisecond; `outputs` are the columns that are read, by output.
    """

    name: str
    table: str
    by: tuple[Feed, ...]
    time: Feed | None
    scale: int
    historical: bool
    outputs: Mapping[str, str]
    tensors: Mapping[str, Tensor]
    version: str = ""
    stateful: ClassVar[bool] = False

    def run(self, batch: Batch, context: Context = WHOLE) -> Batch:
        """Returns the batch with the fields. Without the tables of a stream, rows have the fields that they had when they were scored."""
        states = context.states
        if states is None or batch.origin is None or self.table not in states.tables:
            return recall(batch, self.name, self.tensors, f"the table {self.table} is not known here", blank=True)
        columns, rows = batch.columns, states.tables[self.table]
        times = None
        if self.historical:
            times = (batch.timestamps if self.time is None else self.time(columns) // self.scale).tolist()
        places = rows.find(keys_of([feed(columns) for feed in self.by]), times)
        read: dict[str, Array] = {}
        for output in self.outputs:
            if output not in read and output in rows:
                read[output], read[there(output)] = rows.read(output, places)
        read.setdefault(FOUND, places >= 0)
        made = {column: read[output] for output, column in self.outputs.items()}
        note(batch, self.name, made, np.ones(batch.size, bool))
        return batch.with_columns(made)


def make(step: Step, feeds: Feeds, model: Runs | None, version: str) -> LookupNode:
    """Returns the node of a step; `version` names what it looks up."""
    node, given = step.node, dict(feeds)
    assert isinstance(node, Spec), "the table of makers is by class"
    time = next((name for name in (TIME, TIME_US) if name in given), None)
    return LookupNode(
        node.name,
        node.table,
        tuple(given[f"{KEY}.{number}"] for number in range(len(node.by))),
        None if time is None else given[time],
        1000 if time == TIME_US else 1,
        node.historical,
        {tensor.name: column for tensor, column in zip(step.outputs, step.columns, strict=True)},
        dict(zip(step.columns, step.outputs, strict=True)),
        version,
    )
