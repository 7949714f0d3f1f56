"""(Wiring, loaded models) → Plan: names become functions over columns, once, so that the hot loop has no lookups."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from penstock.batch import Array
from penstock.engine.plan import Output, Pick, Plan, Stage
from penstock.errors import InferenceError
from penstock.nodes import MAKERS, Node, Runs
from penstock.signature import Tensor
from penstock.topology import wiring
from penstock.topology.fit import fit
from penstock.topology.parameters import misfit

__all__ = ["compile"]

Parameters = Mapping[str, object]
CELLS: Final = 4_194_304  # of a padded tensor of several rows: beside one long array, all others would take its room


def compile(
    wired: wiring.Wiring, models: Mapping[str, Runs], versions: Mapping[str, str], parameters: Mapping[str, Parameters] | None = None
) -> Plan:
    """Returns a runnable plan.

    `models` and `versions` (`name@version`, of a rule `rule:DIGEST`) are by node name. `parameters`, by node name, are values in place of
    the file's.
    Raises ValueError for one that the file does not declare or that does not fit its tensor: `check_parameters` finds it before.
    """
    parameters = parameters or {}
    for name, given in parameters.items():
        node = wired.topology.model_node(name)
        if undeclared := set(given).difference(node.parameters if node else ()):
            raise ValueError(f"nodes.{name}.parameters: the topology declares no {', '.join(sorted(undeclared))}")

    def made(step: wiring.Step) -> Node:
        name = step.node.name
        feeds = tuple((feed.tensor.name, _feed(feed, parameters.get(name, {}))) for feed in step.feeds)
        return MAKERS[type(step.node)](step, feeds, models.get(name), versions.get(name, ""))

    stages = {
        stage.name: Stage(stage, tuple(made(step) for step in stage.steps), tuple(_output(emit) for emit in stage.emits))
        for stage in wired.stages
    }
    return Plan(wired.topology.name, stages, {node.name: versions[node.name] for node in wired.topology.nodes if node.name in versions})


def _feed(feed: wiring.Feed, parameters: Parameters) -> Pick:
    """Returns how the input tensor is made: contiguous and of the tensor's rank, without a copy where the column already is."""
    if feed.constant is not None:
        return _constant(feed.tensor, parameters.get(feed.tensor.name, feed.constant))
    picks = [_pick(part) for part in feed.parts]
    rank = len(feed.tensor.shape) + 1
    if feed.how:
        return _shaped(feed, picks[0])
    return _one(feed.parts[0], picks[0], rank) if not feed.stacked else _stack(picks, rank)


def _one(part: wiring.Part, pick: Pick, rank: int) -> Pick:
    """Returns how one part becomes a tensor. A whole column, as most are, is read here: of few rows, a call costs more than the work."""
    if part.gap is not None or part.index is not None or part.nan is not None or part.cast:
        return lambda columns: _as_rank(np.ascontiguousarray(pick(columns)), rank)
    name = part.column

    def whole(columns: Mapping[str, Array]) -> Array:
        array: Array = np.ascontiguousarray(columns[name])
        return array if array.ndim == rank else _as_rank(array, rank)

    def rows(columns: Mapping[str, Array]) -> Array:
        array: Array = np.ascontiguousarray(columns[name])
        return array.reshape(-1, 1) if array.ndim == 1 else _as_rank(array, rank)

    return rows if rank == 2 else whole


def _stack(picks: Sequence[Pick], rank: int) -> Pick:
    """Returns how parts become the last axis of a tensor."""

    def stack(columns: Mapping[str, Array]) -> Array:
        parts = [pick(columns) for pick in picks]
        if parts[0].ndim > 1:
            return _as_rank(np.concatenate(parts, axis=-1), rank)
        made: Array = np.empty((len(parts[0]), len(parts)), parts[0].dtype)  # np.stack takes ten times as long for one row
        for at, one in enumerate(parts):
            made[:, at] = one
        return _as_rank(made, rank)

    return stack


def _shaped(feed: wiring.Feed, pick: Pick) -> Pick:
    """Returns how an array becomes a tensor of other axes, one filled up to its longest row, or the mask of that."""
    tensor = feed.tensor
    if feed.how == "rows":
        return pick
    if feed.how == "reshape":
        axes = [-1 if axis is None else axis for axis in tensor.shape]
        return lambda columns: np.ascontiguousarray(array := pick(columns)).reshape(len(array), *axes)

    def fill(columns: Mapping[str, Array]) -> Array:
        arrays = pick(columns)
        lengths = np.fromiter(map(len, arrays), np.int64, len(arrays))
        longest = int(lengths.max(initial=1))
        room = longest if tensor.shape[0] is None else tensor.shape[0]
        if longest > room:
            raise InferenceError(f"{feed.parts[0].column} has {longest} items, more than the {room} of the tensor {tensor.name!r}")
        if len(arrays) > 1 and len(arrays) * longest > CELLS:
            raise InferenceError("arrays of very different lengths are padded in smaller runs")  # the node divides its rows
        there: Array = np.arange(room) < lengths[:, None]
        if feed.how == "mask":
            return there.astype(tensor.dtype)
        kind = object if tensor.dtype == "string" else tensor.dtype
        made: Array = np.full((len(arrays), room, *arrays[0].shape[1:]), feed.pad, kind)
        made[there] = np.concatenate(arrays)
        return made

    return fill


def _constant(tensor: Tensor, value: object) -> Pick:
    """The value for every row. Rows are made for the largest batch so far; a smaller one takes the first of them, which are contiguous."""
    if found := misfit(tensor, value):
        raise ValueError(f"{found[0]} ({found[1]})")
    row = np.array(value, dtype=object if tensor.dtype == "string" else tensor.dtype)
    rows = row.reshape(1, *fit(row.shape, tensor.shape) or ())

    def repeat(columns: Mapping[str, Array]) -> Array:
        nonlocal rows
        made, size = rows, len(next(iter(columns.values())))  # some node or field feeds another tensor, so there is a column
        if size > len(made):
            rows = made = np.repeat(made[:1], size, axis=0)
        return made[:size]

    return repeat


def _as_rank(array: Array, rank: int) -> Array:
    """[N] and [N, 1] are the same column; anything else was refused when the topology was checked."""
    if array.ndim < rank:
        return array.reshape(array.shape + (1,) * (rank - array.ndim))
    if array.ndim > rank:
        return array.reshape(array.shape[:rank])
    return array


def _pick(part: wiring.Part) -> Pick:
    name, index = part.column, part.index
    if part.gap is not None:
        return _filled(part, part.gap)
    if part.nan is not None or part.cast:
        return _read_as(part)
    if index is None:
        return lambda columns: columns[name]
    return lambda columns: columns[name][..., index]


def _read_as(part: wiring.Part) -> Pick:
    """Returns the part in another dtype, or with what NaN means in its place."""
    pick, nan = _pick(dataclasses.replace(part, cast="", nan=None)), part.nan

    def read(columns: Mapping[str, Array]) -> Array:
        array = pick(columns)
        if nan is not None and (nothing := np.isnan(array)).any():
            array = array.astype(object) if nan.fill is None else array.copy()
            array[nothing] = nan.fill
        return array.astype(part.cast) if part.cast else array

    return read


def _filled(part: wiring.Part, gap: wiring.Gap) -> Pick:
    """Returns the part for all rows: with the fill where the gap is, or as objects with null there."""
    pick = _pick(dataclasses.replace(part, gap=None))
    null = gap.fill is None
    kind = object if null or gap.dtype == "string" else gap.dtype

    def fill(columns: Mapping[str, Array]) -> Array:
        there = columns[gap.when]
        if there.all():
            return pick(columns)
        made: Array = np.full((len(there), *gap.axes), gap.fill, kind)
        if there.any():
            given = pick(columns)[there]
            if given.shape[1:] != gap.axes:  # the model gives another shape than it declares
                raise InferenceError(f"{part.column} has the shape {given.shape[1:]}, declared is {gap.axes}")
            made[there] = given.astype(kind)
        return made

    return fill


def _output(emit: wiring.Emit) -> Output:
    return Output(emit, tuple(_pick(field.part) for field in emit.fields), None if emit.key is None else _pick(emit.key))
