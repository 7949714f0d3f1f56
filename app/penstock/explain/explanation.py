"""Explains one record: the steps that the package lists, in their order."""

from __future__ import annotations

from dataclasses import dataclass, replace

from penstock.errors import ConfigError, DecodeError, Problem, RecordMissing, SchemaError, TopicMissing, TopologyError, Untraceable
from penstock.explain.bound import Bound, bound_now, bound_then, load_bound, load_stage
from penstock.explain.comparison import Compared, Verdict, compare, compare_values, worst
from penstock.explain.provenance import DeadLetter, Origin, provenance
from penstock.explain.rerun import Rerun, read_event, rerun
from penstock.pipeline import Program
from penstock.pipeline.letters import ID, MATCH
from penstock.record import Position, Record
from penstock.runtime import Loaded, forgotten
from penstock.settings import Settings
from penstock.topology.parse import parse
from penstock.topology.spec import Source, Topology
from penstock.topology.stages import topics_between
from penstock.topology.wiring import Matched
from penstock.transports.kafka.lookup import read_at

__all__ = ["Comparison", "Explanation", "explain"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A published record and the one that was computed again."""

    sink: str
    key: Compared
    fields: tuple[Compared, ...]
    same_bytes: bool

    @property
    def verdict(self) -> Verdict:
        return worst(one.verdict for one in (self.key, *self.fields))


@dataclass(frozen=True, slots=True)
class Explanation:
    """The record at a position, and everything that made it.

    For a prediction, `comparison` is None when the run again gives no output for its topic. For a dead letter, `recorded` is the
    failure that was written with it, and `now` whether it was run through what is active today, not through what failed on it. Of a pair,
    `input` is the left record, and `partner` the right one.
    """

    record: Record
    topology: Topology
    bound: Bound
    source: Source
    input: Record
    rerun: Rerun
    comparison: Comparison | None = None
    recorded: DeadLetter | None = None
    now: bool = False
    partner: Record | None = None

    @property
    def event_id(self) -> str:
        """The event's id as the record's header has it; "" in a record that was written before outputs carried one."""
        return next(((value or b"").decode(errors="replace") for name, value in self.record.headers if name == ID), "")

    @property
    def verdict(self) -> Verdict | None:
        """Whether the prediction was computed again as it was published; None for a dead letter, which has no published output."""
        if self.recorded is not None:
            return None
        return self.comparison.verdict if self.comparison else Verdict.DIFFERENT


def explain(position: Position, settings: Settings, topology: Topology | None = None, *, now: bool = False) -> Explanation:
    """Explains the record at the position; with `now`, a dead letter is run through what is active today.

    Without `topology`, reads the file in `settings.topologies` that has the name in the record's headers. Blocks; do not call it on
    an event loop.

    Raises TopicMissing, RecordMissing for a record or its input that does not exist (any longer), Untraceable for a record that no
    worker wrote or that contradicts the control log, ConfigError for a topology that is not the record's, ModelError for a version
    that cannot be fetched, TransportUnavailable, AccessRefused.
    """
    record = read_at(settings, position)  # 1
    said = provenance(record)
    if isinstance(said, DeadLetter):
        return _explain_dead_letter(record, said, settings, topology, now=now)
    topology = topology or _named(said.topology, position, settings)
    source = _source_of(said, topology, position)
    paired = _paired(record, topology)
    bound = bound_then(said, topology, position, settings)  # 2
    at = said.last if topology.remembering and paired is None else said.source
    try:
        came = read_at(settings, at)  # 3
    except (RecordMissing, TopicMissing) as error:
        raise type(error)(f"{position}: the input that it was made from is gone: {error}") from error
    partner = _partner(paired, position, settings)
    if paired is None:
        loaded, program, stage = _loaded(topology, bound, settings, at.topic, source, said.missing)
    else:
        loaded, program = load_bound(topology, bound, settings)
        stage = _stage_of(program, at.topic, paired, topology, position)
    _same_rules(said, loaded, position)
    again = rerun(loaded, program, stage, came, paired is not None, partner)  # 4
    source = program.plan.stages[stage].wired.source
    return Explanation(record, topology, bound, source, came, again, _compare(record, again, loaded), partner=partner)  # 5


def _loaded(
    topology: Topology,
    bound: Bound,
    settings: Settings,
    topic: str,
    source: Source | None,
    missing: tuple[str, ...] = (),
    reason: str = "",
) -> tuple[Loaded, Program, str]:
    """Returns what is run again, and the name of its stage: of a topology with windows or lookups, only the stage that has read the topic.

    What a window or a table held then is gone; what a stage behind it reads is in the topic between. A join did without the nodes that
    are `missing`.
    """
    if source is None or topology.remembering:
        return load_stage(topology, bound, settings, topic)
    loaded, program = load_bound(topology, bound, settings, missing)
    if source.name not in program.plan.stages:
        message = f"the events of {source.name} are only matched, and one of them cannot be run alone{reason}"
        raise ConfigError(Problem(topology.file, source.mark.line, source.mark.column, message))
    return loaded, program, source.name


def _explain_dead_letter(record: Record, said: DeadLetter, settings: Settings, topology: Topology | None, *, now: bool) -> Explanation:
    position = record.position
    if said.where == "read":
        raise Untraceable(f"{position} is a dead letter of what is no record, so nothing can be run: {said.message}")
    if topology is None and said.origin is None:
        raise ConfigError(f"{position} is a dead letter, which does not name its topology: penstock explain TOPOLOGY {position}")
    if topology is None:
        assert said.origin is not None
        topology = _named(said.origin.topology, position, settings)
    if topology.match(said.where) is not None:
        raise Untraceable(f"{position} was refused before it was matched, so nothing can be run: {said.message}")
    paired = _paired(said.input, topology)
    if not topology.remembering or paired is not None:
        said = _entered(said, topology, settings)
    origin = None if now else said.origin
    if origin is not None:
        _same(origin, topology, position)
    source = None if topology.remembering else _source(topology, said.input.topic, position)
    bound = bound_now(topology, settings) if origin is None else bound_then(origin, topology, position, settings)
    came = said.input
    if said.truncated:
        try:
            came = read_at(settings, came.position)
        except (RecordMissing, TopicMissing) as error:
            raise type(error)(f"{position}: the dead letter was cut, and the record that it was made from is gone: {error}") from error
    partner = _partner(paired, position, settings)
    if paired is None:
        loaded, program, stage = _loaded(topology, bound, settings, came.topic, source, reason=f": {said.message}")
    else:
        loaded, program = load_bound(topology, bound, settings)
        stage = _stage_of(program, came.topic, paired, topology, position)
    if origin is not None:
        _same_rules(origin, loaded, position)
    again = rerun(loaded, program, stage, came, paired is not None, partner)
    source = program.plan.stages[stage].wired.source
    return Explanation(record, topology, bound, source, came, again, recorded=said, now=origin is None, partner=partner)


def _entered(said: DeadLetter, topology: Topology, settings: Settings) -> DeadLetter:
    """Returns a dead letter between two stages as one of the event that it comes from, with what the stages before have said."""
    between = {topic for topic, _ in topics_between(topology, f"{settings.application}.{topology.name}").values()}
    if said.input.topic not in between:
        return said
    before = provenance(said.input)
    assert isinstance(before, Origin), "a stage writes outputs"
    origin = said.origin and replace(
        said.origin,
        models={**before.models, **said.origin.models},
        rules={**before.rules, **said.origin.rules},
        stages={**before.stages, **said.origin.stages},
        source=before.source,
    )
    return replace(said, input=read_at(settings, before.source), origin=origin, truncated=False)


# -- the topology file -------------------------------------------------------------------------------------------------


def _named(name: str, position: Position, settings: Settings) -> Topology:
    path = settings.topologies / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(f"{position} was written by the topology {name}, and there is no {path}: penstock explain FILE {position}")
    return parse(path)


def _source_of(said: Origin, topology: Topology, position: Position) -> Source:
    """Returns the source that the record came from. Raises ConfigError when the topology did not make the record."""
    _same(said, topology, position)
    if all(sink.topic != position.topic for sink in topology.sinks):
        between = "; if it is a topic between stages, explain the prediction that its record became" if topology.remembering else ""
        raise _changed(topology, f"no sink writes to {position.topic}{between}", position)
    return _source(topology, said.source.topic, position)


def _same(said: Origin, topology: Topology, position: Position) -> None:
    """Raises ConfigError when the topology is another one, or has other nodes."""
    if topology.name != said.topology:
        raise ConfigError(Problem(topology.file, 0, 0, f"this is the topology {topology.name}, but {said.topology} wrote {position}"))
    nodes = [node.name for node in topology.nodes]
    named = {**said.models, **said.rules}
    gone, new = [one for one in named if one not in nodes], [one for one in nodes if one not in named and not said.stages]
    changes = [*(f"it had the node {one!r}" for one in gone), *(f"it had no node {one!r}" for one in new)]
    if changes:
        raise _changed(topology, f"when {position} was written, {', '.join(changes)}", position)


def _same_rules(said: Origin, loaded: Loaded, position: Position) -> None:
    """Raises ConfigError when a rule computes something else than what made the record: no registry keeps earlier ones."""
    for node, graph in loaded.wiring.graphs.items():
        if said.rules.get(node, "" if said.stages else None) not in (graph.label, ""):
            message = f"when {position} was written, the node {node!r} was {said.rules.get(node)}, now it is {graph.label}"
            raise _changed(loaded.topology, message, position)


def _source(topology: Topology, topic: str, position: Position) -> Source:
    for source in topology.sources:
        if source.topic == topic:
            return source
    raise _changed(topology, f"{position} came from the topic {topic}, which no source reads", position)


def _paired(record: Record, topology: Topology) -> str | None:
    """Returns the position of the right record of a pair, "" for a left one alone; None where no match has made the record."""
    said = dict(record.headers)
    return (said[MATCH] or b"").decode(errors="replace") if MATCH in said and topology.matches else None


def _partner(paired: str | None, position: Position, settings: Settings) -> Record | None:
    """Returns the right record of a pair, if it has one. Raises Untraceable, RecordMissing and TopicMissing."""
    if not paired:
        return None
    try:
        return read_at(settings, Position.parse(paired, "/"))
    except ValueError as error:
        raise Untraceable(f"{position}: its headers are not as a worker of Penstock writes them: {error}") from None
    except (RecordMissing, TopicMissing) as error:
        raise type(error)(f"{position}: the right record of its pair is gone: {error}") from error


def _stage_of(program: Program, topic: str, paired: str, topology: Topology, position: Position) -> str:
    """Returns the stage that matches the topic with that of the right record; of a left record alone, the first that matches its topic."""
    for name, stage in program.plan.stages.items():
        topics = stage.wired.topics
        if isinstance(stage.wired.gather, Matched) and topics[0] == topic and paired.partition("/")[0] in ("", topics[1]):
            steps = {step.node.name for step in stage.wired.steps}
            if problems := forgotten(
                topology, "a record alone", "what is looked up for a pair cannot be explained", nodes=steps, matches=False
            ):
                raise TopologyError(problems)
            return name
    raise _changed(topology, f"{position} came from a match of {topic}, which there is not any more", position)


def _changed(topology: Topology, message: str, position: Position) -> ConfigError:
    fix = f"the file has changed since: penstock explain FILE {position}, with the file as it was"
    return ConfigError(Problem(topology.file, 0, 0, message, fix))


# -- 5: as published, and again ----------------------------------------------------------------------------------------


def _compare(record: Record, again: Rerun, loaded: Loaded) -> Comparison | None:
    """Compares the record with the new output for its topic; when two sinks write there, with the more similar one."""
    sink = next(sink for sink in loaded.topology.sinks if sink.topic == record.topic)
    try:
        published = read_event(sink.format, loaded.sink_schemas.get(sink.name), record.value, frame=loaded.frames.get(sink.name, b""))
    except DecodeError as error:
        message = f"{record.position} is not an event of the sink {sink.name}: {error}"
        raise SchemaError(
            Problem(loaded.topology.file, sink.mark.line, sink.mark.column, message, "its schema may have changed since")
        ) from error
    found = [
        Comparison(
            one.sink,
            Compared("key", record.key, one.key, compare_values(record.key, one.key)),
            compare(published, one.event),
            record.value == one.value,
        )
        for one in again.outputs
        if one.topic == record.topic
    ]
    return min(found, key=lambda one: list(Verdict).index(one.verdict), default=None)
