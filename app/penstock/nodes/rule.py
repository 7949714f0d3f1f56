"""A rule over the columns of a batch: its graph runs like a model, and marks the rows for which an expression has a value. Others fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from penstock.batch import Batch
from penstock.errors import InferenceError
from penstock.expressions import FREE, OK
from penstock.nodes.base import WHOLE, Context, Feeds
from penstock.nodes.model import ModelNode, Runs, ragged
from penstock.topology.wiring import Step

__all__ = ["RuleNode", "make"]


@dataclass(frozen=True, slots=True)
class RuleNode:
    """The graph of a rule as a model. `doubts` are the columns that mark the rows with a value, each with the failures of the others, and
    with the columns that mark the rows without the first failure, the second and so on, but for the last.
    """

    inner: ModelNode
    doubts: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]
    stateful: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def version(self) -> str:
        return self.inner.version

    def with_model(self, change: Callable[[ModelNode], ModelNode]) -> RuleNode:
        """Returns the node with another model around or in place of this one."""
        return replace(self, inner=change(self.inner))

    def run(self, batch: Batch, context: Context = WHOLE) -> Batch:
        """Returns the batch with this node's columns. Rows without a value fail whatever `context` says: they are known."""
        found = self.inner.run(batch, context)
        if not self.doubts:
            return found
        errors: dict[int, InferenceError] = {}
        for column, causes, free in self.doubts:
            ok = found.columns.get(column)
            if ok is not None and not ok.all():
                for row in np.flatnonzero(~ok).tolist():
                    which = next((number for number, name in enumerate(free) if not found.columns[name][row]), len(free))
                    errors.setdefault(row, InferenceError(causes[which], where=self.name))
        hidden = {name for column, _, free in self.doubts for name in (column, *free)}
        kept = Batch(
            found.size, {name: one for name, one in found.columns.items() if name not in hidden}, found.rows, found.failures, found.origin
        )
        return kept.fail(errors)


def make(step: Step, feeds: Feeds, model: Runs | None, version: str) -> RuleNode:
    """Returns the node of a step. Raises ValueError when its graph was not loaded."""
    name, graph = step.node.name, step.graph
    if model is None or graph is None:
        raise ValueError(f"nodes.{name}: its graph was not given")
    read = [tensor.name for tensor in step.outputs]
    doubts = {output: graph.doubts[output] for output in read if output in graph.doubts}
    free = {output: [FREE.format(output, number) for number in range(1, len(causes))] for output, causes in doubts.items()}
    marks = [tensor for output in doubts for tensor in (OK.format(output), *free[output])]
    columns = {output: f"{name}.{output}" for output in (*read, *marks)}
    axes = (*(tensor.shape for tensor in step.outputs), *(() for _ in marks))
    least = step.least if any(step.least) else ()
    inner = ModelNode(name, version, model, feeds, tuple(columns), tuple(columns.values()), ragged(step), axes, least)
    return RuleNode(
        inner,
        tuple(
            (
                columns[OK.format(output)],
                tuple(f"{output} has no value for the event: {cause}" for cause in causes),
                tuple(columns[tensor] for tensor in free[output]),
            )
            for output, causes in doubts.items()
        ),
    )
