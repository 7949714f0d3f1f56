"""The hot loop."""

from __future__ import annotations

from penstock.batch import Batch
from penstock.engine.plan import Stage

__all__ = ["execute"]


def execute(stage: Stage, batch: Batch, *, isolate: bool = True) -> Batch:
    """Runs a decoded batch through the stage's nodes; their outputs are new columns, failed rows ride along.

    `isolate=False` raises InferenceError where a model raises, instead of looking for the guilty rows, which can take
    as many runs as there are rows: a caller on an event loop does that elsewhere.
    """
    for node in stage.nodes:
        if not batch.size:
            break
        batch = node.run(batch, isolate=isolate)
    return batch
