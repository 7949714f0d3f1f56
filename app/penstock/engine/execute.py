"""The hot loop."""

from __future__ import annotations

from collections.abc import Callable

from penstock.batch import Batch
from penstock.engine.plan import Stage

__all__ = ["execute"]


Tell = Callable[[str, int, int], None]


def execute(stage: Stage, batch: Batch, *, isolate: bool = True, tell: Tell | None = None) -> Batch:
    """Runs a decoded batch through the stage's nodes; their outputs are new columns, failed rows ride along.

    `isolate=False` raises InferenceError where a model raises, instead of looking for the guilty rows, which can take
    as many runs as there are rows: a caller on an event loop does that elsewhere.

    `tell` is called after each node with its name, the rows that entered it, and the rows that go on: the clock is the caller's.
    """
    for node in stage.nodes:
        if not batch.size:
            break
        rows = batch.size
        batch = node.run(batch, isolate=isolate)
        if tell is not None:
            tell(node.name, rows, batch.size)
    return batch
