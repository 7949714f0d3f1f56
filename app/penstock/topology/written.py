"""What a sink writes, compared with the schemas that describe it: the sink's own, and those of the sources that read its topic.

1. The sink's own schema declares every field that is written, with a type that holds every value, and requires no other.
2. A source that reads the topic has the sink's format. In JSON it must be able to read every event that the sink writes, so
   rule 1 holds for its schema too, and an enum must have every symbol that may come.
3. Bare Avro does not carry its schema, and Protobuf's readers go by numbers, so both have the same one. With Confluent's five bytes the
   source resolves the sink's schema by Avro's rules, and finds it in the folder `ids/` that is beside its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from penstock.schema import REQUIRED, Field, Schema, innermost, resolves, writes
from penstock.signature import Tensor
from penstock.topology.fit import Axes, fit
from penstock.topology.resolve import Finding
from penstock.topology.spec import Ref, Sink, Source
from penstock.topology.wiring import OutputField

__all__ = ["Written", "described", "fits_reader", "fits_schema", "shown"]


@dataclass(frozen=True, slots=True)
class Written:
    """A field of the output event, the reference that fills it, and the field of the input event that it copies, if it copies one.

    `nullable`: the value may be null, that of a field or of a node that leaves out events.
    """

    output: OutputField
    ref: Ref
    copied: Field | None = None
    nullable: bool = False


def fits_schema(sink: Sink, written: Sequence[Written], schema: Schema, whose: str = "the sink's schema") -> Iterator[Finding]:
    """Yields what is wrong with writing these fields by the schema; `whose` names it in messages."""
    file = schema.path or schema.name
    for one in written:
        where, declared = f"sinks.{sink.name}.fields.{one.output.name}", schema.leaf(one.output.name)
        if declared is None:
            yield one.ref.mark, f"{where}: {whose} has no field {one.output.name!r}", f"declare it in {file}, or leave it out"
        elif schema.language == "JSON" and declared.aliases:
            message = f"{where}: {file} calls it {declared.aliases[0]!r}, and a sink writes names of letters, digits and _"
            yield one.ref.mark, message, "rename the property, or leave it out"
        elif not _holds(declared, one.output):
            message = f"{where}: {one.ref.text!r} is {shown(one.output.dtype, one.output.shape)}, {whose} declares {described(declared)}"
            dated = f"a date is written from text alone: declare an integer in {file}, or leave it out"
            yield one.ref.mark, message, dated if declared.dated else f"declare a type in {file} that holds it"
        elif one.nullable and not declared.nullable:
            what = "the field " if one.copied is not None else ""
            message = f"{where}: {what}{one.ref.text!r} may be null, in {whose} it may not"
            yield one.ref.mark, message, f"allow null in {file}"
        elif one.copied is not None and one.copied.unit and declared.unit not in ("", one.copied.unit):
            message = f"{where}: the field {one.ref.text!r} counts in {one.copied.unit}, {whose} declares {declared.unit}"
            yield one.ref.mark, message, f"declare the same unit in {file}"
    names = {name for name, _ in sink.fields}
    for asked in schema.unwritten(names):
        who = f"the schema {sink.schema}" if whose == "the sink's schema" else whose
        message = f"sinks.{sink.name}: {who} requires {asked!r}, which the sink does not write"
        yield sink.at("fields"), message, f"add {asked} to fields, or give it a default in {file}"


def fits_reader(sink: Sink, written: Sequence[Written], own: Schema | None, source: Source, schema: Schema) -> Iterator[Finding]:
    """Yields what keeps `source` from reading what the sink writes; `own` is the sink's schema, if it has one."""
    line = source.at("schema", "topic").line
    whose = f"the schema of the source {source.name!r} on line {line}"
    match sink.format:
        case _ if sink.format != source.format or sink.schema == source.schema:
            return  # `clashes` reports the first; in the second case `fits_schema` has compared with that schema
        case "json" | "json-confluent":
            yield from fits_schema(sink, written, schema, whose)
            yield from _symbols(sink, written, own, schema, whose)
        case "avro" if own is not None and own.avro != schema.avro:
            message = f"sinks.{sink.name}: {whose} is {source.schema}, and bare avro does not carry {sink.schema}, which wrote it"
            yield sink.at("schema"), message, "give both the same schema, or use avro-confluent"
        case "protobuf" | "protobuf-confluent" if own is not None and own.protobuf != schema.protobuf:
            message = f"sinks.{sink.name}: {whose} is {source.schema}, and the sink writes {sink.schema}"
            yield sink.at("schema"), message, "give both the same schema"
        case "avro-confluent" if own is not None:
            yield from _resolution(sink, own, source, schema, whose)


def shown(dtype: str, axes: Axes) -> str:
    """Returns a dtype with its axes, as in `float32[N, 2]`."""
    return str(Tensor("", dtype, axes)).removeprefix(": ")


def described(field: Field) -> str:
    """Returns the field's type in words."""
    if field.dated:
        return "a date as text"
    if field.items is None:
        return f"an {field.kind}" if field.kind in ("int", "enum") else f"a {field.kind}"
    sizes = "x".join("?" if axis is None else str(axis) for axis in field.shape)
    nullable = " that may be null" if innermost(field) is not field and field.items.optional else ""
    return f"an array of {sizes} {innermost(field).kind}{nullable}"


def _holds(declared: Field, output: OutputField) -> bool:
    same_rank = len(output.shape) == len(declared.shape)
    return writes(output.dtype, declared) and same_rank and fit(output.shape, declared.shape) is not None


def _symbols(sink: Sink, written: Sequence[Written], own: Schema | None, schema: Schema, whose: str) -> Iterator[Finding]:
    """Yields outputs that may be none of the symbols that the reader declares. The sink's own schema or the copied field may limit them."""
    for one in written:
        declared = schema.leaf(one.output.name)
        if declared is None or not (symbols := innermost(declared).symbols) or not _holds(declared, one.output):
            continue
        limits = (own.leaf(one.output.name) if own else None, one.copied)
        if not any(field is not None and innermost(field).symbols and {*innermost(field).symbols} <= {*symbols} for field in limits):
            message = f"sinks.{sink.name}.fields.{one.output.name}: {one.ref.text!r} need not be one of the symbols in {whose}"
            fix = f"declare it as a string in {schema.path or schema.name}, or give the sink a schema with these symbols"
            yield one.ref.mark, message, fix


def _resolution(sink: Sink, own: Schema, source: Source, schema: Schema, whose: str) -> Iterator[Finding]:
    ours, theirs = (PurePosixPath(file or "").parent / "ids" for file in (sink.schema, source.schema))
    if ours != theirs:
        message = f"sinks.{sink.name}: {whose} finds the schemas of its writers in {theirs}, and the id of {sink.schema} is from {ours}"
        yield sink.at("schema"), message, "put both schemas into one folder"
    for field in schema.fields:
        known = own.field(field.name)
        if known is None and field.default is REQUIRED:
            message = f"sinks.{sink.name}: {whose} requires {field.name!r}, which {sink.schema} does not have"
            yield sink.at("schema"), message, f"give it a default in {schema.path or schema.name}"
        elif known is not None and (not resolves(known, field) or (known.optional and not field.optional)):
            read, nullable = described(field), " that may be null" if known.optional else ""
            message = f"sinks.{sink.name}: {whose} reads {field.name!r} as {read}, in {sink.schema} it is {described(known)}{nullable}"
            yield sink.at("schema"), message, "keep to Avro's promotions"
