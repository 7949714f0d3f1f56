"""A topology compared with the schemas and signatures that it names: every name resolved, every type compared with its reader.

An event has one source. So one graph becomes one stage per source: the nodes and sinks that its fields can feed, directly or
through other nodes. A node or sink that no single source can feed is a problem, unless a match makes one of two (`matches`); so are a
node that no sink reads and a source that reaches neither a sink nor a match. A stage may read what another stage writes (`chains`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final

from penstock.errors import Problem, TopologyError
from penstock.expressions import Graph
from penstock.schema import Schema
from penstock.signature import Signature, Tensor
from penstock.topology.chains import readers, stage_order
from penstock.topology.clashes import clashes
from penstock.topology.envelopes import GONE, operation
from penstock.topology.feeds import Feeder
from penstock.topology.kinds import kind_of
from penstock.topology.matches import ask, divided, match_problems, matched
from penstock.topology.order import order
from penstock.topology.precomputed import precomputed_problems
from penstock.topology.resolve import Finding, FromField, FromNode, Names, Report, Target, Wire, closest
from penstock.topology.spec import CONDITION, LookupNode, Node, Ref, RuleNode, Sink, Source, Topology, there
from penstock.topology.stages import stage_problems
from penstock.topology.wiring import Emit, Input, Part, Stage, Wiring

__all__ = ["check", "check_events", "wire"]


def wire(
    topology: Topology,
    schemas: Mapping[str, Schema],
    signatures: Mapping[str, Signature],
    sink_schemas: Mapping[str, Schema] | None = None,
) -> Wiring:
    """Returns the topology with every name resolved.

    `schemas` are by source name, `signatures` by node name, `sink_schemas` by the name of the sinks that have one.
    Raises TopologyError with all problems.
    """
    report = Report(topology.file)
    for source in topology.sources:
        if source.name not in schemas:
            report.add(source.at("schema"), f"sources.{source.name}: its schema was not given", f"load {source.schema}")
    for node in topology.model_nodes:
        if node.name not in signatures:
            report.add(node.at("model"), f"nodes.{node.name}: the signature of {node.model} was not given", f"resolve {node.model}")
    wiring, problems = check(topology, schemas, signatures, sink_schemas or {})
    if problems := [*report.problems(), *problems]:
        raise TopologyError(problems)
    return wiring


def check(
    topology: Topology, schemas: Mapping[str, Schema], signatures: Mapping[str, Signature], sink_schemas: Mapping[str, Schema]
) -> tuple[Wiring, list[Problem]]:
    """Returns the wiring, which is complete when there are no problems, and the problems in the file's order.

    What the mappings lack is not reported: the code that could not load it has reported it.
    """
    report = Report(topology.file)
    for mark, message, fix in clashes(topology):
        report.add(mark, message, fix)
    declared, given = topology, schemas
    topology, schemas = matched(topology, schemas)  # from here on, a match is a source
    for mark, message, fix in (found for one in declared.matches for found in match_problems(one, given)):
        report.add(mark, message, fix)
    known, graphs = _signatures(topology, schemas, signatures)
    for mark, message, fix in _ambiguous(topology, schemas, known):
        report.add(mark, message, fix)
    names = Names(topology, schemas, known, report)
    graph = _Graph(topology, names, graphs)
    for source in declared.sources:
        if source.name in schemas:
            check_events(f"sources.{source.name}", source, schemas[source.name], report)
    for sink in topology.sinks:
        if sink.name in sink_schemas:
            _check_language(f"sinks.{sink.name}", sink, sink_schemas[sink.name], report)
    graph.check_use()
    written = graph.sinks()
    ordered, circles = stage_order(topology, written)
    for mark, message, fix in circles:
        report.add(mark, message, fix)
    stages = []
    for name in dict.fromkeys([*ordered, *written]):
        if (found := topology.source(name)) is not None and name in schemas and (written[name] or not graph.only_matched(name)):
            # A circle is reported once, and not also as events that the next stage cannot read.
            known_readers = {sink.name: [one for one in readers(topology, sink) if one.name in ordered] for sink in written[name]}
            stages.append(graph.stage(found, schemas, sink_schemas, known_readers))
    for mark, message, fix in precomputed_problems(declared, given, stages):
        report.add(mark, message, fix)
    wiring = Wiring(declared, tuple(stages))
    return wiring, report.problems() or _stage_problems(wiring)


def _stage_problems(wiring: Wiring) -> list[Problem]:
    report = Report(wiring.topology.file)
    for mark, message, fix in stage_problems(wiring):
        report.add(mark, message, fix)
    return report.problems()


def _signatures(
    topology: Topology, schemas: Mapping[str, Schema], models: Mapping[str, Signature]
) -> tuple[dict[str, Signature], dict[str, Graph]]:
    """Returns the signatures that are known, by node, and the graphs of the nodes that the file itself computes.

    Such a node comes after those that it reads. What is wrong with it is reported when it is wired.
    """
    found = {node.name: kind_of(node).signature(node, models.get(node.name)) for node in topology.nodes}
    known = {name: signature for name, signature in found.items() if signature is not None}
    heads = {name: {ref.head for ref in kind_of(node).refs(node)} for name in found if name not in known and (node := topology.node(name))}
    names = Names(topology, schemas, known, Report(topology.file))
    graphs = {}
    for name in order({name: [head for head in read if head in heads] for name, read in heads.items()})[0]:
        node = topology.node(name)
        if node is not None and (graph := kind_of(node).derive(node, names)) is not None:
            known[name] = Signature(tuple(read.tensor for read in graph.reads), graph.outputs)
            graphs[name] = graph
    return known, graphs


def _ambiguous(topology: Topology, schemas: Mapping[str, Schema], signatures: Mapping[str, Signature]) -> Iterator[Finding]:
    """Yields each `when` that names a node and could mean something else: what a node that gives true or false answers, or a field."""
    items: list[tuple[str, Node | Sink]] = [(f"nodes.{node.name}", node) for node in topology.nodes]
    items += [(f"sinks.{sink.name}", sink) for sink in topology.sinks]
    for where, item in items:
        like = item.when.like if item.when is not None else None
        found = signatures.get(like) if like is not None else None
        if item.when is not None and found is not None and [tensor.dtype for tensor in found.outputs] == ["bool"]:
            message = f"{where}.when: {like!r} could mean the events that it computes, or its output {found.outputs[0].name}"
            fix = f"write coalesce({like}.{found.outputs[0].name}, false) for the output, the condition of {like} for its events"
            yield item.when.mark, message, fix
        owner = next((source for source, schema in schemas.items() if like is not None and schema.has(like)), None)
        if item.when is not None and owner is not None:
            fix = f"write {owner}.{like} for the field, or rename one of them"
            yield item.when.mark, f"{where}.when: {like!r} is both a node and a field", fix


def _check_language(where: str, one: Source | Sink, schema: Schema, report: Report) -> None:
    if one.format.startswith("avro") and schema.language != "AVRO":
        report.add(one.at("schema"), f"{where}: {one.schema} is a JSON Schema, and {one.format} needs Avro", "name a file FILE.avsc")
    if isinstance(one, Sink) and one.format == "json-confluent" and schema.language != "JSON":
        message = f"{where}: {one.schema} is Avro, and readers of json-confluent expect a JSON Schema"
        report.add(one.at("schema"), message, "name a file FILE.schema.json, or write avro-confluent")


UNITS: Final = ("string", "enum", "int", "long")  # the kinds of a field that names something: an event, or what is assigned as a whole


def check_events(where: str, source: Source, schema: Schema, report: Report) -> None:
    """Reports what is wrong between a source, or a table, and its schema; `where` names it."""
    _check_language(where, source, schema, report)
    for key, name, kinds, fix in (
        ("id", source.id, UNITS, "an id is a string or a whole number"),
        ("time", source.time, ("timestamp", "long"), "an event time is a timestamp, or a long in ms"),
    ):
        if name is None:
            continue
        field = schema.field(name)
        if field is None:
            report.add(source.at(key), f"{where}.{key}: {source.schema} has no field {name!r}", closest(name, [schema]))
        elif field.kind not in kinds:
            report.add(source.at(key), f"{where}.{key}: the field {name!r} is of kind {field.kind}", fix)
    if source.envelope == "debezium" and (found := schema.field(operation(schema) or "")) is not None:
        if found.symbols and not {*found.symbols} >= GONE:
            message = f"{where}.envelope: the enum {found.name!r} lacks {' and '.join(sorted(GONE - {*found.symbols}))}"
            report.add(
                source.at("envelope"), message, f"add them in {source.schema}, or declare a string: they are how deletions are recognised"
            )
    elif source.envelope == "debezium":
        message = f"{where}.envelope: {source.schema} has no field 'op', nor 'payload.op'"
        report.add(source.at("envelope"), message, "declare it as a string: Debezium writes what the change was")


class _Graph:
    """The topology with its names resolved: what reads what, and which source can feed it."""

    def __init__(self, topology: Topology, names: Names, graphs: Mapping[str, Graph]) -> None:
        self.topology = topology
        self.graphs = graphs
        self.names = names
        self.report = names.report
        self.wires: dict[str, list[Wire]] = {node.name: kind_of(node).wires(node, names) for node in topology.nodes}
        self.record_keys: dict[str, tuple[Ref, Target | None]] = {
            node.name: (key, names.target(key, f"nodes.{node.name}.materialize.key"))
            for node in topology.nodes
            if node.materialize is not None and (key := node.materialize.key) is not None
        }
        self.fields: dict[str, dict[str, Target | None]] = {}
        self.keys: dict[str, Target | None] = {}
        for sink in topology.sinks:
            where = f"sinks.{sink.name}"
            self.fields[sink.name] = {name: names.target(ref, f"{where}.fields.{name}") for name, ref in sink.fields}
            self.keys[sink.name] = None if sink.key is None else names.target(sink.key, f"{where}.key")
        reads = {node.name: _nodes_in(target for _, target in self.read_by_node(node)) for node in topology.nodes}
        self.reads = reads
        # What a window counts must not depend on the models beside it: an event that one of them refuses goes no further.
        first = _behind([one.name for one in topology.windows], reads)
        self.order, cycles = order({name: reads[name] for name in sorted(reads, key=lambda name: name not in first)})
        for cycle in cycles:
            node = topology.node(cycle[0])
            assert node is not None
            self.report.add(
                node.mark, f"nodes.{node.name}: a cycle: {' -> '.join(cycle)}", "a node cannot wait for itself: remove one of these inputs"
            )
        self.runs = {source.name: self._runs(source) for source in topology.sources}

    def read_by_node(self, node: Node) -> list[tuple[Ref, Target | None]]:
        read = [(ref, target) for wire in self.wires[node.name] for ref, target in zip(wire.input.refs, wire.targets, strict=True)]
        keys = [self.record_keys[node.name]] if node.name in self.record_keys else []
        before = [one for one in keys if not isinstance(one[1], FromNode) or one[1].node != node.name]  # it may be its output
        return [*read, *before, *self._condition(node)]

    def read_by_sink(self, sink: Sink) -> list[tuple[Ref, Target | None]]:
        read = [(ref, self.fields[sink.name][name]) for name, ref in sink.fields]
        return [*read, *([] if sink.key is None else [(sink.key, self.keys[sink.name])]), *self._condition(sink)]

    def _condition(self, item: Node | Sink) -> list[tuple[Ref, Target | None]]:
        if item.when is None:
            return []
        signature = self.names.signatures.get(item.when.condition)
        return [(item.when.ref, FromNode(item.when.condition, signature.output(CONDITION) if signature else None))]

    def fed(self, source: Source, target: Target | None, running: Iterable[str]) -> bool:
        """Whether an event of the source has what the target means. A broken ref has been reported and counts as fed."""
        match target:
            case None:
                return True
            case FromField(name, owner, _):
                schema = self.names.schemas.get(source.name)
                return owner in (None, source.name) and (schema is None or schema.field(name) is not None)
            case FromNode(node):
                return node in running

    def check_use(self) -> None:
        """Reports what cannot be fed, nodes that nothing reads, and sources that reach no sink."""
        everywhere = set().union(*self.runs.values())
        hopeless = [node for node in self.topology.nodes if node.name in self.order and node.name not in everywhere]
        unfed = {node.name for node in self.topology.nodes} - everywhere
        for node in hopeless:
            where = node.condition if isinstance(node, RuleNode) and node.condition is not None else f"nodes.{node.name}"
            self._explain(where, node, self.read_by_node(node), unfed)
        starved = [sink for sink in self.topology.sinks if not any(self.feeds(source, sink) for source in self.topology.sources)]
        for sink in starved:
            self._explain(f"sinks.{sink.name}", sink, self.read_by_sink(sink), unfed)
        if self.names.dangling:
            return  # a mistyped name would be reported again, as a node that no sink reads
        used = self._upstream(self.topology.sinks)
        for node in self.topology.nodes:
            if node.name not in used | self.topology.conditions:
                self.report.add(node.mark, f"nodes.{node.name}: no sink reads it, directly or through other nodes", "read it, or remove it")
        for source in self.topology.sources:
            if self.only_matched(source.name):
                continue
            if not starved and not any(self.feeds(source, sink) for sink in self.topology.sinks):
                self.report.add(
                    source.mark, f"sources.{source.name}: its events reach no sink", "remove it, or add a sink that it can fill"
                )

    def only_matched(self, source: str) -> bool:
        """Whether the events of a source have a reader although no sink is fed by them: a match."""
        return any(source in one.sides for one in self.topology.matches)

    def feeds(self, source: Source, sink: Sink) -> bool:
        return all(self.fed(source, target, self.runs[source.name]) for _, target in self.read_by_sink(sink))

    def sinks(self) -> dict[str, list[Sink]]:
        """Returns the sinks that each source feeds.

        While a name leads nowhere, a sink that several sources seem to feed counts for none of them.
        """
        read = [target for node in self.topology.nodes for _, target in self.read_by_node(node)]
        read += [target for sink in self.topology.sinks for _, target in self.read_by_sink(sink)]
        certain = not self.names.dangling and None not in read
        fed = {sink.name: [source.name for source in self.topology.sources if self.feeds(source, sink)] for sink in self.topology.sinks}
        return {
            source.name: [sink for sink in self.topology.sinks if source.name in fed[sink.name] and (certain or len(fed[sink.name]) == 1)]
            for source in self.topology.sources
        }

    def stage(
        self, source: Source, schemas: Mapping[str, Schema], sink_schemas: Mapping[str, Schema], readers: Mapping[str, list[Source]]
    ) -> Stage:
        """Returns the stage of one source; `readers`, by sink name, are the sources that read what it writes.

        Nodes that no sink reads are checked too, so that all their problems are reported at once.
        """
        sinks = [sink for sink in self.topology.sinks if self.feeds(source, sink)]
        needed = self._upstream(sinks) | (set(self.wires) - self._upstream(self.topology.sinks))
        nodes = [node for name in self.order if name in needed & self.runs[source.name] and (node := self.topology.node(name))]
        asked = [target for sink in sinks for _, target in self.read_by_sink(sink)]
        asked += [target for node in nodes for _, target in self.read_by_node(node)]
        asked += [target for _, target in self.record_keys.values()]
        feeder = Feeder(self.topology, source, schemas[source.name], self.report)
        made = [feeder.step(node, self.wires[node.name], self._outputs(node, asked)) for node in nodes]
        keys = {node.name: feeder.record_key(node, *self.record_keys[node.name]) for node in nodes if node.name in self.record_keys}
        steps = [replace(step, graph=self.graphs.get(step.node.name), key=keys.get(step.node.name)) for step in made]
        emits = [
            feeder.emit(
                sink,
                self.fields[sink.name],
                self.keys[sink.name],
                sink_schemas.get(sink.name),
                [(reader, schemas[reader.name]) for reader in readers.get(sink.name, ()) if reader.name in schemas],
            )
            for sink in sinks
        ]
        id, unit = feeder.id(), feeder.unit(self.topology.releases.unit)
        if any(self.topology.model_node(node.name) for node in nodes):
            self._check_unit(source, schemas[source.name])
        match = self.topology.match(source.name)
        gather = None if match is None else ask(match, self.topology, schemas, feeder.columns)
        least = _lengths([part for step in steps for feed in step.feeds for part in feed.parts], emits)
        steps = [replace(step, least=tuple(least.get(column, 0) for column in step.columns)) for step in steps]
        stage = Stage(source.name, (Input(source, feeder.columns.all(), id, unit=unit),), tuple(steps), tuple(emits))
        return stage if gather is None else divided(stage, gather, self.topology)

    def _check_unit(self, source: Source, schema: Schema) -> None:
        """Reports what is wrong with the unit of trials in the events of a source that a model reads."""
        releases = self.topology.releases
        if not releases.unit:
            return
        field, where = schema.field(releases.unit), f"releases.unit: the source {source.name!r}, which a model reads,"
        if field is None:
            self.report.add(releases.at("unit"), f"{where} has no field {releases.unit!r}", closest(releases.unit, [schema]))
        elif field.kind not in UNITS:
            message = f"{where} has the field {releases.unit!r} of kind {field.kind}"
            self.report.add(releases.at("unit"), message, "a unit is a string or a whole number")

    def _outputs(self, node: Node, asked: Iterable[Target | None]) -> tuple[Tensor, ...]:
        signature = self.names.signatures.get(node.name)
        read = {target.tensor.name for target in asked if isinstance(target, FromNode) and target.node == node.name and target.tensor}
        if isinstance(node, LookupNode):
            read |= {there(name) for name in read}
        return () if signature is None else tuple(tensor for tensor in signature.outputs if tensor.name in read)

    def _runs(self, source: Source) -> set[str]:
        running: set[str] = set()
        for name in self.order:
            node = self.topology.node(name)
            if node is not None and all(self.fed(source, target, running) for _, target in self.read_by_node(node)):
                running.add(name)
        return running

    def _upstream(self, sinks: Iterable[Sink]) -> set[str]:
        """Returns the nodes that the sinks read, directly or through other nodes."""
        return _behind([name for sink in sinks for name in _nodes_in(target for _, target in self.read_by_sink(sink))], self.reads)

    def _explain(self, where: str, item: Node | Sink, read: list[tuple[Ref, Target | None]], unfed: set[str]) -> None:
        """Reports which source lacks what, unless the reason is a node that has been reported."""
        if any(isinstance(target, FromNode) and target.node in unfed for _, target in read):
            return
        lacks = []
        for source in self.topology.sources:
            unfed_refs = [ref for ref, target in read if not self.fed(source, target, self.runs[source.name])]
            missing = dict.fromkeys("what its `when` reads" if ref.head in self.topology.conditions else ref.text for ref in unfed_refs)
            lacks.append(f"{source.name} lacks {', '.join(missing)}")
        fix = "an event has one source: read only what one source has, or match two of them: sources: {NAME: {match: ...}}"
        heads = {ref.head for ref, _ in read}
        if match := next((one for one in self.topology.matches if len(heads & {one.name, *one.sides}) > 1), None):
            fix = f"{match.left} and {match.right} are the sources alone: write {match.name}.{match.left}.FIELD for the events that match"
        self.report.add(item.mark, f"{where}: no single source feeds it: {'; '.join(lacks)}", fix)


def _lengths(parts: Iterable[Part], emits: Iterable[Emit]) -> dict[str, int]:
    """Returns how many elements of its last axis each column has to have, by what picks one of them."""
    found: dict[str, int] = {}
    written = [field.part for emit in emits for field in emit.fields] + [emit.key for emit in emits if emit.key is not None]
    for part in (*parts, *written):
        if part.index is not None:
            found[part.column] = max(found.get(part.column, 0), part.index + 1)
    return found


def _behind(names: Iterable[str], reads: Mapping[str, Iterable[str]]) -> set[str]:
    """Returns these nodes and those that they read, directly or through other nodes."""
    found: set[str] = set()
    todo = [*names]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += reads[name]
    return found


def _nodes_in(targets: Iterable[Target | None]) -> list[str]:
    return list(dict.fromkeys(target.node for target in targets if isinstance(target, FromNode)))
