"""Loads what a topology file names, and checks it together: schemas from their folder, models from the registry."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from penstock.binding import Binding
from penstock.codecs import Writers, load_schema
from penstock.codecs.container import column_schema
from penstock.codecs.dialects import ENDINGS
from penstock.codecs.framing import UNREGISTERED, frame_of
from penstock.codecs.writers import Part, Registry, ids_folder, sink_frame
from penstock.engine import compile
from penstock.engine.split import behind_of, remembers
from penstock.errors import ConfigError, DecodeError, ModelError, ModelMismatch, ModelUntrusted, Problem, SchemaError, TopologyError
from penstock.expressions import Graph
from penstock.fit import as_bound, fit, strays
from penstock.model.artifact import Artifact
from penstock.model.parity import check_parity
from penstock.model.session import Session, lacking, limit_memory
from penstock.model.signer import ModelTrust
from penstock.model.trust import Policy, judge, load_trust
from penstock.model.verify import verify
from penstock.nodes import ModelNode, Runs, around_model
from penstock.nodes.window import definition
from penstock.pipeline.ports import Program, ports
from penstock.pipeline.tables import TableReader, table_reader
from penstock.provider import CPU, Provider, named
from penstock.registry.open import open_registry
from penstock.schema import Missing, Schema
from penstock.settings import Settings
from penstock.signature import Tensor
from penstock.topology.check import check_events
from penstock.topology.envelopes import read_by
from penstock.topology.names import did_you_mean
from penstock.topology.parse import parse
from penstock.topology.resolve import Report
from penstock.topology.spec import LookupNode as LookupSpec
from penstock.topology.spec import Mark, ModelRef, Topology
from penstock.topology.spec import ModelNode as ModelSpec
from penstock.topology.spec import WindowNode as WindowSpec
from penstock.topology.stages import Between, cut, stage_clashes
from penstock.topology.tables import filled, table_problems
from penstock.topology.wiring import Wiring

__all__ = [
    "Loaded",
    "admit",
    "beside",
    "bindings",
    "check_tried",
    "derived",
    "digest",
    "forgotten",
    "load",
    "placed",
    "prepare",
    "program",
    "readers",
    "rebind",
    "sessions",
    "with_models",
]  # fmt: skip

logger = logging.getLogger(__name__)

_FRAMED = ("avro-confluent", "protobuf-confluent")  # by the schema of the writer
_UNREGISTERED = int.from_bytes(UNREGISTERED[1:], "big")


@dataclass(frozen=True, slots=True)
class Share:
    """What one process runs of a topology that is cut into stages: the stages' names, and the topics between the stages of all.

    `process` names it, "" for the stages of the sources that nothing cuts, and `processes` all that there are. `schemas` are of the topics
    between, by node, and `marks` are those of their fields.
    """

    process: str
    processes: tuple[str, ...]
    prefix: str
    between: Mapping[str, Between]
    schemas: Mapping[str, Schema]
    marks: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A valid topology and everything that it names.

    `schemas` are by source name, `sink_schemas` by the name of the sinks that have one, `artifacts` by node name: the
    version that the node's alias pointed at when it was read. `absent` are the models that the file names and the registry lacks.
    `writers`, `key_writers` (by source) and `frames` (by sink) are of the formats whose frames name the writer's schema: who may have
    written values and keys, and what precedes outputs. Of the sources in `json`, events are read as JSON, whatever producers write.
    `tables` are the schemas of the tables, by name.
    With a `share`, the wiring has the stages of one process on Kafka (`shares`), and not the whole topology.
    """

    topology: Topology
    wiring: Wiring
    schemas: Mapping[str, Schema]
    sink_schemas: Mapping[str, Schema]
    artifacts: Mapping[str, Artifact]
    absent: tuple[Problem, ...] = ()
    writers: Mapping[str, Writers] = field(default_factory=dict)
    key_writers: Mapping[str, Writers] = field(default_factory=dict)
    frames: Mapping[str, bytes] = field(default_factory=dict)
    json: frozenset[str] = frozenset()
    share: Share | None = None
    tables: Mapping[str, Schema] = field(default_factory=dict)

    @property
    def nodes(self) -> frozenset[str]:
        """The nodes in the wiring."""
        return frozenset(step.node.name for stage in self.wiring.stages for step in stage.steps)


def load(
    path: str | Path | Topology,
    *,
    models: Path,
    schemas: Path,
    artifacts: Mapping[str, Artifact] | None = None,
    absent: bool = False,
    schema_registry: Registry | None = None,
    forgets: str = "",
) -> Loaded:
    """Returns the topology, or that of the file `path`, with schemas of the folder `schemas` and models of the registry `models`.

    `artifacts`, by node name, replace what the topology names. Raises TopologyError with every problem of every kind: in the file,
    in a schema, a missing model, names and types that do not fit. Models are not loaded, and their files are not verified; `prepare`
    does that. With `absent`, a missing model is a problem only in `prepare`: the control log may bind another one. The `schema_registry` is
    asked for what sources and sinks of avro-confluent and protobuf-confluent do not find in `ids/`; raises TransportError when it has to
    answer and does not. `forgets` names a caller that remembers nothing between events: for it, each window, lookup and match is a problem.
    """
    topology = path if isinstance(path, Topology) else parse(path)
    shelf = _Shelf(topology.file, models, schemas, schema_registry)
    tables = shelf.tables(topology)
    topology = filled(topology, tables)
    asked = {
        one.name: shelf.schema(f"sources.{one.name}", one.schema, one.at("schema")) if one.schema else None for one in topology.sources
    }
    keyed = {
        one.name: shelf.schema(f"sources.{one.name}", one.key_schema, one.at("key_schema")) for one in topology.sources if one.key_schema
    }
    read = [(one.name, read_by(one, asked[one.name], keyed.get(one.name))) for one in topology.sources]
    source_schemas = {name: schema for name, schema in read if schema is not None}
    written = [(one.name, shelf.schema(f"sinks.{one.name}", one.schema, one.at("schema"))) for one in topology.sinks if one.schema]
    sink_schemas = {name: schema for name, schema in written if schema}
    if artifacts is None:
        resolved = [(node.name, shelf.artifact(f"nodes.{node.name}", node.model, node.at("model"))) for node in topology.model_nodes]
        artifacts = {name: artifact for name, artifact in resolved if artifact}
    writers, frames = shelf.writers(topology, source_schemas | tables, "value"), shelf.frames(topology, sink_schemas)
    keyed |= {name: one.beside.key for name, one in tables.items() if one.beside is not None and one.beside.key is not None}
    key_writers = shelf.writers(topology, keyed, "key")
    wiring, problems = fit(topology, source_schemas, sink_schemas, artifacts)
    problems = [*shelf.problems, *problems, *_unread(topology, sink_schemas, writers, frames)]
    if forgets:
        problems += forgotten(topology, forgets)
    if problems or (shelf.absent and not absent):
        found = dict.fromkeys([*problems, *shelf.absent])
        raise TopologyError(sorted(found, key=lambda one: (one.file != topology.file, one.file, one.line, one.column)))
    return Loaded(
        topology, wiring, source_schemas, sink_schemas, artifacts, tuple(shelf.absent), writers, key_writers, frames, tables=tables
    )


def forgotten(topology: Topology, who: str, fix: str = "", *, nodes: Collection[str] | None = None, matches: bool = True) -> list[Problem]:
    """Returns a problem for each window and lookup among the `nodes` (None: all) of a topology for `who`, which knows no other events.

    So too for each match, where `matches` are asked for.

    `fix` is what to do; by default, to run what does remember.
    """
    run = "run the topology as a stream (penstock run)"
    compute = f"{run}; or compute the features of a range of events: penstock features"
    found = [
        (one.mark, f"sources.{one.name}: a match depends on earlier events, and {who} keeps none", run)
        for one in (topology.matches if matches else ())
    ]
    for one in topology.remembering:
        if nodes is not None and one.name not in nodes:
            continue
        if isinstance(one, WindowSpec):
            found.append((one.mark, f"nodes.{one.name}: a window depends on earlier events, and {who} keeps none", compute))
        else:
            found.append((one.mark, f"nodes.{one.name}: a lookup reads the table {one.table}, and {who} has none", run))
    return [Problem(topology.file, mark.line, mark.column, message, fix or do) for mark, message, do in found]


def derived(loaded: Loaded, topology: Topology, schemas: Mapping[str, Schema] | None = None) -> Loaded:
    """Returns another topology, of nodes and sources of the loaded one, with the same models. Its outputs are JSON, by no schema.

    `schemas`, by source, replace those of the loaded one. Raises TopologyError for what does not fit.
    """
    schemas = loaded.schemas if schemas is None else schemas
    artifacts = {node.name: loaded.artifacts[node.name] for node in topology.model_nodes if node.name in loaded.artifacts}
    wiring, problems = fit(topology, schemas, {}, artifacts)
    if problems:
        raise TopologyError(problems)
    named = {node.at("model") for node in topology.model_nodes}
    absent = tuple(one for one in loaded.absent if Mark(one.line, one.column) in named)
    return replace(
        loaded, topology=topology, wiring=wiring, schemas=schemas, sink_schemas={}, artifacts=artifacts, absent=absent, frames={}
    )


def shares(loaded: Loaded, prefix: str) -> dict[str, Loaded]:
    """Returns what each process runs of the topology on Kafka, by its name; {"": loaded} where nothing is materialised or matched.

    `prefix` begins the topics between the stages that the file does not name. Raises TopologyError for columns that no topic holds, for
    topics that carry something else as well, and for models that the file names and the registry lacks: the types of the topics follow
    from them.
    """
    found = cut(loaded.wiring, prefix)
    if [*found.processes] == [""]:
        return {"": loaded}
    if loaded.absent and found.between:
        raise TopologyError(loaded.absent)
    clashes = stage_clashes(loaded.topology, prefix)
    schemas, problems = {}, [Problem(loaded.topology.file, mark.line, mark.column, message, fix) for mark, message, fix in clashes]
    for node, one in found.between.items():
        fields = [Tensor(field.name, field.dtype, field.shape) for field in one.fields.values()]
        nullable = [field.name for field in one.fields.values() if field.missing == Missing("fill", None)]
        try:
            schemas[node] = column_schema(node, fields, nullable)
        except SchemaError as error:
            mark = one.spec.mark
            problems.append(Problem(loaded.topology.file, mark.line, mark.column, f"nodes.{node}.materialize: {error.problems[0].message}"))
    if problems:
        raise TopologyError(problems)
    marks = {node: _mark(schema, _origins(loaded, found.between[node])) for node, schema in schemas.items()}
    made = {}
    for process, names in found.processes.items():
        stages = tuple(stage for stage in found.wiring.stages if stage.name in names)
        share = Share(process, (*found.processes,), prefix, found.between, schemas, marks)
        made[process] = replace(loaded, wiring=replace(found.wiring, stages=stages), share=share)
    return made


def _origins(loaded: Loaded, one: Between) -> list[str]:
    """Returns where each field comes from. The only output of a model is its node's, whatever a version calls it."""
    signatures = {node: artifact.signature.outputs for node, artifact in loaded.artifacts.items()}
    alone = {f"{node}.{outputs[0].name}": node for node, outputs in signatures.items() if len(outputs) == 1}
    return [alone.get(origin, origin) for origin in one.origins]


def _mark(schema: Schema, origins: Sequence[str]) -> bytes:
    """Returns the mark of a topic's fields: of their types and, since two may have the same, of where each comes from."""
    return b"%08x" % zlib.crc32(msgspec.json.encode([[one["type"] for one in schema.avro["fields"]], origins]))


def readers(loaded: Loaded) -> dict[str, TableReader]:
    """Returns what reads each table that a lookup in the wiring reads, by name, each into separate rows."""
    described = replace(loaded, schemas={**loaded.schemas, **loaded.tables})
    read = {node.table for node in loaded.topology.lookups if node.name in loaded.nodes}
    return {one.name: table_reader(loaded.topology, one.name, described) for one in loaded.topology.tables if one.name in read}


def prepare(loaded: Loaded, settings: Settings | None = None, *, warm_rows: int | None = None, signatures: Policy | None = None) -> Program:
    """Returns the program, ready to serve: every model judged by its signer, verified (digest, signature, golden records), loaded, warm.

    A model with providers is verified on the processor, then compared with that on its providers. The models are warmed up with batches of
    `warm_rows` rows (None: the setting chunk_rows) and with single rows. `signatures` is the policy (None: that of the topology); what
    `warn` lets pass is logged. The setting model_memory holds for the process from now on. Raises ModelUntrusted, ModelCorrupt or
    ModelMismatch, which names the model, TopologyError for absent models and providers, and ConfigError for a provider that does not take a
    model; then nothing is served.
    """
    if loaded.absent:
        raise TopologyError(loaded.absent)
    settings = settings or Settings()
    limit_memory(settings.model_memory)
    policy = signatures or loaded.topology.releases.signatures
    trust = load_trust(settings.model_trust) if settings.model_trust and policy != "off" else None
    where = placed(loaded.topology, settings)
    sessions: dict[tuple[str, tuple[Provider, ...]], Session] = {}
    artifacts = {node: artifact for node, artifact in loaded.artifacts.items() if node in loaded.nodes}
    for node, artifact in artifacts.items():
        key = str(artifact), where[node]
        if key in sessions:
            continue
        admit(policy, artifact, trust)
        session = Session.load(artifact, threads=settings.model_threads)
        verify(artifact, session)
        if where[node] != CPU:
            cpu, session = session, Session.load(artifact, threads=settings.model_threads, providers=where[node])
            check_parity(artifact, session, cpu, where[node])
            logger.info("nodes.%s: %s computes on %s what it computes on the processor", node, artifact, ", ".join(map(str, where[node])))
        session.warm_up((1, settings.chunk_rows if warm_rows is None else warm_rows))
        sessions[key] = session
    return program(loaded, {node: sessions[str(artifact), where[node]] for node, artifact in artifacts.items()}, {})


def placed(topology: Topology, settings: Settings) -> dict[str, tuple[Provider, ...]]:
    """Returns the providers that compute the model of each node. Raises TopologyError with all that the installed onnxruntime lacks."""
    override = named(settings.model_providers)
    found = {node.name: override or node.providers or topology.providers or CPU for node in topology.model_nodes}
    problems = [Problem("setting model_providers", 0, 0, *lack) for lack in lacking(override).values()]
    for where, entry, providers in () if override else topology.provided():
        mark = entry.at("providers")
        for message, fix in lacking(providers).values():
            otherwise = f"{fix}; or do without it on this host: set model_providers to CPUExecutionProvider"
            problems.append(Problem(topology.file, mark.line, mark.column, f"{where}: {message}", otherwise))
    if problems:
        raise TopologyError(problems)
    return found


def rebind(loaded: Loaded, artifacts: Mapping[str, Artifact], parameters: Mapping[str, Mapping[str, object]]) -> Loaded:
    """Returns the same topology with these versions instead of the file's; `parameters` are those of `program`. All by node name.

    Raises ModelMismatch with every incompatibility: nodes that the topology does not have, names, dtypes, shapes and their readers,
    requirements that the metrics do not meet, parameters.
    """
    changed = _whole(loaded, artifacts, parameters)
    return changed if loaded.share is None else _same_share(loaded, shares(changed, loaded.share.prefix))


def check_tried(
    loaded: Loaded, artifacts: Mapping[str, Artifact], parameters: Mapping[str, Mapping[str, object]], changed: frozenset[str]
) -> None:
    """Checks what no stage sees alone of versions that are to be tried, where they differ in the `changed` nodes; as `rebind`.

    Raises ModelMismatch where a window of any stage would remember the answers of two versions, and for nodes of several stages: a row that
    falls back in one would be the candidate's in the next.
    """
    whole = _whole(loaded, artifacts, parameters)
    windows = {node.name for node in whole.topology.windows}
    for stage in whole.wiring.stages:
        for name in sorted(windows & behind_of(stage.steps, changed)):
            raise remembers(name)
    if loaded.share is not None:
        stages = [name for name, one in shares(whole, loaded.share.prefix).items() if one.nodes & changed]
        if len(stages) > 1:
            raise ModelMismatch(
                f"it changes nodes of the stages {', '.join(stages)}: try one stage after the other, or deploy it without a trial"
            )


def _whole(loaded: Loaded, artifacts: Mapping[str, Artifact], parameters: Mapping[str, Mapping[str, object]]) -> Loaded:
    """Returns the whole topology, all stages, with these versions; see `rebind`."""
    topology = as_bound(loaded.topology, {name: ModelRef(one.name, one.version) for name, one in artifacts.items()})
    wiring, problems = fit(topology, loaded.schemas, loaded.sink_schemas, artifacts, parameters)
    if found := [*strays(topology, artifacts), *problems]:
        bound = ", ".join(f"{name}={artifact}" for name, artifact in artifacts.items())
        raise ModelMismatch(f"{bound} does not fit the topology: " + "; ".join(map(str, found)))
    return replace(loaded, wiring=wiring, artifacts=artifacts, share=None)


def _same_share(loaded: Loaded, made: Mapping[str, Loaded]) -> Loaded:
    """Returns the share of the same process. Raises ModelMismatch where another version would change what a topic between stages holds."""
    assert loaded.share is not None, "the caller has looked"
    found = made[loaded.share.process]
    assert found.share is not None, "materialised nodes stay materialised"
    for node, mark in loaded.share.marks.items():
        if found.share.marks[node] != mark:
            topic = loaded.share.between[node].topic
            raise ModelMismatch(f"nodes.{node}: the topic {topic} holds what the live versions write and read; its fields would change; "
                                "give `materialize` another topic, and start the stages with that file")  # fmt: skip
    return found


def program(loaded: Loaded, sessions: Mapping[str, Session], parameters: Mapping[str, Mapping[str, object]]) -> Program:
    """Returns the plan of the loaded models and its ports. `parameters`, by node name, replace the file's."""
    # In the topology's order, not the release's: outputs of all generations name them alike.
    nodes = loaded.nodes
    versions = {node.name: str(loaded.artifacts[node.name]) for node in loaded.topology.model_nodes if node.name in nodes}
    rules = {name: _rule_session(graph) for name, graph in loaded.wiring.graphs.items()}
    versions |= {name: session.label for name, session in rules.items()}
    versions |= {node.name: f"window:{definition(node).state[:12]}" for node in loaded.topology.windows if node.name in nodes}
    versions |= {node.name: f"lookup:{_digest_of(loaded, node)}" for node in loaded.topology.lookups if node.name in nodes}
    plan = compile(loaded.wiring, {**sessions, **rules}, versions, parameters)
    described, marks = loaded, dict[str, bytes]()
    if (share := loaded.share) is not None:
        marks = dict(share.marks)
        described = replace(loaded, schemas={**loaded.schemas, **share.schemas}, sink_schemas={**loaded.sink_schemas, **share.schemas})
    return Program(plan, ports(loaded.wiring, described, json=loaded.json, marks=marks), staged=loaded.share is not None)


def _digest_of(loaded: Loaded, node: LookupSpec) -> str:
    """Returns the beginning of a digest of what a lookup reads: another table or key is another lookup."""
    table = loaded.topology.table(node.table)
    parts = _plain([replace(node, materialize=None), table])
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()[:12]


def _rule_session(graph: Graph) -> Session:
    """Returns the loaded graph of a rule, by the label `rule:DIGEST`, warm for one row."""
    session = Session.load(graph.model)
    session.label = graph.label
    session.warm_up((1,))
    return session


def bindings(loaded: Loaded) -> dict[str, Binding]:
    """Returns generation 0 as a release would bind it: what each node of the file is bound to."""
    return {
        node: Binding(uri=f"models:/{one.name}/{one.version}", digest=one.digest, manifest=one.manifest_digest)
        for node, one in loaded.artifacts.items()
    }


def digest(loaded: Loaded, bound: Mapping[str, Binding] | None = None, *others: object) -> str:
    """Returns what decides the outputs, as text to compare: a digest of the topology, each node's model and parameters, and `others`.

    `bound` are the models (None: those of the file). Comments, topics, stages and the order of keys change nothing.
    """
    topology = loaded.topology
    nodes = [replace(node, materialize=None) for node in topology.nodes]
    bare = [replace(node, model=None) if isinstance(node, ModelSpec) else node for node in nodes]  # type: ignore[arg-type]  # only to digest it
    sinks = [(one.name, one.fields, one.when) for one in topology.sinks]
    sources = [(one.name, one.format == "bytes", one.envelope, one.types, one.coerce) for one in (*topology.sources, *topology.tables)]
    models = {node: (one.digest, one.parameters) for node, one in (bindings(loaded) if bound is None else bound).items()}
    kinds = [one.fields for one in loaded.schemas.values()]
    matches = [topology.matches] if topology.matches else []  # of files without any, the digest is what it was
    parts = [models, bare, sinks, sources, *matches, *others, kinds]
    return f"sha256:{hashlib.sha256(msgspec.json.encode(_plain(parts), order='sorted')).hexdigest()}"


def _plain(value: Any) -> Any:
    """Returns a value as JSON can hold it: of a dataclass, the fields that decide whether two are equal."""
    if is_dataclass(value) and not isinstance(value, type):
        return [type(value).__name__, *(_plain(getattr(value, one.name)) for one in fields(value) if one.compare)]
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in (sorted(value, key=str) if isinstance(value, set | frozenset) else value)]
    return value if value is None or isinstance(value, bool | int | str) else repr(value)


def sessions(program: Program) -> dict[str, Session]:
    """Returns the loaded models of a program, by node."""
    return {
        node.name: node.model
        for stage in program.plan.stages.values()
        for node in stage.nodes
        if isinstance(node, ModelNode) and isinstance(node.model, Session)
    }


def beside(program: Program) -> Program:
    """Returns the same program over the same loaded models, which another thread may run while the loop runs this one."""
    twins: dict[int, Session] = {}

    def twin(node: ModelNode) -> Runs:
        return twins.setdefault(id(node.model), node.model.twin()) if isinstance(node.model, Session) else node.model

    return with_models(program, twin)


def with_models(program: Program, chosen: Callable[[ModelNode], Runs]) -> Program:
    """Returns the same program with the chosen model in each node that runs one."""

    def changed(node: ModelNode) -> ModelNode:
        return replace(node, model=chosen(node))

    stages = {
        name: replace(one, nodes=tuple(around_model(node, changed) for node in one.nodes)) for name, one in program.plan.stages.items()
    }
    return replace(program, plan=replace(program.plan, stages=stages))


def admit(policy: Policy, artifact: Artifact, trust: ModelTrust | None) -> None:
    """Raises ModelUntrusted for a version that may not serve, before it is loaded. Logs the signer, and what `warn` lets pass."""
    verdict = judge(policy, artifact, trust, now=datetime.now(UTC))
    if not verdict.accepted:
        raise ModelUntrusted(verdict.message, name=artifact.name, version=artifact.version)
    if verdict.message:
        logger.warning("%s", verdict.message)
    elif verdict.signer:
        logger.info("model %s is signed by %s", artifact, verdict.signer)


def _unread(
    topology: Topology, schemas: Mapping[str, Schema], writers: Mapping[str, Writers], frames: Mapping[str, bytes]
) -> Iterator[Problem]:
    """Yields the sinks that write what a source of the same topology cannot read."""
    for sink in topology.sinks:
        for source in topology.sources:
            if sink.topic != source.topic or sink.name not in frames or source.name not in writers:
                continue
            try:
                writers[source.name].admit(frames[sink.name], schemas[sink.name])
            except DecodeError as error:
                mark = sink.at("schema")
                message = f"sinks.{sink.name}: the source {source.name!r} cannot read what it writes: {error}"
                yield Problem(topology.file, mark.line, mark.column, message)


class _Shelf:
    """Fetches what the topology names, each thing once; a missing thing is a problem at the line that names it."""

    def __init__(self, file: str, models: Path, schemas: Path, schema_registry: Registry | None) -> None:
        self.problems: list[Problem] = []
        self.absent: list[Problem] = []
        self._file = file
        self._registry = open_registry(models)
        self._folder = schemas
        self._schema_registry = schema_registry
        self._schemas: dict[str, Schema | None] = {}
        self._artifacts: dict[ModelRef, Artifact | ModelError | None] = {}

    def schema(self, where: str, name: str, mark: Mark) -> Schema | None:
        path = self._folder / name
        if not (file := self._folder / name.partition("#")[0]).is_file():
            endings = tuple(ending for one in ENDINGS.values() for ending in one)
            known = sorted(str(one.relative_to(self._folder)) for one in self._folder.rglob("*.*") if one.name.endswith(endings))
            self._report(mark, f"{where}: there is no schema file {file}", did_you_mean(name.partition("#")[0], known))
            return None
        if name not in self._schemas:
            try:
                self._schemas[name] = load_schema(path)
            except SchemaError as error:
                self.problems += error.problems
                self._schemas[name] = None
        return self._schemas[name]

    def tables(self, topology: Topology) -> dict[str, Schema]:
        """Returns the schemas of the tables, by name."""
        found = {}
        for one in topology.tables:
            where = f"tables.{one.name}"
            schema = self.schema(where, one.schema, one.at("schema"))
            keyed = self.schema(where, one.key_schema, one.at("key_schema")) if one.key_schema else None
            if (read := read_by(one, schema, keyed)) is None or (one.key_schema and keyed is None):
                continue
            report = Report(self._file)
            check_events(where, one, read, report)
            for mark, message, fix in table_problems(one, read):
                report.add(mark, message, fix)
            self.problems += report.problems()
            if not report.problems():
                found[one.name] = read
        return found

    def writers(self, topology: Topology, schemas: Mapping[str, Schema | None], part: Part) -> dict[str, Writers]:
        """Returns the writers of the values or keys of the sources and tables whose frames name the writer's schema, by name."""
        found = {}
        for source in (*topology.sources, *topology.tables):
            if source.format in _FRAMED and (schema := schemas.get(source.name)) is not None:
                with self._noting():
                    found[source.name] = Writers.load(
                        schema, ids_folder(schema), registry=self._schema_registry, topic=source.topic, part=part
                    )
        return found

    def frames(self, topology: Topology, schemas: Mapping[str, Schema]) -> dict[str, bytes]:
        """Returns the frames of the sinks whose format has one, by sink."""
        found: dict[str, bytes] = {}
        for sink in topology.sinks:
            if sink.format.endswith("-confluent") and (schema := schemas.get(sink.name)) is not None:
                with self._noting():
                    stand_in = frame_of(_UNREGISTERED - len(found))  # of each sink, so that a chained source knows them apart
                    found[sink.name] = sink_frame(
                        schema, ids_folder(schema), registry=self._schema_registry, topic=sink.topic, unregistered=stand_in
                    )
        return found

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except SchemaError as error:
            self.problems += error.problems

    def artifact(self, where: str, model: ModelRef, mark: Mark) -> Artifact | None:
        """Returns the version. An alias gives the same one for every node, even when it moves between two calls."""
        if model not in self._artifacts:
            try:
                self._artifacts[model] = self._registry.resolve(model.name, model.version)
            except ModelError as error:
                self._artifacts[model] = error
            except ConfigError as error:
                self.problems += error.problems
                self._artifacts[model] = None
        found = self._artifacts[model]
        if isinstance(found, ModelError):
            self.absent.append(Problem(self._file, mark.line, mark.column, f"{where}: {found}"))
            return None
        return found

    def _report(self, mark: Mark, message: str, fix: str = "") -> None:
        self.problems.append(Problem(self._file, mark.line, mark.column, message, fix))
