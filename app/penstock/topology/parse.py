"""A topology file becomes a Topology, or a TopologyError with everything that is wrong in it.

1. `document` reads the YAML into marked values. 2. `conform` holds them against the language's table. 3. What fits is
built into frozen values here, and what only shows between values (two names alike, topics that clash) is reported.
Whether names lead anywhere and types fit needs schemas and models: that is `check.wire`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from penstock.errors import Problem, TopologyError
from penstock.schema import Missing
from penstock.topology.conform import conform
from penstock.topology.document import MAX_BYTES, Listed, Mapped, Scalar, Value, read
from penstock.topology.language import TOPOLOGY
from penstock.topology.names import FIELD, ref, topic_problem
from penstock.topology.spec import Format, Input, Mark, ModelRef, Node, Ref, Sink, Source, Topology

__all__ = ["parse", "parse_text"]


def parse(path: str | Path) -> Topology:
    """The topology in the file at `path`. Raises TopologyError, also when the file cannot be read."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        reason = getattr(error, "strerror", None) or str(error)
        raise TopologyError(Problem(str(path), 0, 0, f"cannot be read: {reason}", "give the path of a topology file")) from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TopologyError(Problem(str(path), line, 1, f"not UTF-8: {error.reason}", "save the file as UTF-8")) from error
    return parse_text(text, str(path))


def parse_text(text: str, file: str = "<topology>") -> Topology:
    """The topology in `text`; `file` is its name in messages. Raises TopologyError."""
    root, problems = read(text, file)
    if root is not None:
        problems += conform(root, TOPOLOGY, file)
    if problems or root is None:
        raise TopologyError(sorted(problems, key=lambda problem: (problem.line, problem.column)))
    topology = _topology(root, file)
    if problems := [Problem(file, mark.line, mark.column, message, fix) for mark, message, fix in _clashes(topology)]:
        raise TopologyError(sorted(problems, key=lambda problem: (problem.line, problem.column)))
    return topology


def _topology(root: Value, file: str) -> Topology:
    top = _keys(root)
    return Topology(
        name=_word(top["topology"]),
        sources=tuple(_source(key, value) for key, value in _items(top["sources"])),
        nodes=tuple(_node(key, value) for key, value in _items(top["nodes"])),
        sinks=tuple(_sink(key, value) for key, value in _items(top["sinks"])),
        file=file,
    )


def _source(name: Scalar, value: Value) -> Source:
    keys = {key: cast(Scalar, item).value for key, item in _keys(value).items()}
    given: dict[str, Any] = {"dead_letter": f"{keys['topic']}.dead-letter", **keys}
    return Source(name=name.text, mark=name.mark, **given)


def _node(name: Scalar, value: Value) -> Node:
    keys = _keys(value)
    model, version = _word(keys["model"]).split("@")
    inputs = tuple(_input(key, item) for key, item in _items(keys.get("inputs")))
    kind: Any = _word(keys["kind"])
    return Node(name.text, kind, ModelRef(model, version), inputs, name.mark)


def _input(tensor: Scalar, value: Value) -> Input:
    if not isinstance(value, Mapped):
        return Input(tensor.text, _refs(value), isinstance(value, Listed), None, tensor.mark)
    keys = _keys(value)
    refs = _refs(keys["stack"] if "stack" in keys else keys["field"])
    return Input(tensor.text, refs, "stack" in keys, _missing(keys.get("missing")), tensor.mark)


def _missing(value: Value | None) -> Missing | None:
    match value:
        case None:
            return None
        case Scalar(value="reject"):
            return Missing("reject")
        case Scalar(value="nan"):
            return Missing("fill", math.nan)
        case _:
            return Missing("fill", cast(Scalar, value).value)


def _sink(name: Scalar, value: Value) -> Sink:
    keys = _keys(value)
    fields = keys["fields"]
    if isinstance(fields, Listed):
        named = tuple((found.tail or found.head, found) for found in _refs(fields))
    else:
        named = tuple((key.text, _refs(item)[0]) for key, item in _items(fields))
    return Sink(
        name=name.text,
        topic=_word(keys["topic"]),
        fields=named,
        format=cast(Format, _word(keys["format"])) if "format" in keys else "json",
        schema=_word(keys["schema"]) if "schema" in keys else None,
        key=_refs(keys["key"])[0] if "key" in keys else None,
        mark=name.mark,
    )


def _refs(value: Value) -> tuple[Ref, ...]:
    scalars = value.items if isinstance(value, Listed) else (value,)
    found = (ref(_word(scalar), scalar.mark) for scalar in scalars)
    return tuple(each for each in found if each is not None)  # none is None: their text has conformed


def _keys(value: Value) -> dict[str, Value]:
    return {key.text: item for key, item in _items(value)}


def _items(value: Value | None) -> tuple[tuple[Scalar, Value], ...]:
    return value.items if isinstance(value, Mapped) else ()


def _word(value: Value) -> str:
    return cast(Scalar, value).text


def _clashes(topology: Topology) -> Iterator[tuple[Mark, str, str]]:
    sources = {source.name: source for source in topology.sources}
    for node in topology.nodes:
        if node.name in sources:
            line = sources[node.name].mark.line
            yield node.mark, f"{node.name!r} is a node here and a source on line {line}", "rename one, so that a reference means one thing"
    for sink in topology.sinks:
        yield from _sink_clashes(sink)
    yield from _topic_clashes(topology)


def _sink_clashes(sink: Sink) -> Iterator[tuple[Mark, str, str]]:
    if sink.format != "json" and sink.schema is None:
        yield sink.mark, f"sinks.{sink.name}: the format {sink.format} needs a schema", "add schema: FILE.avsc"
    seen: set[str] = set()
    for name, source in sink.fields:
        if not re.fullmatch(FIELD, name):
            yield source.mark, f"sinks.{sink.name}: {name!r} cannot name a field", f"name it yourself: fields: {{NAME: {source.text}}}"
        if name in seen:
            yield source.mark, f"sinks.{sink.name}: two fields are called {name!r}", f"name them yourself: fields: {{NAME: {source.text}}}"
        seen.add(name)


def _topic_clashes(topology: Topology) -> Iterator[tuple[Mark, str, str]]:
    read_by: dict[str, str] = {}
    for source in topology.sources:
        for topic in (source.topic, source.dead_letter):
            if problem := topic_problem(topic):
                yield source.mark, f"sources.{source.name}: {problem}", "choose another name"
        if source.topic in read_by:
            message = f"sources.{source.name}: the topic {source.topic!r} is read by {read_by[source.topic]!r} already"
            yield source.mark, message, "one source a topic; several nodes may read it"
        read_by.setdefault(source.topic, source.name)
    dead = {source.dead_letter: source for source in reversed(topology.sources)}
    for topic, source in dead.items():
        if topic in read_by:
            yield source.mark, f"sources.{source.name}: the dead-letter topic {topic!r} is a topic that is read", "choose another name"
    written: dict[str, Sink] = {}
    for sink in topology.sinks:
        if problem := topic_problem(sink.topic):
            yield sink.mark, f"sinks.{sink.name}: {problem}", "choose another name"
        if sink.topic in read_by:
            message = (
                f"sinks.{sink.name}: the topic {sink.topic!r} is read by the source {read_by[sink.topic]!r}: events would go in circles"
            )
            yield sink.mark, message, "write to another topic"
        if sink.topic in dead:
            message = f"sinks.{sink.name}: {sink.topic!r} is the dead-letter topic of the source {dead[sink.topic].name!r}"
            yield sink.mark, message, "write to another topic"
        first = written.setdefault(sink.topic, sink)
        if first is not sink and (first.format, first.schema) != (sink.format, sink.schema):
            message = f"sinks.{sink.name}: the topic {sink.topic!r} is written by {first.name!r} in another format or schema"
            yield sink.mark, message, "one format and schema a topic"
