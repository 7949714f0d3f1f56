"""A model over the columns of a batch: features, models and ensembles differ only in how they are wired, so there is one node for them.

A model that raises over a batch is run again for each half, and so on down to the guilty rows: they fail, the other
rows are not affected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from penstock.batch import Array, Batch
from penstock.errors import InferenceError, RecordError
from penstock.nodes.base import WHOLE, Context, Feeds
from penstock.topology.fit import Axes, fit
from penstock.topology.wiring import Step

__all__ = ["ModelNode", "Runs", "make", "ragged"]


class Runs(Protocol):
    """A loaded model: `penstock.model.session.Session`, or anything that runs like one."""

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Returns the named outputs for the named inputs, first axes equal. Raises InferenceError."""


@dataclass(frozen=True, slots=True)
class ModelNode:
    """`model`, run over `feeds` (input tensor -> how its array is made of the batch's columns).

    `outputs` are the model's outputs that are read, and `columns` the names that they get in the batch. The rows of `ragged` tensors have
    arrays of different lengths: rows of equal lengths run together, so no row is filled up, and `axes` are those of each output's values.
    `least` is how long the last axis of each of the first outputs has to be.
    """

    name: str
    version: str
    model: Runs
    feeds: Feeds
    outputs: tuple[str, ...]
    columns: tuple[str, ...]
    ragged: frozenset[str] = frozenset()
    axes: tuple[Axes, ...] = ()
    least: tuple[int, ...] = ()
    stateful: ClassVar[bool] = False

    def run(self, batch: Batch, context: Context = WHOLE) -> Batch:
        """Returns the batch with this node's columns; rows over which the model raises become failures. See `nodes.base` for `context`."""
        if context.isolate and context.raised is not None:
            return self._isolate(batch, context.raised)
        try:
            arrays = self._infer(batch.columns, batch.size)
        except InferenceError as error:
            if not context.isolate:
                raise
            return self._isolate(batch, error)
        return batch.with_columns(dict(zip(self.columns, arrays, strict=True)))

    def _infer(self, columns: Mapping[str, Array], size: int) -> list[Array]:
        feeds = {tensor: feed(columns) for tensor, feed in self.feeds}
        return self._checked(feeds, size) if not self.ragged else self._by_length(feeds, size)

    def _by_length(self, feeds: Mapping[str, Array], size: int) -> list[Array]:
        groups: dict[tuple[int, ...], list[int]] = {}
        for row, lengths in enumerate(zip(*(map(len, feeds[tensor]) for tensor in self.ragged), strict=True)):
            groups.setdefault(lengths, []).append(row)
        parts = []
        for rows in groups.values():
            picked = {tensor: array[rows] for tensor, array in feeds.items()}
            arrays = self._checked(picked | {tensor: np.stack(picked[tensor].tolist()) for tensor in self.ragged}, len(rows))
            for output, array, axes in zip(self.outputs, arrays, self.axes, strict=True):
                if fit(array.shape[1:], axes) != array.shape[1:]:
                    raise InferenceError(f"{self.version} gives no {output} for arrays of this length", where=self.name)
            parts.append(arrays)
        order = np.argsort(np.concatenate([np.array(rows, np.intp) for rows in groups.values()]))
        try:
            return [np.concatenate(arrays)[order] for arrays in zip(*parts, strict=True)]
        except ValueError:
            raise InferenceError(
                f"{self.version} gives answers of different shapes for arrays of different lengths", where=self.name
            ) from None

    def _checked(self, feeds: Mapping[str, Array], size: int) -> list[Array]:
        arrays = self.model.run(self.outputs, feeds)
        for at, array in enumerate(arrays):
            shape = array.shape
            if not shape or shape[0] != size:
                raise InferenceError(f"{self.version} gave {self.outputs[at]} of shape {shape} for {size} rows", where=self.name)
        for name, array, least in zip(self.outputs, arrays, self.least, strict=False) if self.least else ():
            if least and (array.ndim < 2 or array.shape[-1] < least):
                raise InferenceError(f"{self.version} gave {name} of shape {array.shape}, and [{least - 1}] of it is read", where=self.name)
        return arrays

    def _isolate(self, batch: Batch, error: InferenceError) -> Batch:
        good: list[tuple[Array, list[Array]]] = []
        bad: dict[int, RecordError] = {}
        todo = [np.arange(batch.size)]
        if batch.size == 1:
            todo, bad = [], {0: self._blame(error)}
        while todo:
            rows = todo.pop()
            for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
                if not len(half):
                    continue
                try:
                    arrays = self._infer({name: column[half] for name, column in batch.columns.items()}, len(half))
                except InferenceError as raised:
                    if len(half) == 1:
                        bad[int(half[0])] = self._blame(raised)
                    else:
                        todo.append(half)
                else:
                    good.append((half, arrays))
        good.sort(key=lambda part: int(part[0][0]))
        try:
            merged = [np.concatenate([arrays[i] for _, arrays in good]) for i in range(len(self.outputs))] if good else []
        except ValueError:  # their widths differ: an open axis that is as long as the rows in the run make it
            uneven = InferenceError(f"{self.version} gives answers whose shape depends on the rows beside them", where=self.name)
            return batch.fail({**dict.fromkeys(range(batch.size), uneven), **bad})
        return batch.fail(bad).with_columns(dict(zip(self.columns, merged, strict=bool(good))))

    def _blame(self, error: InferenceError) -> InferenceError:
        return InferenceError(f"{self.version} cannot score the event: {error}", where=self.name)


def make(step: Step, feeds: Feeds, model: Runs | None, version: str) -> ModelNode:
    """Returns the node of a step. Raises ValueError when the step's model was not given."""
    name = step.node.name
    if model is None:
        raise ValueError(f"nodes.{name}: its model was not given")
    outputs, axes = tuple(tensor.name for tensor in step.outputs), tuple(tensor.shape for tensor in step.outputs)
    return ModelNode(name, version, model, feeds, outputs, step.columns, ragged(step), axes, step.least if any(step.least) else ())


def ragged(step: Step) -> frozenset[str]:
    """Returns the tensors whose rows have arrays of different lengths."""
    return frozenset(feed.tensor.name for feed in step.feeds if feed.how == "rows")
