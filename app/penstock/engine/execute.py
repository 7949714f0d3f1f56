"""The hot loop: rows through the nodes of a stage. It computes, and does nothing else."""

from __future__ import annotations

from penstock.batch import Batch
from penstock.engine.plan import Stage
from penstock.nodes import HASTY, WHOLE

__all__ = ["Execution", "execute"]


class Execution:
    """A batch on its way through a stage: what was computed so far, and which node is next."""

    __slots__ = ("batch", "next", "stage")

    def __init__(self, stage: Stage, batch: Batch) -> None:
        self.stage = stage
        self.batch = batch
        self.next = 0

    def run(self, *, isolate: bool = True) -> Batch:
        """Runs the nodes that are left; their outputs are new columns, failed rows ride along.

        `isolate=False` raises InferenceError where a model raises, instead of looking for the guilty rows, which can take as
        many runs as there are rows. A second call goes on at the node that raised, with everything that was computed before.
        """
        nodes, context = self.stage.nodes, WHOLE if isolate else HASTY
        while self.next < len(nodes) and self.batch.size:
            self.batch = nodes[self.next].run(self.batch, context)
            self.next += 1
        return self.batch


def execute(stage: Stage, batch: Batch) -> Batch:
    """The batch with the columns of all nodes of the stage; failed rows ride along."""
    return Execution(stage, batch).run()
