"""Checks the section `precomputed`: a key that decides the answer, and a policy that has what it needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from penstock.schema import Field, Schema
from penstock.topology.resolve import Finding, closest
from penstock.topology.spec import Precomputed, Topology
from penstock.topology.wiring import Stage

__all__ = ["OUTCOME", "precomputed_problems", "read_fields"]

_ENTITY = ("string", "enum", "int", "long")
_FRACTIONS = ("float", "double")
_NUMBERS = ("int", "long", "timestamp", *_FRACTIONS)
_KINDS = ("boolean", "string", "enum", *_NUMBERS)
OUTCOME = "precomputed"  # the field of an answer that says where it is from


def precomputed_problems(topology: Topology, schemas: Mapping[str, Schema], stages: Sequence[Stage]) -> Iterator[Finding]:
    """Yields what is wrong with the section; nothing where the topology has none."""
    wanted = topology.precomputed
    if wanted is None:
        return
    if len(topology.sources) > 1:
        named = ", ".join(source.name for source in topology.sources)
        yield wanted.mark, f"precomputed: the topology has {len(topology.sources)} sources ({named})", "a lookup has one kind of event"
        return
    schema = schemas.get(topology.sources[0].name)
    if schema is None or not stages:
        return  # reported already
    fields = {name: schema.field(name) for name in wanted.fields}
    for name, found in fields.items():
        at = wanted.at("entity", "inputs")
        if found is None:
            yield at, f"precomputed: the source has no field {name!r}", closest(name, [schema])
        elif wanted.entity is not None and found.kind not in _ENTITY:
            yield at, f"precomputed.entity: the field {name!r} is of kind {found.kind}", "an id is a string or a whole number"
        elif wanted.entity is None and not _keyable(found):
            yield at, f"precomputed.inputs: the field {name!r} is of kind {found.kind}", f"a key is made of {', '.join(_KINDS)}, and arrays"
    known = {name: found for name, found in fields.items() if found is not None}
    if len(known) < len(fields):
        return
    if wanted.entity is None:
        yield from _unkeyed(wanted, stages[0])
    yield from _decimals(wanted, known)
    yield from _policy(wanted, known, topology)


def read_fields(stage: Stage) -> list[str]:
    """Returns the fields that the nodes of a stage compute with; those that are only copied to a sink are not among them."""
    read = {column for step in stage.steps for column in step.reads}
    return list(dict.fromkeys(column.field for one in stage.inputs for column in one.columns if column.name in read))


def _unkeyed(wanted: Precomputed, stage: Stage) -> Iterator[Finding]:
    """Yields the fields by which answers differ and keys do not."""
    if lacking := [name for name in read_fields(stage) if name not in wanted.inputs]:
        message = f"precomputed.inputs: the nodes also read {', '.join(lacking)}: events of one key would have different answers"
        yield wanted.at("inputs"), message, "add them to the inputs, or name an entity"


def _decimals(wanted: Precomputed, fields: Mapping[str, Field]) -> Iterator[Finding]:
    for name, field in fields.items():
        if wanted.entity is None and _inner(field).kind in _FRACTIONS and name not in wanted.decimals:
            fix = f"add decimals: {{{name}: 2}}"
            yield wanted.at("inputs"), f"precomputed: {name} is a {_inner(field).kind}, and its decimals in the key are not stated", fix
    for name in wanted.decimals:
        if name not in fields or _inner(fields[name]).kind not in _FRACTIONS:
            message = f"precomputed.decimals: {name!r} is no float or double of the inputs"
            yield wanted.at(f"decimals.{name}"), message, "remove it; only they are rounded"


def _policy(wanted: Precomputed, fields: Mapping[str, Field], topology: Topology) -> Iterator[Finding]:
    at = wanted.at("on_miss")
    for key, policy in (("default", "default"), ("scale", "nearest")):
        given = getattr(wanted, key)
        if given and wanted.on_miss != policy:
            yield wanted.at(key), f"precomputed.{key} belongs to on_miss: {policy}, and on_miss is {wanted.on_miss}", f"remove {key}"
        elif not given and wanted.on_miss == policy:
            yield at, f"precomputed.on_miss: {policy} needs the key {key!r}", f"add {key}: {{FIELD: VALUE}}"
    if wanted.on_miss == "nearest" and wanted.entity is not None:
        yield at, "precomputed.on_miss: an id has no nearest one", "name inputs in place of an entity, or another on_miss"
        return
    yield from _scale(wanted, fields)
    yield from _fields(wanted, topology)


def _scale(wanted: Precomputed, fields: Mapping[str, Field]) -> Iterator[Finding]:
    for name, value in wanted.scale.items():
        if name not in fields or fields[name].kind not in _NUMBERS:
            yield wanted.at(f"scale.{name}"), f"precomputed.scale: {name!r} is no number of the inputs", "remove it"
        elif isinstance(value, bool | str) or not 0 < value < float("inf"):
            yield wanted.at(f"scale.{name}"), f"precomputed.scale: {value!r} is no difference", "give a number greater than 0"


def _fields(wanted: Precomputed, topology: Topology) -> Iterator[Finding]:
    sinks = {name for sink in topology.sinks for name, _ in sink.fields}
    if wanted.default and len(topology.sinks) > 1:
        yield wanted.at("default"), "precomputed.default: the topology has several sinks", "use another on_miss: a default has one answer"
    for name in wanted.default:
        if name not in sinks:
            yield wanted.at(f"default.{name}"), f"precomputed.default: the sink has no field {name!r}", f"known: {', '.join(sorted(sinks))}"
    for sink in topology.sinks:
        if OUTCOME in {name.partition(".")[0] for name, _ in sink.fields}:
            message = f"sinks.{sink.name}: a field is called {OUTCOME!r}, which says where an answer is from"
            yield sink.mark, message, "rename it"


def _keyable(field: Field) -> bool:
    inner = _inner(field)
    fixed = field.items is None or (None not in field.shape and len(field.shape) == 1 and not (inner.optional or field.optional))
    return fixed and inner.kind in _KINDS


def _inner(field: Field) -> Field:
    return field if field.items is None else field.items
