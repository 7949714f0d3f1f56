"""Matches: sources whose events are pairs of events of two others. What they read, what they hold, and where they are remembered.

A match `paid` of `orders` and `payments` is a source to everything that reads it, whose events have two records: `orders`, and `payments`,
which is null where a left event is kept without a partner. So references are `paid.orders.amount`, and names without a source never mean
them. When its stage is wired, the columns are divided into those of its two topics.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from penstock.joins import MATCH_FORMAT
from penstock.schema import Field, Missing, Schema
from penstock.topology.feeds import Columns
from penstock.topology.names import did_you_mean
from penstock.topology.resolve import Finding, closest
from penstock.topology.spec import Match, Source, Topology
from penstock.topology.wiring import Input, Matched, Stage

__all__ = ["ask", "changelogs", "divided", "match_clashes", "match_problems", "matched", "schema_of", "state_of"]

SIDES: Final = ("left", "right")
_KINDS: Final = {"string": "text", "enum": "text", "int": "a whole number", "long": "a whole number", "boolean": "true or false"}


def matched(topology: Topology, schemas: Mapping[str, Schema]) -> tuple[Topology, dict[str, Schema]]:
    """Returns the topology with each match as a source, and the schemas with those of the matches, as far as their sources have one."""
    sources, known = [*topology.sources], dict(schemas)
    for one in topology.matches:
        left, found = topology.source(one.left), schema_of(one, schemas)
        id = f"{one.left}.{left.id}" if left is not None and left.id is not None else None
        time = f"{one.left}.{left.time}" if left is not None and left.time is not None else None
        sources.append(Source(name=one.name, topic="", id=id, time=time, mark=one.mark, marks=one.marks))
        if found is not None:
            known[one.name] = found
    return replace(topology, sources=tuple(sources)), known


def schema_of(match: Match, schemas: Mapping[str, Schema]) -> Schema | None:
    """Returns the schema of the pairs; None where that of a source is not known."""
    left, right = schemas.get(match.left), schemas.get(match.right)
    if left is None or right is None:
        return None
    fields = (
        Field(match.left, "record", fields=left.fields),
        Field(match.right, "record", optional=match.unmatched == "keep", fields=right.fields),
    )
    certain = {f"{name}.{path}" for name, one in ((match.left, left), (match.right, right)) for path in one.certain}
    return Schema(match.name, fields, certain=frozenset(certain))


def match_clashes(topology: Topology) -> Iterator[Finding]:
    """Yields what is wrong with the matches by the file alone."""
    names = [source.name for source in topology.sources]
    for one in topology.matches:
        where = f"sources.{one.name}.match"
        for key, name in zip(SIDES, one.sides, strict=True):
            if topology.match(name) is not None:
                fix = "write its events to a sink, and read their topic with a source"
                yield one.at(key), f"{where}.{key}: {name!r} is a match itself, and has no topic", fix
            elif name not in names:
                yield one.at(key), f"{where}.{key}: there is no source {name!r}", did_you_mean(name, names)
        if one.left == one.right:
            yield one.at("right"), f"{where}.right: a source is not matched with itself", "name another source"
        elif others := [key.removeprefix("by.") for key in one.marks if key.startswith("by.") and key[3:] not in one.sides]:
            fix = f"name fields of {' and '.join(one.sides)}"
            yield one.at(f"by.{others[0]}"), f"{where}.by: {others[0]!r} is neither of its sources", fix
        elif not all(one.by) or len(one.by[0]) != len(one.by[1]):
            yield one.at("by"), f"{where}.by: {one.left} and {one.right} have to name as many fields", f"{{{one.left}: A, {one.right}: B}}"
        if topology.node(one.name) is not None or any(sink.name == one.name for sink in topology.sinks):
            what = "node" if topology.node(one.name) is not None else "sink"
            yield one.mark, f"sources.{one.name}: a {what} has this name as well", "rename one: both would name a stage"


def match_problems(match: Match, schemas: Mapping[str, Schema]) -> Iterator[Finding]:
    """Yields the fields of the key that the schemas do not have, or with which no two events can be equal."""
    found: list[list[Field | None]] = []
    where = f"sources.{match.name}.match.by"
    for name, paths in zip(match.sides, match.by, strict=True):
        schema = schemas.get(name)
        fields = [None if schema is None else schema.field(path) for path in paths]
        found.append(fields)
        for path, field in zip(paths, fields, strict=True):
            mark = match.at(f"by.{name}", "by")
            if field is None and schema is not None:
                yield mark, f"{where}: the source {name!r} has no field {path!r}", closest(path, [schema])
            elif field is not None and field.kind not in _KINDS:
                yield mark, f"{where}: {name}.{path} is of kind {field.kind}", "a key is text, a whole number or true and false"
    for left, right in zip(*found, strict=False):
        kinds = [_KINDS.get(one.kind) for one in (left, right) if one is not None]
        if left is not None and right is not None and None not in kinds and kinds[0] != kinds[1]:
            message = f"{where}: {match.left}.{left.name} is {kinds[0]}, and {match.right}.{right.name} is {kinds[1]}"
            yield match.at("by"), message, "name fields of the same type: others are never equal"


def ask(match: Match, topology: Topology, schemas: Mapping[str, Schema], columns: Columns) -> Matched:
    """Asks for the columns of both keys and times, and returns how the stage gathers its rows. Events without one of them are refused."""
    by: list[tuple[str, ...]] = []
    times, scales = [], []
    for name, paths in zip(match.sides, match.by, strict=True):
        schema, source = schemas[name], topology.source(name)
        found = [schema.field(path) for path in paths]
        by.append(tuple(columns.add(f"{name}.{one.name}", one.dtype, (), Missing()).name for one in found if one is not None))
        time = schema.field(source.time) if source is not None and source.time is not None else None
        times.append("" if time is None else columns.add(f"{name}.{time.name}", time.dtype, (), Missing()).name)
        scales.append(1000 if time is not None and time.unit == "us" else 1)
    return Matched(match, (by[0], by[1]), (times[0], times[1]), (scales[0], scales[1]), state_of(match, topology))


def divided(stage: Stage, gather: Matched, topology: Topology) -> Stage:
    """Returns the stage of a match, which was wired as one of one source, with an input for each of its two topics."""
    (only,) = stage.inputs
    inputs = []
    for name in gather.match.sides:
        source = topology.source(name)
        assert source is not None, "a match of what does not exist has been reported"
        columns = (replace(one, field=one.field.removeprefix(f"{name}.")) for one in only.columns if one.field.startswith(f"{name}."))
        inputs.append(Input(source, tuple(columns), only.id if name == gather.match.left else None))
    return replace(stage, inputs=tuple(inputs), gather=gather)


def state_of(match: Match, topology: Topology) -> str:
    """Returns the name of what a match remembers: with another one of these, it is another state."""
    sources = [topology.source(name) for name in match.sides]
    read = [(one.topic, one.time) for one in sources if one is not None]
    said = [MATCH_FORMAT, read, match.by, match.within_ms, match.before_ms, match.unmatched]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def changelogs(topology: Topology, prefix: str) -> dict[str, str]:
    """Returns the topics of what each match remembers, MATCH.left and MATCH.right. `prefix` begins the names."""
    return {f"{one.name}.{side}": f"{prefix}.{one.name}.{side}.{state_of(one, topology)}" for one in topology.matches for side in SIDES}
