"""The plan of a topology as JSON, for what runs ONNX files and is not Python: a page in a browser (`examples/browser`), a phone.

It is the wiring: the fields of an event, the columns made of them, the tensors that feed each model, and the fields of each sink. Paths
are those of the exported folder. A number that JSON lacks is a string: "NaN", "Infinity", "-Infinity".
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

from penstock.expressions import FREE, OK
from penstock.model.artifact import MODEL_FILE
from penstock.runtime import Loaded
from penstock.schema import REQUIRED, Column, Field
from penstock.signature import Tensor
from penstock.topology.wiring import Emit, Feed, Part, Stage, Step

__all__ = ["PLAN", "RULES", "plan_of"]

PLAN: Final = "plan.json"
RULES: Final = "rules"
_FORMAT: Final = 1


def plan_of(loaded: Loaded) -> dict[str, Any]:
    """Returns the plan: its stages, each after those that feed it. A reader refuses a `format` and keys that it does not know."""
    return {"format": _FORMAT, "topology": loaded.topology.name, "stages": [_stage(stage, loaded) for stage in loaded.wiring.stages]}


def _stage(stage: Stage, loaded: Loaded) -> dict[str, Any]:
    source = stage.source
    read = {**({"envelope": source.envelope} if source.envelope else {}), **({"coerce": list(source.coerce)} if source.coerce else {})}
    return {
        "source": source.name,
        "topic": source.topic,
        **read,
        "fields": [_field(field) for field in loaded.schemas[source.name].fields],
        "columns": [_column(column) for one in stage.inputs for column in one.columns],
        "steps": [_step(step, loaded) for step in stage.steps],
        "sinks": [_sink(emit) for emit in stage.emits],
    }


def _field(field: Field) -> dict[str, Any]:
    """Returns a field of the event; one without `default` must be there. Of what is inside arrays, records and maps nothing is stated."""
    return {
        "name": field.name,
        "kind": field.kind,
        "nullable": field.optional,
        **({"default": _number(field.default)} if field.default is not REQUIRED else {}),
        **({"aliases": list(field.aliases)} if field.aliases else {}),
        **({"symbols": list(field.symbols)} if field.symbols else {}),
        **({"fallback": field.fallback} if field.fallback is not None else {}),
        **({"dated": True} if field.dated else {}),
    }


def _column(column: Column) -> dict[str, Any]:
    missing = column.missing
    return {
        "name": column.name,
        "field": column.field,
        **_typed(column.dtype, column.shape),
        **({"fill": _number(missing.value)} if missing.action == "fill" else {}),
    }


def _step(step: Step, loaded: Loaded) -> dict[str, Any]:
    name = step.node.name
    if step.graph is None:
        artifact = loaded.artifacts[name]
        model, label = f"models/{artifact.name}/{artifact.version}/{MODEL_FILE}", str(artifact)
    else:
        model, label = f"{RULES}/{name.replace('?', '.when')}.onnx", step.graph.label
    return {
        "node": name,
        "model": model,
        "label": label,
        "inputs": [_feed(feed) for feed in step.feeds],
        "outputs": [{"name": tensor.name, "column": column} for tensor, column in zip(step.outputs, step.columns, strict=True)],
        **({"doubts": doubts} if (doubts := list(_doubts(step))) else {}),
        **({} if step.when is None else {"when": step.when}),
    }


def _doubts(step: Step) -> Iterator[dict[str, Any]]:
    """Yields the outputs of a rule that have no value for some events: `ok` is the output of the graph that is false for those.

    Of the `reasons`, the first holds whose output in `free`, which lacks the last one, is false.
    """
    if step.graph is None:
        return
    for output in (tensor.name for tensor in step.outputs):
        causes = step.graph.doubts.get(output, ())
        if causes:
            free = [FREE.format(output, number) for number in range(1, len(causes))]
            yield {"ok": OK.format(output), "free": free, "reasons": [f"{output} has no value for the event: {cause}" for cause in causes]}


def _feed(feed: Feed) -> dict[str, Any]:
    return {
        **_tensor(feed.tensor),
        **({"parts": [_part(part) for part in feed.parts]} if feed.parts else {"constant": _number(feed.constant)}),
        **({"stacked": True} if feed.stacked else {}),
        **({"how": feed.how, "pad": _number(feed.pad)} if feed.how else {}),
    }


def _sink(emit: Emit) -> dict[str, Any]:
    fields = [{"name": field.name, **_typed(field.dtype, field.shape), "from": _part(field.part)} for field in emit.fields]
    return {"sink": emit.sink.name, "topic": emit.sink.topic, "fields": fields, **({} if emit.when is None else {"when": emit.when})}


def _part(part: Part) -> dict[str, Any]:
    """Returns a column of the stage, or one element of its last axis; `gap` has the rows without a value, and what they get."""
    gap = {} if part.gap is None else {"gap": {"when": part.gap.when, "fill": _number(part.gap.fill)}}
    return {"column": part.column, **({} if part.index is None else {"index": part.index}), **gap}


def _tensor(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, **_typed(tensor.dtype, tensor.shape)}


def _typed(dtype: str, shape: tuple[int | None, ...]) -> dict[str, Any]:
    """Returns dtype and the axes of one row; null is an open one."""
    return {"dtype": dtype, "shape": list(shape)}


def _number(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_number(one) for one in value]
    if isinstance(value, dict):
        return {name: _number(one) for name, one in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
