"""Tables: what their declarations and schemas must be, and what the lookups of a file know of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from penstock.schema import Column, Missing, Schema
from penstock.signature import Tensor
from penstock.topology.kinds.reads import KEYS
from penstock.topology.names import did_you_mean, topic_problem
from penstock.topology.resolve import Finding, closest
from penstock.topology.spec import FOUND, Table, Topology

__all__ = ["TIME", "columns_of", "filled", "key_column", "table_clashes", "table_problems"]

TIME: Final = "?time"  # the column of the time from which a row holds


def table_clashes(topology: Topology) -> Iterator[Finding]:
    """Yields what is wrong with the tables of a file and the lookups that read them, without their schemas."""
    read = {node.table for node in topology.lookups}
    for table in topology.tables:
        where = f"tables.{table.name}"
        if (source := topology.source(table.name)) is not None:
            yield table.mark, f"{where}: a source on line {source.mark.line} has this name", "rename one of them"
        if problem := topic_problem(table.topic):
            yield table.at("topic"), f"{where}: {problem}", "choose another name"
        others = {one.topic: f"read by the source {one.name!r}" for one in topology.sources}
        others |= {one.dead_letter: f"the dead-letter topic of the source {one.name!r}" for one in topology.sources}
        others |= {one.topic: f"written by the sink {one.name!r}" for one in topology.sinks}
        if table.topic in others:
            message = f"{where}: the topic {table.topic!r} is {others[table.topic]}, and the rows of a table are kept in another way"
            yield table.at("topic"), message, "use a separate topic"
        if table.name not in read:
            yield table.mark, f"{where}: no lookup reads it", f"add a node: {{kind: lookup, table: {table.name}, by: FIELD}}, or remove it"
        if table.time is not None and not table.history_ms:
            message = f"{where}.time: without a history, the last row of a key counts, whatever its time"
            yield table.at("time"), message, "add history: 7d, or remove it"
    for node in topology.lookups:
        where, found = f"nodes.{node.name}", topology.table(node.table)
        if found is None:
            fix = did_you_mean(node.table, [one.name for one in topology.tables]) or "add it under `tables`"
            yield node.at("table"), f"{where}: there is no table {node.table!r}", fix
        elif len(node.by) != len(found.keyed_by):
            message = f"{where}.by: it names {len(node.by)}, and the key of {node.table} is {' and '.join(found.keyed_by)}"
            yield node.at("by"), message, "name one field or output for each, in this order"
        if found is not None and node.time is not None and not found.history_ms:
            message = f"{where}.time: the table {node.table} has no history, so its last row counts, whatever the event's time"
            yield node.at("time"), message, f"give {node.table} a history, or remove it"


def table_problems(table: Table, schema: Schema) -> Iterator[Finding]:
    """Yields what is wrong with the key of a table, by its schema."""
    where = f"tables.{table.name}.key"
    if not table.key and schema.has("key"):
        message = f"{where}: {table.schema} has a field 'key', so the record's key cannot be read"
        yield table.mark, message, "write key: key for the field, or rename it in the schema"
        return
    for name in table.keyed_by:
        field = schema.field(name)
        if field is None and not table.key:
            names = ", ".join(f"key.{one.name}" for one in (schema.beside.key.fields if schema.beside and schema.beside.key else ())[:3])
            yield table.mark, f"{where}: the records' keys have fields", f"name those of the table's key: {names}"
        elif field is None and name.startswith("key.") and schema.beside is not None and schema.beside.key is not None:
            fix = did_you_mean(name, [f"key.{one.name}" for one in schema.beside.key.fields])
            yield table.at("key"), f"{where}: {table.key_schema} has no field {name.removeprefix('key.')!r}", fix
        elif field is None:
            yield table.at("key"), f"{where}: {table.schema} has no field {name!r}", closest(name, [schema])
        elif field.items is not None or field.dtype not in KEYS or field.kind == "timestamp":
            yield table.at("key"), f"{where}: the field {name!r} is of kind {field.kind}", "a key is text, a whole number or true and false"


def columns_of(table: Table, schema: Schema) -> tuple[Column, ...]:
    """Returns the columns that the rows of a table are read into: its scalar fields, those inside records too; then its key and time."""
    fields = [Column(one.name, one.name, one.dtype, (), Missing("fill", None) if one.optional else Missing()) for one in schema.scalars()]
    keyed = [field for name in table.keyed_by if (field := schema.field(name)) is not None]
    times = [] if table.time is None else [field for field in [schema.field(table.time)] if field is not None]
    keys = [Column(key_column(number), one.name, one.dtype) for number, one in enumerate(keyed)]
    return (*fields, *keys, *(Column(TIME, one.name, one.dtype) for one in times))


def key_column(number: int) -> str:
    """Returns the column of a field of the key; no field of a file has such a name."""
    return f"{number}?key"


def filled(topology: Topology, schemas: Mapping[str, Schema]) -> Topology:
    """Returns the topology whose lookups know the fields of their tables, and the types of their keys; `schemas` are by table."""
    made = []
    for node in topology.lookups:
        table, schema = topology.table(node.table), schemas.get(node.table)
        if table is not None and schema is not None:
            keyed = (schema.field(name) for name in table.keyed_by)
            columns = tuple(Tensor(one.name, one.dtype) for one in schema.scalars() if one.name != FOUND)
            made.append(replace(node, keyed=tuple(one.dtype for one in keyed if one is not None), columns=columns))
    return topology.with_nodes(made)
