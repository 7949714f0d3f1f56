"""The hot loop: rows through the nodes of a stage. It computes, and does nothing else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from penstock.batch import Array, Batch
from penstock.engine.plan import Stage
from penstock.errors import InferenceError
from penstock.nodes import HASTY, WHOLE, Context, Node
from penstock.state import States
from penstock.topology.wiring import Step

__all__ = ["Execution", "execute"]


Tell = Callable[[str, int, int], None]


class Execution:
    """A batch on its way through a stage: what was computed so far, and which node is next."""

    __slots__ = ("_raised", "batch", "next", "stage", "states")

    def __init__(self, stage: Stage, batch: Batch, states: States | None = None) -> None:
        self.stage = stage
        self.states = states
        self.batch = batch
        self.next = 0
        self._raised: InferenceError | None = None  # by the next node, over the whole batch

    def run(self, *, isolate: bool = True, tell: Tell | None = None) -> Batch:
        """Runs the nodes that are left; their outputs are new columns, and failed rows stay in the batch.

        `isolate=False` raises InferenceError where a model raises, instead of looking for the guilty rows, which can take as
        many runs as there are rows. A second call continues at the node that raised, with everything that was computed before.

        `tell` is called after each node that ran, with its name, the rows that entered it, and how many of them remain: the clock is the
        caller's.
        """
        nodes, steps, states = self.stage.nodes, self.stage.wired.steps, self.states
        context = (WHOLE if isolate else HASTY) if states is None else Context(isolate, states=states)
        while self.next < len(nodes) and (rows := self.batch.size):
            node, step = nodes[self.next], steps[self.next]
            now = context if self._raised is None else Context(isolate, self._raised, states)
            at = None if step.node.when is None else np.flatnonzero(self.batch.columns[step.node.when.column])
            try:
                batch = node.run(self.batch, now) if at is None or len(at) == rows else _partly(node, step, self.batch, at, now)
            except InferenceError as error:
                self._raised = error
                raise
            entered = rows if at is None else len(at)
            left = entered - (rows - batch.size)
            self.batch, self._raised = batch, None
            self.next += 1
            if tell is not None and entered:
                tell(node.name, entered, left)
        return self.batch


def _partly(node: Node, step: Step, batch: Batch, at: Array, context: Context) -> Batch:
    """Returns the batch with the node's columns, computed for the rows at these positions. The others hold anything: nothing reads it."""
    columns = {name: batch.columns[name] for name in step.reads}
    part = Batch(batch.size, columns, batch.rows, origin=batch.origin).take(at)
    done = node.run(part, context) if len(at) else part
    assert part.rows is not None, "rows that were picked have numbers"
    assert done.rows is not None, "and keep them"
    survived = at[np.isin(part.rows, done.rows)]
    made = {}
    for tensor, name, least in zip(step.outputs, step.columns, step.least, strict=True):
        found = done.columns.get(name) if done.size else None
        axes = (*(axis or max(least, 1) for axis in tensor.shape),) if found is None else found.shape[1:]
        column = np.full((batch.size, *axes), "", object) if tensor.dtype == "string" else np.zeros((batch.size, *axes), tensor.dtype)
        if found is not None:
            column[survived] = found
        made[name] = column
    numbers = range(batch.size) if batch.rows is None else batch.rows.tolist()
    places = {number: place for place, number in enumerate(numbers)} if done.failures else {}
    return batch.with_columns(made).fail({places[one.row]: one.error for one in done.failures})


def execute(stage: Stage, batch: Batch) -> Batch:
    """Returns the batch with the columns of all nodes of the stage; failed rows stay in the batch."""
    return Execution(stage, batch).run()
