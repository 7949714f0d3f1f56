"""The wiring of one source: names become columns, and every dtype and axis is compared with what reads it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from penstock.schema import REQUIRED, Column, Field, Missing, Schema, innermost
from penstock.signature import Tensor
from penstock.topology.fit import Axes, converts, fills, fit, holds, joined, reshaped
from penstock.topology.resolve import FromField, FromNode, Report, Target, Wire
from penstock.topology.spec import Absent, Input, LookupNode, Node, Ref, Sink, Source, Topology, WindowNode
from penstock.topology.wiring import Emit, Feed, Gap, Nan, OutputField, Part, Step
from penstock.topology.written import Written, described, fits_reader, fits_schema, shown

__all__ = ["Columns", "Feeder"]

_FLOATS = ("float32", "float64")
_WIDER = {  # what reads a field of a table: its dtypes are those that its schema can declare
    "bool": ("int32", "int64", *_FLOATS), "int32": ("int64", *_FLOATS), "int64": _FLOATS, "float32": ("float64",), "float64": ("float32",),
}  # fmt: skip


class Columns:
    """The columns that a stage asks its decoder for; a field that is read in several ways has several columns."""

    def __init__(self) -> None:
        self._made: dict[str, Column] = {}

    def add(self, field: str, dtype: str, shape: Axes, missing: Missing) -> Column:
        base = field.replace(".", "/")  # a name with a dot is that of a node's output
        name, number = base, 1
        while name in self._made:
            column = self._made[name]
            # Compared by their text: NaN does not equal itself, and 0 equals False.
            if repr((column.field, column.dtype, column.shape, column.missing)) == repr((field, dtype, shape, missing)):
                return column
            number += 1
            name = f"{base}:{dtype}" if number == 2 else f"{base}:{dtype}:{number}"
        self._made[name] = Column(name, field, dtype, shape, missing)
        return self._made[name]

    def all(self) -> tuple[Column, ...]:
        return tuple(self._made.values())


@dataclass(frozen=True, slots=True)
class _Given:
    """What a reference means: a part of the batch, its dtype, and the axes of one value.

    `absent` is where it is null for events that the reader has. Where it is `nullable`, NaN in the column is null.
    """

    part: Part
    dtype: str
    axes: Axes
    absent: Absent | None = None
    nullable: bool = False


class Feeder:
    """Makes the steps and emits for the events of one source, and reports what does not fit."""

    def __init__(self, topology: Topology, source: Source, schema: Schema, report: Report) -> None:
        self.topology = topology
        self.source = source
        self.schema = schema
        self.report = report
        self.columns = Columns()

    def step(self, node: Node, wires: list[Wire], outputs: tuple[Tensor, ...]) -> Step:
        """Returns the node with a feed per wire; a wire that does not fit is left out."""
        feeds = tuple(feed for wire in wires if (feed := self._feed(node, wire)) is not None)
        if any(feed.how == "pad" and feed.tensor.shape[0] is None for feed in feeds):
            for output in (one for one in outputs if None in one.shape):
                message = f"nodes.{node.name}: with pad, the output `{output}` is as long as the longest array of the chunk"
                fix = "leave pad out: arrays of one length then run together"
                self.report.add(node.at("inputs"), f"{message}, so an answer would depend on the events beside it", fix)
        return Step(node, feeds, outputs)

    def emit(
        self,
        sink: Sink,
        fields: Mapping[str, Target | None],
        key: Target | None,
        schema: Schema | None,
        readers: Iterable[tuple[Source, Schema]] = (),
    ) -> Emit:
        """Returns what the sink writes. `schema` is the sink's own, if it has one; `readers` are the sources that read its topic."""
        where = f"sinks.{sink.name}"
        made: list[Written] = []
        for name, ref in sink.fields:
            target = fields[name]
            declared = schema.leaf(name) if schema else None
            if target is not None and (output := self._output(sink, name, ref, target, declared, f"{where}.fields.{name}")) is not None:
                nullable = self._nullable(target, sink)
                made.append(Written(output, ref, self._field(target) if isinstance(target, FromField) else None, nullable))
        found = list(fits_schema(sink, made, schema)) if schema is not None else []
        for source, read in readers:
            found += fits_reader(sink, made, schema, source, read)
        for mark, message, fix in found:
            self.report.add(mark, message, fix)
        part = None if sink.key is None or key is None else self._key(sink, sink.key, key, f"{where}.key")
        return Emit(sink, tuple(one.output for one in made), part)

    def record_key(self, node: Node, ref: Ref, target: Target | None) -> Part | None:
        """Returns the key of the records that the outputs of a materialised node become."""
        return None if target is None else self._key(node, ref, target, f"nodes.{node.name}.materialize.key")

    def id(self) -> str | None:
        """The column of the events' ids: the source's `id` field as it is, null where it is null. The default of CloudEvents is `ce`."""
        return self._as_it_is(self.source.id or ("ce" if self.source.envelope == "cloudevents" else None))

    def unit(self, path: str) -> str | None:
        """The column of the field by which events are assigned while a release is on trial, null where it is null; None without one."""
        return self._as_it_is(path or None)

    def _as_it_is(self, path: str | None) -> str | None:
        """Adds a field as it is, and returns its column; None for one that the schema lacks, or that is no single value."""
        field = self.schema.field(path) if path is not None else None
        if field is None or field.items is not None or not field.dtype:
            return None
        return self.columns.add(field.name, field.dtype, (), Missing("fill", None) if field.optional else Missing()).name

    def _feed(self, node: Node, wire: Wire) -> Feed | None:
        where = f"nodes.{node.name}.{wire.place or f'inputs.{wire.tensor.name}'}"
        tensor, entry = wire.tensor, wire.input
        if wire.constant is not None:
            return Feed(tensor, (), constant=wire.constant)
        absent = any(self._may_be_null(target, node) for target in wire.targets if isinstance(target, FromNode))
        if entry.missing is not None and not absent and all(isinstance(target, FromNode) for target in wire.targets):
            self.report.add(entry.mark, f"{where}: missing is for fields, outputs of nodes are never null here", "remove missing")
        if entry.how in ("pad", "mask"):
            return self._padded(entry, wire.targets[0], tensor, where)
        wanted = tensor.shape if not entry.stacked and not entry.how else None
        if entry.how == "reshape" and None not in tensor.shape:
            wanted = (math.prod(axis or 1 for axis in tensor.shape),)  # what an array without a size has to have
        given = [
            self._part(node, ref, target, tensor, wanted, entry.missing, where)
            for ref, target in zip(entry.refs, wire.targets, strict=True)
            if target is not None
        ]
        found = [each for each in given if each is not None]
        if len(found) < len(entry.refs):
            return None
        if entry.stacked:
            found = _level(found)
        axes = joined([each.axes for each in found]) if entry.stacked else found[0].axes
        fitted = None if axes is None else reshaped(axes, tensor.shape) if entry.how == "reshape" else fit(axes, tensor.shape)
        if fitted is None:
            got = ", ".join(f"{ref.text} as {shown(each.dtype, each.axes)}" for ref, each in zip(entry.refs, found, strict=True))
            together = f", together {shown(tensor.dtype, axes)}" if entry.stacked and axes is not None else ""
            self.report.add(entry.mark, f"{where}: the tensor is `{tensor}`, it gets {got}{together}", _shape_fix(tensor, axes))
            return None
        ragged = not entry.stacked and isinstance(wire.targets[0], FromField) and None in found[0].axes
        parts = tuple(each.part for each in found)
        return Feed(Tensor(tensor.name, tensor.dtype, fitted), parts, entry.stacked, how="rows" if ragged else entry.how)

    def _padded(self, entry: Input, target: Target | None, tensor: Tensor, where: str) -> Feed | None:
        """Returns the feed of a tensor that arrays of different lengths fill up to one, or of the mask of what was filled."""
        (ref,) = entry.refs
        if target is None:
            return None
        if not isinstance(target, FromField) or (field := self._field(target)).items is None or target.index is not None:
            self.report.add(ref.mark, f"{where}: {ref.text!r} is not an array of the event", "pad and mask are for array fields")
            return None
        dtype = field.dtype if entry.how == "mask" else tensor.dtype
        fix, message = "", ""
        if None in field.shape[1:]:
            message, fix = f"the array field {field.name!r} has another open axis inside", 'fix its "size" in the schema'
        elif entry.how == "mask" and (len(tensor.shape) != 1 or tensor.dtype == "string"):
            message, fix = f"a mask is a row of numbers, and the tensor is `{tensor}`", "feed a tensor [N, items]"
        elif entry.how == "pad" and not converts(field, tensor.dtype):
            message, fix = f"the tensor is `{tensor}`, the field {field.name!r} is {described(field)}", _dtype_fix(field, tensor.dtype)
        elif entry.how == "pad" and fit((None, *field.shape[1:]), tensor.shape) is None:
            message, fix = f"the tensor is `{tensor}`, it gets {shown(dtype, (None, *field.shape[1:]))}", "axes must be equal or open"
        elif entry.how == "pad" and not holds(entry.pad, tensor.dtype):
            message, fix = f"pad: {entry.pad!r} is not of type {tensor.dtype}", f"give a {tensor.dtype} value"
        elif entry.missing is not None and entry.missing.action == "fill":
            message, fix = "null is padded as an array of no items", "leave missing out, or write missing: reject"
        if message:
            self.report.add(ref.mark, f"{where}: {message}", fix)
            return None
        rule = Missing("fill", ()) if field.optional and entry.missing is None else Missing()
        column = self.columns.add(field.name, dtype, (None, *(axis for axis in field.shape[1:] if axis is not None)), rule)
        return Feed(Tensor(tensor.name, tensor.dtype, tensor.shape), (Part(column.name),), how=entry.how, pad=entry.pad)

    def _part(
        self, node: Node, ref: Ref, target: Target, tensor: Tensor, wanted: Axes | None, missing: Missing | None, where: str
    ) -> _Given | None:
        if isinstance(target, FromNode):
            if target.tensor is None:
                return None
            if target.tensor.dtype != tensor.dtype and not self._converts(target.node, target.tensor.dtype, tensor.dtype):
                message = f"{where}: the tensor is `{tensor}`, {ref.text!r} gives `{target.tensor}`"
                self.report.add(
                    ref.mark,
                    message,
                    f"dtypes between models must be equal: export one of them with {tensor.dtype} or {target.tensor.dtype}",
                )
                return None
            return self._whole(self._of_node(node, ref, target.node, target.tensor, where, tensor.dtype), ref, missing, where)
        field = self._field(target)
        if not converts(field, tensor.dtype):
            message = f"{where}: the tensor is `{tensor}`, the field {field.name!r} is {described(field)}"
            self.report.add(ref.mark, message, _dtype_fix(field, tensor.dtype))
            return None
        shape: Axes | None = _ragged(field, target.index, wanted)
        if shape is None:
            shape = self._axes(ref, target.index, field, wanted, where)
        if shape is None:
            return None
        rule = self._missing(ref, field, tensor.dtype, missing, where)
        if None in shape and rule.action == "fill":
            message = f"{where}: the array field {field.name!r} may be null, and an array of no fixed size cannot be filled"
            self.report.add(ref.mark, message, "add missing: reject")
            return None
        column = self.columns.add(field.name, tensor.dtype, shape, rule)
        return self._picked(ref, target.index, Part(column.name), tensor.dtype, shape, where)

    def _of_node(self, reader: Node | Sink, ref: Ref, node: str, tensor: Tensor, where: str, dtype: str = "") -> _Given | None:
        """Returns an output of a node, read as `dtype`."""
        dtype = dtype or tensor.dtype
        part = Part(f"{node}.{tensor.name}", cast="" if dtype == tensor.dtype else dtype)
        found = self._picked(ref, ref.index, part, dtype, tensor.shape, where)
        return found and replace(
            found, absent=self.topology.absent(node, tensor.name, reader), nullable=self.topology.nullable(node, tensor.name)
        )

    def _converts(self, name: str, given: str, wanted: str) -> bool:
        """Whether an output is read in another dtype: a feature in the float type of its tensor, a field of a table as one of an event."""
        node = self.topology.node(name)
        if isinstance(node, LookupNode):
            return wanted in _WIDER.get(given, ())
        return isinstance(node, WindowNode) and wanted in ("float32", "float64")

    def _may_be_null(self, target: FromNode, reader: Node | Sink) -> bool:
        return target.tensor is not None and self.topology.may_be_null(target.node, target.tensor.name, reader)

    def _whole(self, given: _Given | None, ref: Ref, missing: Missing | None, where: str) -> _Given | None:
        """Returns an output of a node for every event that a tensor gets: the value of `missing` for those for which it is null."""
        if given is None or (given.absent is None and not given.nullable):
            return given
        if given.absent is not None and missing == Missing("fill", None):
            return replace(given, part=replace(given.part, gap=Gap(given.absent.column)), absent=None)
        fill = None if missing is None or missing.action == "reject" else missing.value
        if given.nullable:
            if isinstance(fill, bool) or not isinstance(fill, int | float):
                message = f"{where}: {ref.text!r} is null where its window has no value"
                self.report.add(ref.mark, message, f"write what it is then: {{field: {ref.text}, missing: nan}}, or a number")
                return None
            given = replace(given, part=replace(given.part, nan=Nan(float(fill))), nullable=False)
        if given.absent is None:
            return given
        about = f"{where}: {ref.text!r} is null {given.absent.why}"
        leave = given.absent.fix
        if fill is None:
            self.report.add(
                ref.mark, about, f"{leave}{', or ' if leave else 'write '}a value for them: {{field: {ref.text}, missing: VALUE}}"
            )
        elif not holds(fill, given.dtype):
            self.report.add(ref.mark, f"{where}: missing: {fill!r} is not of type {given.dtype}", f"give a {given.dtype} value")
        elif None in given.axes:
            self.report.add(ref.mark, f"{about}, and an array of no fixed size cannot be filled", leave)
        else:
            axes = tuple(axis for axis in given.axes if axis is not None)
            gap = Gap(given.absent.column, fill, given.dtype, axes)
            return replace(given, part=replace(given.part, gap=gap), absent=None)
        return None

    def _picked(self, ref: Ref, index: int | None, part: Part, dtype: str, axes: Axes, where: str) -> _Given | None:
        """Returns the part, or its element `[index]` of the last axis."""
        if index is None:
            return _Given(part, dtype, axes)
        if not axes:
            self.report.add(ref.mark, f"{where}: {ref.text!r} picks an element of a scalar", f"write {ref.text.rpartition('[')[0]}")
            return None
        last = axes[-1]
        if last is not None and index >= last:
            self.report.add(ref.mark, f"{where}: {ref.text!r} is out of range, the last axis has {last}", f"from 0 to {last - 1}")
            return None
        return _Given(replace(part, index=index), dtype, axes[:-1])

    def _axes(self, ref: Ref, index: int | None, field: Field, wanted: Axes | None, where: str) -> tuple[int, ...] | None:
        """Returns the axes of the field's column: those of the schema, with open ones taken from the tensor; None when one stays open."""
        axes = field.shape
        if wanted is not None and index is None and len(wanted) == len(axes):
            axes = tuple(w if axis is None else axis for axis, w in zip(axes, wanted, strict=True))
        fixed = tuple(axis for axis in axes if axis is not None)
        if len(fixed) < len(axes):
            message = f"{where}: the array field {field.name!r} has no fixed size, and nothing here gives it one"
            self.report.add(ref.mark, message, f'add "size": N beside "items" of {field.name} in {self.schema.path or self.schema.name}')
            return None
        return fixed

    def _missing(self, ref: Ref, field: Field, dtype: str, rule: Missing | None, where: str) -> Missing:
        if rule is not None and rule.action == "fill" and rule.value is not None and not fills(rule.value, field, dtype):
            message = f"{where}: missing: {rule.value!r} is not of type {dtype}, and the field {field.name!r} is {described(field)}"
            self.report.add(ref.mark, message, f"give a {dtype} value, or missing: reject")
            return Missing()
        if rule is not None and (field.optional or (isinstance(rule.value, float) and math.isnan(rule.value))):
            return rule
        if not field.optional or rule is not None:
            return Missing()  # null cannot occur, so every such rule means the same column
        if field.default is not REQUIRED and field.default is not None:
            return Missing("fill", field.default)
        nan = "missing: nan, " if dtype.startswith("float") else ""
        fix = f"add a rule: {{field: {field.name}, missing: VALUE}}, {nan}or missing: reject for a dead letter"
        self.report.add(ref.mark, f"{where}: the field {field.name!r} may be null, and a tensor cannot", fix)
        return Missing()

    def _output(self, sink: Sink, name: str, ref: Ref, target: Target, declared: Field | None, where: str) -> OutputField | None:
        if isinstance(target, FromNode):
            if target.tensor is None:
                return None
            given = self._of_node(sink, ref, target.node, target.tensor, where)
        else:
            given = self._passed(ref, target, where)
        if given is None:
            return None
        if given.axes == (1,) and given.part.index is None and (declared is None or declared.items is None):
            given = replace(given, part=replace(given.part, index=0), axes=())  # [N, 1] is written as a number, not as a list of one
        if given.nullable and given.axes:
            message = f"{where}: {ref.text!r} is null where its window has no value, and a row of an array column cannot be"
            self.report.add(ref.mark, message, f"pick elements: {ref.text}[0]")
            return None
        if given.nullable:
            given = replace(given, part=replace(given.part, nan=Nan(None)))
        part = given.part if given.absent is None else replace(given.part, gap=Gap(given.absent.column))
        if given.absent is not None and given.axes:
            name = given.part.column.partition(".")[0]
            message = f"{where}: {ref.text!r} is null {given.absent.why}, and a row of an array column cannot be"
            self.report.add(ref.mark, message, f"give the sink when: {name}, or pick elements")
            return None
        return OutputField(name, part, given.dtype, given.axes)

    def _passed(self, ref: Ref, target: FromField, where: str) -> _Given | None:
        """Returns a field that is copied to a sink; null stays null."""
        field = self._field(target)
        if not field.dtype:
            fix = _part_fix(field) or "leave it out, or declare it with a type that has columns"
            self.report.add(ref.mark, f"{where}: the field {field.name!r} is {described(field)}, which cannot be written", fix)
            return None
        shape = self._axes(ref, target.index, field, None, where)
        if shape is None:
            return None
        if field.optional and field.items is not None:
            message = f"{where}: the array field {field.name!r} may be null, and a row of an array column cannot"
            self.report.add(ref.mark, message, "leave it out, or forbid null in the schema")
            return None
        column = self.columns.add(field.name, field.dtype, shape, Missing("fill", None) if field.optional else Missing())
        return self._picked(ref, target.index, Part(column.name), field.dtype, shape, where)

    def _nullable(self, target: Target, sink: Sink) -> bool:
        """Whether what is written may be null."""
        return self._field(target).optional if isinstance(target, FromField) else self._may_be_null(target, sink)

    def _key(self, sink: Node | Sink, ref: Ref, target: Target, where: str) -> Part | None:
        if isinstance(target, FromNode):
            if target.tensor is None:
                return None
            if (absent := self.topology.absent(target.node, target.tensor.name, sink)) is not None:
                message = f"{where}: {ref.text!r} is null {absent.why}, and their records would have no key"
                fix = (
                    f"give it when: {target.node}, or name another key"
                    if absent.fix
                    else "name another key, such as a rule with coalesce(...)"
                )
                self.report.add(ref.mark, message, fix)
                return None
            given = self._of_node(sink, ref, target.node, target.tensor, where)
        else:
            field = self._field(target)
            axes = self._axes(ref, target.index, field, None, where)
            if axes is None:
                return None
            # Null is refused, since records without a key would scatter over the partitions; with `when`, where the record is written.
            later = field.optional and sink.when is not None and not axes
            rule = Missing("fill", None) if later else Missing()
            column = self.columns.add(field.name, field.dtype, axes, rule) if field.dtype else None
            given = self._picked(ref, target.index, Part(column.name if column else field.name), field.dtype, axes, where)
        if given is None:
            return None
        if given.axes not in ((), (1,)) or not (given.dtype == "string" or "int" in given.dtype):
            self.report.add(
                ref.mark,
                f"{where}: {ref.text!r} is {shown(given.dtype, given.axes)}, a key must be text or a whole number",
                "name another field",
            )
            return None
        return Part(given.part.column, 0) if given.axes else given.part

    def _field(self, target: FromField) -> Field:
        field = self.schema.field(target.name)
        assert field is not None, "a stage reads only fields that its source has"
        return field


def _ragged(field: Field, index: int | None, wanted: Axes | None) -> Axes | None:
    """Returns the axes of a column whose rows have different lengths, where the field and the tensor leave that open; None elsewhere."""
    open_there = wanted is not None and len(wanted) == len(field.shape) > 0 and wanted[0] is None
    return field.shape if open_there and index is None and field.size is None and None not in field.shape[1:] else None


def _level(parts: list[_Given]) -> list[_Given]:
    """Treats a part `[N, 1]` beside scalars as a scalar."""
    if all(part.axes for part in parts):
        return parts
    return [_as_scalar(part) if part.axes == (1,) and part.part.index is None else part for part in parts]


def _as_scalar(given: _Given) -> _Given:
    gap = given.part.gap and replace(given.part.gap, axes=())
    return replace(given, part=replace(given.part, index=0, gap=gap), axes=())


def _part_fix(field: Field) -> str:
    """Returns what to name instead of a field that holds others, or why it has no type; "" for any other field."""
    if field.why:
        return field.why
    if field.fields:
        return f"name a field inside it: {', '.join(f'{field.name}.{one.name}' for one in field.fields[:2])}, ..."
    if field.values is not None:
        return f"name a key of it: {field.name}.KEY"
    if field.items is not None and innermost(field).fields:
        return f"name an item's field: {field.name}[0].{innermost(field).fields[0].name}; all of them are no array that can be read"
    if field.items is not None and field.items.optional:
        return "declare its items without null: an event with a null item is a dead letter then"
    return ""


def _dtype_fix(field: Field, dtype: str) -> str:
    if part := _part_fix(field):
        return part
    if not field.dtype:
        return "declare the field with a type that a tensor can hold"
    kinds = [kind for kind in ("boolean", "int", "long", "float", "double", "string") if converts(Field("", kind), dtype)]
    return f"{dtype} takes {', '.join(kinds)}: read another field, or export the model with another dtype"


def _shape_fix(tensor: Tensor, axes: Axes | None) -> str:
    if axes is None:
        return "stack scalars, or arrays that differ in the last axis only"
    if tensor.shape and len(tensor.shape) == 1 and not axes:
        return f"stack {tensor.shape[0]} fields: {tensor.name}: [A, B, ...]"
    if reshaped(axes, tensor.shape) is not None:
        return f"as many values, in the same order: {tensor.name}: {{reshape: NAME}}"
    if len(axes) == len(tensor.shape) + 1 and fit(axes[:-1], tensor.shape) is not None:
        return "pick one element: NAME[0]"
    return "axes must be equal or open; the first axis is always the rows"
