"""What is wrong between the values of one file: names that mean two things, topics that carry two things."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from penstock.provider import CPU
from penstock.topology.chains import readers
from penstock.topology.kinds import kind_of
from penstock.topology.matches import match_clashes
from penstock.topology.names import FIELD, topic_problem
from penstock.topology.resolve import Finding
from penstock.topology.spec import Mark, Sink, Source, Topology
from penstock.topology.stages import stage_clashes
from penstock.topology.tables import table_clashes

__all__ = ["clashes"]

_PROTOBUF: Final = re.compile(r"\.(proto|binpb|pb|desc)(#|$)")


def clashes(topology: Topology) -> Iterator[Finding]:
    """Yields every clash: its place, what it is, and a fix."""
    sources = {source.name: source for source in topology.sources}
    for where, entry, providers in topology.provided():
        names = [one.name for one in providers]
        for name in {name: None for name in names if names.count(name) > 1}:
            yield entry.at("providers"), f"{where}: {name} is named twice", "name it once, with all its options"
        if any(one.name == CPU[0].name and one.options for one in providers):
            text = f"{where}: {CPU[0].name} has no options, onnxruntime ignores them"
            yield entry.at("providers"), text, "remove them; its threads are the setting model_threads"
    for node in topology.nodes:
        if node.name in sources:
            line = sources[node.name].mark.line
            yield node.mark, f"{node.name!r} is a node here and a source on line {line}", "rename one, so that a reference means one thing"
        yield from kind_of(node).clashes(node)
    yield from stage_clashes(topology)
    yield from table_clashes(topology)
    yield from match_clashes(topology)
    for source in topology.sources:
        yield from _source_clashes(source)
    for part, one in (*(("sources", one) for one in topology.sources), *(("tables", one) for one in topology.tables)):
        for key, schema in (("schema", one.schema), ("key_schema", one.key_schema)):
            yield from _schema_clashes(f"{part}.{one.name}.{key}", one.format, schema, one.at(key))
        if one.coerce and not one.format.startswith("json"):
            message = f"{part}.{one.name}.coerce: {one.format} writes every value by its type"
            yield one.at("coerce"), message, "remove it; it is for json"
    for sink in topology.sinks:
        yield from _sink_clashes(sink)
        namesake = topology.node(sink.name)
        if sink.when is not None and sink.when.like is None and namesake is not None and namesake.when is not None:
            message = f"sinks.{sink.name}.when: the node of this name has a `when` as well, on line {namesake.when.mark.line}"
            yield sink.at("when"), message, "rename one of them, so that each condition has a name"
    yield from _topic_clashes(topology)
    yield from _release_clashes(topology)


def _source_clashes(source: Source) -> Iterator[Finding]:
    where = f"sources.{source.name}"
    if source.format != "bytes" and not source.schema:
        yield source.mark, f"{where}: the key 'schema' is missing: the event's schema", "add schema: FILE.avsc"
    if source.format == "bytes" and source.schema:
        yield source.at("schema"), f"{where}: bytes have no schema", "remove it: the field `value` is the array of all bytes"
    if source.format == "bytes" and source.key_schema:
        yield source.at("key_schema"), f"{where}: keys beside bytes are text", "remove it"
    if source.types and source.envelope != "cloudevents":
        yield source.at("types"), f"{where}: only CloudEvents have types", "add envelope: cloudevents, or remove it"


def _schema_clashes(where: str, format: str, schema: str | None, mark: Mark) -> Iterator[Finding]:
    if not schema:
        return
    messages = _PROTOBUF.search(schema) is not None
    if format.startswith("protobuf") and not messages:
        message = f"{where}: {schema} is no file of Protobuf, and the format is {format}"
        yield mark, message, "name a file of Protobuf: FILE.proto, or FILE.proto#MESSAGE"
    elif messages and not format.startswith("protobuf"):
        yield mark, f"{where}: {schema} is Protobuf's, and the format is {format}", "write format: protobuf, or name a file *.avsc"


def _sink_clashes(sink: Sink) -> Iterator[Finding]:
    if sink.format != "json" and sink.schema is None:
        ending = {"json": "schema.json", "avro": "avsc", "protobuf": "proto"}[sink.format.removesuffix("-confluent")]
        yield sink.at("format"), f"sinks.{sink.name}: the format {sink.format} needs a schema", f"add schema: FILE.{ending}"
    yield from _schema_clashes(f"sinks.{sink.name}.schema", sink.format, sink.schema, sink.at("schema"))
    seen: set[str] = set()
    for name, source in sink.fields:
        if not re.fullmatch(FIELD, name):
            yield source.mark, f"sinks.{sink.name}: {name!r} cannot name a field", f"name it yourself: fields: {{NAME: {source.text}}}"
        if name in seen:
            yield source.mark, f"sinks.{sink.name}: two fields are called {name!r}", f"name them yourself: fields: {{NAME: {source.text}}}"
        seen.add(name)
    for inside in [name for name in seen if any(name.startswith(f"{other}.") for other in seen)]:
        message = f"sinks.{sink.name}: {inside!r} is inside another field that is written whole"
        yield sink.at("fields"), message, "write the fields inside it, or the field"


def _topic_clashes(topology: Topology) -> Iterator[Finding]:
    read_by: dict[str, str] = {}
    for source in topology.sources:
        if problem := topic_problem(source.topic):
            yield source.at("topic"), f"sources.{source.name}: {problem}", "choose another name"
        # A default name is made from the topic's name and fails with it: one message is enough.
        if ("dead_letter" in source.marks or not problem) and (dead_problem := topic_problem(source.dead_letter)):
            yield source.at("dead_letter", "topic"), f"sources.{source.name}: {dead_problem}", "choose another name"
        if source.topic in read_by:
            message = f"sources.{source.name}: the topic {source.topic!r} is already read by {read_by[source.topic]!r}"
            yield source.at("topic"), message, "use one source per topic; several nodes may read it"
        read_by.setdefault(source.topic, source.name)
    dead = {source.dead_letter: source for source in reversed(topology.sources)}
    for topic, source in dead.items():
        if topic in read_by:
            yield (
                source.at("dead_letter", "topic"),
                f"sources.{source.name}: the dead-letter topic {topic!r} is a topic that a source reads",
                "choose another name",
            )
    yield from _written_topic_clashes(topology, dead)


def _written_topic_clashes(topology: Topology, dead: Mapping[str, Source]) -> Iterator[Finding]:
    """`dead` are the sources by their dead-letter topics."""
    written: dict[str, Sink] = {}
    for sink in topology.sinks:
        if problem := topic_problem(sink.topic):
            yield sink.at("topic"), f"sinks.{sink.name}: {problem}", "choose another name"
        for source in readers(topology, sink):
            if source.format != sink.format:
                line = source.at("format", "topic").line
                message = (
                    f"writes {sink.format} to {sink.topic!r}, and the source {source.name!r} on line {line} reads {source.format} there"
                )
                yield sink.at("format", "topic"), f"sinks.{sink.name}: {message}", "give both the same format"
            if source.envelope == "cloudevents":
                message = f"sinks.{sink.name}: the source {source.name!r} reads CloudEvents from {sink.topic!r}, and no sink writes them"
                yield sink.at("topic"), message, "remove envelope from that source, or write to another topic"
        if sink.topic in dead:
            message = f"sinks.{sink.name}: {sink.topic!r} is the dead-letter topic of the source {dead[sink.topic].name!r}"
            yield sink.at("topic"), message, "write to another topic"
        first = written.setdefault(sink.topic, sink)
        if first is not sink and (first.format, first.schema) != (sink.format, sink.schema):
            message = f"sinks.{sink.name}: the topic {sink.topic!r} is written by {first.name!r} in another format or schema"
            yield sink.at("topic"), message, "use one format and schema per topic"


def _release_clashes(topology: Topology) -> Iterator[Finding]:
    """Yields clashes with the topics of the releases, which carry nothing else.

    Default names are not known here, so only topics that the file names are compared.
    """
    releases = topology.releases
    used = {sink.topic: f"written by the sink {sink.name!r}" for sink in topology.sinks}
    used |= {source.dead_letter: f"the dead-letter topic of the source {source.name!r}" for source in topology.sources}
    used |= {source.topic: f"read by the source {source.name!r}" for source in topology.sources}
    for key, topic in (("control", releases.control), ("status", releases.status)):
        if not topic:
            continue
        if problem := topic_problem(topic):
            yield releases.at(key), f"releases.{key}: {problem}", "choose another name"
        elif topic in used:
            yield releases.at(key), f"releases.{key}: the topic {topic!r} is {used[topic]}", "use a separate topic"
        used[topic] = f"already releases.{key}"
