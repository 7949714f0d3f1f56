"""One source's part of the wiring: its names become columns, and every dtype and axis is held against what reads it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from penstock.schema import REQUIRED, Column, Field, Missing, Schema, innermost, writes
from penstock.signature import Tensor
from penstock.topology.fit import Axes, converts, fills, fit, joined
from penstock.topology.resolve import FromField, FromNode, Report, Target, Wire
from penstock.topology.spec import Node, Ref, Sink, Source
from penstock.topology.wiring import Emit, Feed, OutputField, Part, Step

__all__ = ["Columns", "Feeder"]


class Columns:
    """The columns that a flow asks its decoder for; a field that is read in several ways has several."""

    def __init__(self) -> None:
        self._made: dict[str, Column] = {}

    def add(self, field: str, dtype: str, shape: tuple[int, ...], missing: Missing) -> Column:
        name, number = field, 1
        while name in self._made:
            column = self._made[name]
            # By their text: NaN is not equal to itself, and 0 is equal to False.
            if repr((column.field, column.dtype, column.shape, column.missing)) == repr((field, dtype, shape, missing)):
                return column
            number += 1
            name = f"{field}:{dtype}" if number == 2 else f"{field}:{dtype}:{number}"
        self._made[name] = Column(name, field, dtype, shape, missing)
        return self._made[name]

    def all(self) -> tuple[Column, ...]:
        return tuple(self._made.values())


@dataclass(frozen=True, slots=True)
class _Given:
    """What a reference gives: the part of the batch, its dtype, and the axes of one value."""

    part: Part
    dtype: str
    axes: Axes


class Feeder:
    """Makes steps and emits for the events of one source; what does not fit goes to the report."""

    def __init__(self, source: Source, schema: Schema, report: Report) -> None:
        self.source = source
        self.schema = schema
        self.report = report
        self.columns = Columns()

    def step(self, node: Node, wires: list[Wire], outputs: tuple[Tensor, ...]) -> Step:
        """The node with a feed for each wire; one that does not fit is left out."""
        feeds = (self._feed(node, wire) for wire in wires)
        return Step(node, tuple(feed for feed in feeds if feed is not None), outputs)

    def emit(self, sink: Sink, fields: Mapping[str, Target | None], key: Target | None, schema: Schema | None) -> Emit:
        """What the sink is given; `schema` is the sink's own, if it has one."""
        where = f"sinks.{sink.name}"
        made = []
        for name, ref in sink.fields:
            target = fields[name]
            declared = schema.field(name) if schema else None
            if target is not None and (field := self._output(name, ref, target, declared, f"{where}.fields.{name}")) is not None:
                made.append(field)
                if schema is not None:
                    self._check_written(field, ref, target, declared, schema, f"{where}.fields.{name}")
        written = {name for name, _ in sink.fields}
        for asked in schema.fields if schema else ():
            if asked.default is REQUIRED and asked.name not in written:
                message = f"{where}: the schema {sink.schema} asks for {asked.name!r}, which the sink does not write"
                self.report.add(sink.at("fields"), message, f"add {asked.name} to fields, or give it a default in the schema")
        part = None if sink.key is None or key is None else self._key(sink.key, key, f"{where}.key")
        return Emit(sink, tuple(made), part)

    def id(self) -> str | None:
        """The column of the events' ids: the source's `id` field as it is, null where it is null."""
        field = self.schema.field(self.source.id) if self.source.id is not None else None
        if field is None or field.items is not None or not field.dtype:
            return None
        return self.columns.add(field.name, field.dtype, (), Missing("fill", None) if field.optional else Missing()).name

    def _feed(self, node: Node, wire: Wire) -> Feed | None:
        where = f"nodes.{node.name}.inputs.{wire.tensor.name}"
        tensor, entry = wire.tensor, wire.input
        if wire.constant is not None:
            return Feed(tensor, (), constant=wire.constant)
        if entry.missing is not None and all(isinstance(target, FromNode) for target in wire.targets):
            self.report.add(entry.mark, f"{where}: missing is for fields, outputs of nodes are never null", "remove missing")
        wanted = tensor.shape if not entry.stacked else None
        given = [
            self._part(ref, target, tensor, wanted, entry.missing, where)
            for ref, target in zip(entry.refs, wire.targets, strict=True)
            if target is not None
        ]
        found = [each for each in given if each is not None]
        if len(found) < len(entry.refs):
            return None
        if entry.stacked:
            found = _level(found)
        axes = joined([each.axes for each in found]) if entry.stacked else found[0].axes
        fitted = None if axes is None else fit(axes, tensor.shape)
        if fitted is None:
            got = ", ".join(f"{ref.text} as {_shown(each.dtype, each.axes)}" for ref, each in zip(entry.refs, found, strict=True))
            together = f", together {_shown(tensor.dtype, axes)}" if entry.stacked and axes is not None else ""
            self.report.add(entry.mark, f"{where}: the tensor is `{tensor}`, it gets {got}{together}", _shape_fix(tensor, axes))
            return None
        return Feed(Tensor(tensor.name, tensor.dtype, fitted), tuple(each.part for each in found), entry.stacked)

    def _part(self, ref: Ref, target: Target, tensor: Tensor, wanted: Axes | None, missing: Missing | None, where: str) -> _Given | None:
        if isinstance(target, FromNode):
            if target.tensor is None:
                return None
            if target.tensor.dtype != tensor.dtype:
                message = f"{where}: the tensor is `{tensor}`, {ref.text!r} gives `{target.tensor}`"
                self.report.add(
                    ref.mark, message, f"between models dtypes are equal: export one of them with {tensor.dtype} or {target.tensor.dtype}"
                )
                return None
            return self._picked(ref, Part(f"{target.node}.{target.tensor.name}"), target.tensor.dtype, target.tensor.shape, where)
        field = self._field(target)
        if not converts(field, tensor.dtype):
            message = f"{where}: the tensor is `{tensor}`, the field {field.name!r} is {_described(field)}"
            self.report.add(ref.mark, message, _dtype_fix(field, tensor.dtype))
            return None
        shape = self._axes(ref, field, wanted, where)
        if shape is None:
            return None
        column = self.columns.add(field.name, tensor.dtype, shape, self._missing(ref, field, tensor.dtype, missing, where))
        return self._picked(ref, Part(column.name), tensor.dtype, shape, where)

    def _picked(self, ref: Ref, part: Part, dtype: str, axes: Axes, where: str) -> _Given | None:
        """The part, or its element `[index]` of the last axis."""
        if ref.index is None:
            return _Given(part, dtype, axes)
        if not axes:
            self.report.add(ref.mark, f"{where}: {ref.text!r} picks an element of a scalar", f"write {ref.text.partition('[')[0]}")
            return None
        last = axes[-1]
        if last is not None and ref.index >= last:
            self.report.add(ref.mark, f"{where}: {ref.text!r} is out of range, the last axis has {last}", f"from 0 to {last - 1}")
            return None
        return _Given(Part(part.column, ref.index), dtype, axes[:-1])

    def _axes(self, ref: Ref, field: Field, wanted: Axes | None, where: str) -> tuple[int, ...] | None:
        """The axes of the field's column: the schema's, its open ones by the tensor's; None when one stays open."""
        axes = field.shape
        if wanted is not None and ref.index is None and len(wanted) == len(axes):
            axes = tuple(w if axis is None else axis for axis, w in zip(axes, wanted, strict=True))
        fixed = tuple(axis for axis in axes if axis is not None)
        if len(fixed) < len(axes):
            message = f"{where}: the array field {field.name!r} has no fixed size, and nothing here gives it one"
            self.report.add(ref.mark, message, f'add "size": N beside "items" of {field.name} in {self.schema.path or self.schema.name}')
            return None
        return fixed

    def _missing(self, ref: Ref, field: Field, dtype: str, rule: Missing | None, where: str) -> Missing:
        if rule is not None and rule.action == "fill" and not fills(rule.value, field, dtype):
            message = f"{where}: missing: {rule.value!r} is no {dtype}, and the field {field.name!r} is {_described(field)}"
            self.report.add(ref.mark, message, f"give a {dtype} value, or missing: reject")
            return Missing()
        if rule is not None and (field.optional or (isinstance(rule.value, float) and math.isnan(rule.value))):
            return rule
        if not field.optional or rule is not None:
            return Missing()  # null cannot come, so that every such rule means the same column
        if field.default is not REQUIRED and field.default is not None:
            return Missing("fill", field.default)
        fix = f"add a rule: {{field: {field.name}, missing: VALUE}}, or missing: {'nan' if dtype.startswith('float') else 'reject'}"
        self.report.add(ref.mark, f"{where}: the field {field.name!r} may be null, and a tensor cannot", fix)
        return Missing()

    def _output(self, name: str, ref: Ref, target: Target, declared: Field | None, where: str) -> OutputField | None:
        if isinstance(target, FromNode):
            if target.tensor is None:
                return None
            given = self._picked(ref, Part(f"{target.node}.{target.tensor.name}"), target.tensor.dtype, target.tensor.shape, where)
        else:
            given = self._passed(ref, self._field(target), where)
        if given is None:
            return None
        if given.axes == (1,) and given.part.index is None and (declared is None or declared.items is None):
            return OutputField(name, Part(given.part.column, 0), given.dtype)  # [N, 1] is written as a number, not as a list of one
        return OutputField(name, given.part, given.dtype, given.axes)

    def _passed(self, ref: Ref, field: Field, where: str) -> _Given | None:
        """A field that goes to a sink as it is; null stays null."""
        if not field.dtype:
            fix = "leave it out, or declare it with a type that has columns"
            self.report.add(ref.mark, f"{where}: the field {field.name!r} is {_described(field)}, which cannot be written", fix)
            return None
        shape = self._axes(ref, field, None, where)
        if shape is None:
            return None
        if field.optional and field.items is not None:
            message = f"{where}: the array field {field.name!r} may be null, and a row of an array column cannot"
            self.report.add(ref.mark, message, "leave it out, or forbid null in the schema")
            return None
        column = self.columns.add(field.name, field.dtype, shape, Missing("fill", None) if field.optional else Missing())
        return self._picked(ref, Part(column.name), field.dtype, shape, where)

    def _check_written(self, output: OutputField, ref: Ref, target: Target, declared: Field | None, schema: Schema, where: str) -> None:
        file = schema.path or schema.name
        if declared is None:
            self.report.add(ref.mark, f"{where}: the sink's schema has no field {output.name!r}", f"declare it in {file}, or leave it out")
        elif not writes(output.dtype, declared) or fit(output.shape, declared.shape) is None or len(output.shape) != len(declared.shape):
            message = f"{where}: {ref.text!r} is {_shown(output.dtype, output.shape)}, the sink's schema says {_described(declared)}"
            self.report.add(ref.mark, message, f"declare a type in {file} that holds it")
        elif isinstance(target, FromField) and self._field(target).optional and not declared.optional:
            message = f"{where}: the field {ref.text!r} may be null, in the sink's schema it may not"
            self.report.add(ref.mark, message, f"allow null in {file}")

    def _key(self, ref: Ref, target: Target, where: str) -> Part | None:
        if isinstance(target, FromNode):
            if target.tensor is None:
                return None
            given = self._picked(ref, Part(f"{target.node}.{target.tensor.name}"), target.tensor.dtype, target.tensor.shape, where)
        else:
            field = self._field(target)
            axes = self._axes(ref, field, None, where)
            if axes is None:
                return None
            # A null is refused: records without a key would scatter over the partitions.
            column = self.columns.add(field.name, field.dtype, axes, Missing()) if field.dtype else None
            given = self._picked(ref, Part(column.name if column else field.name), field.dtype, axes, where)
        if given is None:
            return None
        if given.axes not in ((), (1,)) or not (given.dtype == "string" or "int" in given.dtype):
            self.report.add(
                ref.mark,
                f"{where}: {ref.text!r} is {_shown(given.dtype, given.axes)}, a key is text or a whole number",
                "name another field",
            )
            return None
        return Part(given.part.column, 0) if given.axes else given.part

    def _field(self, target: FromField) -> Field:
        field = self.schema.field(target.name)
        assert field is not None, "a stage reads only fields that its source has"
        return field


def _level(parts: list[_Given]) -> list[_Given]:
    """Beside scalars, a part `[N, 1]` is one too."""
    if all(part.axes for part in parts):
        return parts
    return [_Given(Part(part.part.column, 0), part.dtype, ()) if part.axes == (1,) and part.part.index is None else part for part in parts]


def _shown(dtype: str, axes: Axes) -> str:
    return str(Tensor("", dtype, axes)).removeprefix(": ")


def _described(field: Field) -> str:
    """The field's type as a person says it."""
    if field.items is None:
        return f"an {field.kind}" if field.kind in ("int", "enum") else f"a {field.kind}"
    sizes = "x".join("?" if axis is None else str(axis) for axis in field.shape)
    nullable = " that may be null" if innermost(field) is not field and field.items.optional else ""
    return f"an array of {sizes} {innermost(field).kind}{nullable}"


def _dtype_fix(field: Field, dtype: str) -> str:
    if not field.dtype:
        return "declare the field with a type that a tensor can hold"
    kinds = [kind for kind in ("boolean", "int", "long", "float", "double", "string") if converts(Field("", kind), dtype)]
    return f"{dtype} takes {', '.join(kinds)}: read another field, or export the model with another dtype"


def _shape_fix(tensor: Tensor, axes: Axes | None) -> str:
    if axes is None:
        return "stack scalars, or arrays that differ in the last axis only"
    if tensor.shape and len(tensor.shape) == 1 and not axes:
        return f"stack {tensor.shape[0]} fields: {tensor.name}: [A, B, ...]"
    if len(axes) == len(tensor.shape) + 1:
        return "pick one element: NAME[0]"
    return "axes are equal or open; the first one is always the rows"
