"""The hot loop: rows through the nodes of a stage. It computes, and does nothing else."""

from __future__ import annotations

from collections.abc import Callable

from penstock.batch import Batch
from penstock.engine.plan import Stage
from penstock.errors import InferenceError
from penstock.nodes import HASTY, WHOLE, Context

__all__ = ["Execution", "execute"]


Tell = Callable[[str, int, int], None]


class Execution:
    """A batch on its way through a stage: what was computed so far, and which node is next."""

    __slots__ = ("_raised", "batch", "next", "stage")

    def __init__(self, stage: Stage, batch: Batch) -> None:
        self.stage = stage
        self.batch = batch
        self.next = 0
        self._raised: InferenceError | None = None  # by the next node, over the whole batch

    def run(self, *, isolate: bool = True, tell: Tell | None = None) -> Batch:
        """Runs the nodes that are left; their outputs are new columns, and failed rows stay in the batch.

        `isolate=False` raises InferenceError where a model raises, instead of looking for the guilty rows, which can take as
        many runs as there are rows. A second call continues at the node that raised, with everything that was computed before.

        `tell` is called after each node with its name, the rows that entered it, and the rows that remain: the clock is the caller's.
        """
        nodes, context = self.stage.nodes, WHOLE if isolate else HASTY
        while self.next < len(nodes) and (rows := self.batch.size):
            node = nodes[self.next]
            try:
                self.batch = node.run(self.batch, context if self._raised is None else Context(isolate, self._raised))
            except InferenceError as error:
                self._raised = error
                raise
            self._raised = None
            self.next += 1
            if tell is not None:
                tell(node.name, rows, self.batch.size)
        return self.batch


def execute(stage: Stage, batch: Batch) -> Batch:
    """Returns the batch with the columns of all nodes of the stage; failed rows stay in the batch."""
    return Execution(stage, batch).run()
