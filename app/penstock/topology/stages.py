"""Cuts a wiring behind the nodes that are materialised: what runs in separate processes on Kafka, with a topic in between.

1. Each materialised node ends a stage, which is named after it. The sinks that read the same materialised nodes, directly or through
   others, are written by one more stage, which is named after the first of them; those that read none stay in the stage of their source.
2. A node that is not materialised runs in each stage that reads it. So a stage begins behind the nearest materialised nodes that stand
   before it, or at its source.
3. A materialised topic holds what later stages read: the node's outputs, and the columns of the event and of earlier materialised nodes
   that are only passed on. Its fields have the types of the columns, so a stage reads exactly what it would have read in one process.

Where nothing is materialised, nothing changes. What runs on one host at once (a service, a batch, a program) is never cut.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from penstock.joins import Quorum, present
from penstock.schema import Column, Missing
from penstock.topology.names import topic_problem
from penstock.topology.order import order
from penstock.topology.resolve import Finding
from penstock.topology.spec import Join, Materialize, Node, Sink, Source, Topology
from penstock.topology.wiring import Emit, Gap, Input, Joined, Matched, OutputField, Part, Stage, Step, Wiring

__all__ = ["Between", "Cut", "cut", "letters_of", "stage_clashes", "stage_problems", "topics_between"]

RETAIN = 1000  # ms, at least, for which the id of an event that was answered is remembered
_NO_NAME = re.compile(r"[^A-Za-z0-9_]+")


@dataclass(frozen=True, slots=True)
class Between:
    """A topic between two stages, of the materialised node `node`: its name, what its records hold, and how it is kept.

    `fields` are by the column that they carry. `origins` say where each comes from, in their order: of the event which field, and what a
    null in it is; of a node which output.
    """

    node: str
    topic: str
    fields: Mapping[str, OutputField]
    origins: tuple[str, ...]
    spec: Materialize


@dataclass(frozen=True, slots=True)
class Cut:
    """The stages on Kafka, each after those that feed it, and the topics between them, by node. `wiring` names them as sources and sinks.

    `processes` are what runs together, by name: each stage at a materialised topic or with a match alone, all others as "".
    """

    wiring: Wiring
    between: Mapping[str, Between] = field(default_factory=dict)

    @property
    def processes(self) -> dict[str, tuple[str, ...]]:
        """The names of the stages of each process."""
        apart = {stage.name: (stage.name,) for stage in self.wiring.stages if self._is_apart(stage)}
        rest = tuple(stage.name for stage in self.wiring.stages if stage.name not in apart)
        return ({"": rest} if rest else {}) | apart

    def _is_apart(self, stage: Stage) -> bool:
        return stage.name in self.between or isinstance(stage.gather, Matched) or any(one.behind for one in stage.inputs)


def cut(wiring: Wiring, prefix: str) -> Cut:
    """Returns the wiring cut behind its materialised nodes; `prefix` begins the topics that the file does not name."""
    if all(node.materialize is None for node in wiring.topology.nodes):
        return Cut(wiring)
    made: list[Stage] = []
    between: dict[str, Between] = {}
    for stage in wiring.stages:
        pieces = _Pieces(stage, wiring.topology, prefix)
        made += pieces.stages()
        between |= pieces.between
    topology = wiring.topology
    sources = (*topology.sources, *(_source(one) for one in between.values()))
    sinks = (*topology.sinks, *(_sink(one) for one in between.values()))
    return Cut(Wiring(replace(topology, sources=sources, sinks=sinks), tuple(made)), between)


@dataclass
class _Piece:
    """A stage to be: what it ends with, the materialised nodes at which it begins, its steps, and the columns that it only passes on."""

    name: str
    begins: tuple[str, ...]
    steps: list[Step]
    node: str = ""  # that it ends with
    emits: tuple[Emit, ...] = ()
    passes: dict[str, None] = field(default_factory=dict)

    @property
    def made(self) -> set[str]:
        return {column for step in self.steps for column in step.columns}

    def reads(self) -> dict[str, None]:
        """The columns that it needs and does not make, in a stable order."""
        wanted = [column for step in self.steps for column in sorted(step.reads)]
        wanted += [column for emit in self.emits for column in _read_by(emit)]
        return dict.fromkeys(one for one in [*wanted, *self.passes] if one not in self.made)


class _Pieces:
    """One stage of the whole wiring, in pieces."""

    def __init__(self, stage: Stage, topology: Topology, prefix: str) -> None:
        self.stage = stage
        self._topology = topology
        self._steps = {step.node.name: step for step in stage.steps}
        self._maker = {column: step.node.name for step in stage.steps for column in step.columns}
        self._cuts = [name for name, step in self._steps.items() if step.node.materialize is not None]
        self._given = {column.name: column for one in stage.inputs for column in one.columns}
        self._topics = topics_between(topology, prefix)
        self._before: dict[str, set[str]] = {}  # all materialised nodes before a node, however far
        self._behind: dict[str, tuple[str, ...]] = {}  # the nearest of them
        for name, step in self._steps.items():
            self._behind[name] = self._nearest(step.reads)
            self._before[name] = {m for one in self._behind[name] for m in (one, *self._before[one])}
        self.between: dict[str, Between] = {}

    def stages(self) -> list[Stage]:
        """Returns the pieces as stages, each after those that feed it."""
        pieces = [self._piece(name, self._behind[name], [name], node=name) for name in self._cuts]
        groups: dict[tuple[str, ...], list[Emit]] = {}
        for emit in self.stage.emits:
            groups.setdefault(self._nearest(_read_by(emit)), []).append(emit)
        for begins, emits in groups.items():
            name = emits[0].sink.name if begins else self.stage.name
            heads = [self._maker[column] for emit in emits for column in _read_by(emit) if column in self._maker]
            pieces.append(self._piece(name, begins, heads, emits=tuple(emits)))
        ordered = [one for name in order({one.name: one.begins for one in pieces})[0] for one in pieces if one.name == name]
        for piece in reversed(ordered):  # what a stage needs, the stages before it pass on
            for column in piece.reads():
                for node in self._carriers(column, piece.begins):
                    owner = next(one for one in pieces if one.node == node)
                    if column not in owner.passes:
                        owner.passes[column] = None
        for piece in ordered:
            if piece.node:
                self.between[piece.node] = self._between(piece)
        return [self._stage(piece) for piece in ordered]

    def _nearest(self, columns: Iterable[str]) -> tuple[str, ...]:
        """Returns the materialised nodes at which something that reads these columns begins: those before another of them carry nothing."""
        found: set[str] = set()
        for column in columns:
            maker = self._maker.get(column)
            if maker is not None:
                found |= {maker} if maker in self._cuts else set(self._behind[maker])
        covered = {one for other in found for one in self._before[other]}
        return tuple(name for name in self._cuts if name in found - covered)

    def _piece(self, name: str, begins: tuple[str, ...], heads: Iterable[str], *, node: str = "", emits: tuple[Emit, ...] = ()) -> _Piece:
        needed: set[str] = set()
        todo = [one for one in heads if one == node or one not in self._cuts]
        while todo:
            one = todo.pop()
            if one not in needed:
                needed.add(one)
                makers = (self._maker.get(column) for column in self._steps[one].reads)
                todo += [maker for maker in makers if maker is not None and maker not in self._cuts]
        return _Piece(name, begins, [step for one, step in self._steps.items() if one in needed], node, emits)

    def _carriers(self, column: str, begins: tuple[str, ...]) -> Iterator[str]:
        """Yields which of these topics have the column: that of its maker; of an earlier node, those behind it; else all."""
        maker = self._maker.get(column)
        for one in begins:
            if maker is None or maker == one or maker in self._before[one]:
                yield one

    def _between(self, piece: _Piece) -> Between:
        topic, spec = self._topics[piece.node]
        fields: dict[str, OutputField] = {}
        taken: set[str] = set()
        for column in piece.passes:
            bare = column.removeprefix(f"{piece.node}.")
            name = base = _NO_NAME.sub("_", bare).strip("_") or "column"
            number = 1
            while name in taken:
                number += 1
                name = f"{base}_{number}"
            taken.add(name)
            dtype, shape, missing = self._type(column)
            fields[column] = OutputField(name, Part(column), dtype, shape, missing)
        return Between(piece.node, topic, fields, tuple(map(self._origin, fields)), spec)

    def _origin(self, column: str) -> str:
        """Returns where a column comes from. A column of the event is not known by its name, which depends on what else reads its field."""
        given = self._given.get(column)
        return column if given is None else f"{given.field} {given.missing.action} {given.missing.value!r}"

    def _type(self, column: str) -> tuple[str, tuple[int | None, ...], Missing]:
        """Returns the dtype and the axes of a column, and what a null, or NaN in its place, is for those that read it."""
        if (given := self._given.get(column)) is not None:
            keeps = given.missing.action == "fill" and (given.missing.value is None or given.missing.value != given.missing.value)
            return given.dtype, given.shape, given.missing if keeps else Missing()
        step = self._steps[self._maker[column]]
        tensor = next(one for one, name in zip(step.outputs, step.columns, strict=True) if name == column)
        null = self._topology.nullable(step.node.name, tensor.name)
        return tensor.dtype, tensor.shape, Missing("fill", math.nan) if null else Missing()

    def _stage(self, piece: _Piece) -> Stage:
        reads = piece.reads()
        if piece.begins:
            inputs = tuple(self._input(self.between[one], reads) for one in piece.begins)
        else:
            inputs = tuple(self._kept(one, reads) for one in self.stage.inputs)
        emits = piece.emits
        if piece.node:
            one = self.between[piece.node]
            emits = (Emit(_sink(one), tuple(one.fields.values()), self._steps[piece.node].key),)
        if not piece.begins and isinstance(self.stage.gather, Matched):
            return Stage(piece.name, inputs, tuple(piece.steps), emits, self.stage.gather)
        if (join := _join_of(piece)) is None or len(inputs) < 2:
            return Stage(piece.name, inputs, tuple(piece.steps), emits)
        gather = _joined(join, inputs)
        if not piece.node:  # a topic between stages has the value of `missing`: the nodes behind it read that
            emits = tuple(self._with_gaps(emit, inputs, gather) for emit in emits)
        return Stage(piece.name, inputs, tuple(piece.steps), emits, gather)

    def _kept(self, one: Input, reads: Mapping[str, None]) -> Input:
        """Returns the input with the columns that a stage at the source reads, its event's id, and what it gathers its rows by."""
        gather = self.stage.gather
        by = {*gather.by[0], *gather.by[1], *gather.times} if isinstance(gather, Matched) else set()
        return replace(one, columns=tuple(column for column in one.columns if column.name in {*reads, *by, one.id, one.unit}))

    def _with_gaps(self, emit: Emit, inputs: Sequence[Input], gather: Joined) -> Emit:
        """Returns the emit with null where it writes what only a member has that may be missing."""
        owners = {column.name: one.behind for one in inputs for column in one.columns if column.name not in gather.shared}
        fields = []
        for one in emit.fields:
            member = owners.get(one.part.column)
            if member is not None and member in gather.fills and one.part.gap is None:
                one = replace(one, part=replace(one.part, gap=Gap(present(member), dtype=one.dtype, axes=_fixed(one.shape))))
            fields.append(one)
        return replace(emit, fields=tuple(fields))

    def _input(self, one: Between, reads: Mapping[str, None]) -> Input:
        columns = (
            Column(column, field.name, field.dtype, field.shape, field.missing) for column, field in one.fields.items() if column in reads
        )
        return Input(_source(one), tuple(columns), behind=one.node)


def _join_of(piece: _Piece) -> Join | None:
    return next((step.node.join for step in piece.steps if step.node.join is not None), None)


def _joined(join: Join, inputs: Sequence[Input]) -> Joined:
    members = tuple(one.behind for one in inputs)
    carried = Counter(column.name for one in inputs for column in one.columns)
    shared = tuple(name for name, count in carried.items() if count > 1)
    need = join.need if type(join.need) is int and 1 <= join.need <= len(members) else len(members)  # else it is refused
    quorum = Quorum(members, need, join.within_ms, frozenset(join.require) & {*members}, max(join.within_ms, RETAIN))
    return Joined(quorum, shared, {member: value for member, value in join.missing.items() if member in members})


def _fixed(shape: tuple[int | None, ...]) -> tuple[int, ...]:
    return tuple(axis or 0 for axis in shape)


def topics_between(topology: Topology, prefix: str) -> dict[str, tuple[str, Materialize]]:
    """Returns the topic of each materialised node, by node, and how it is kept; `prefix` begins those that the file does not name."""
    found = {node.name: node.materialize for node in topology.nodes if node.materialize is not None}
    return {name: (spec.topic or f"{prefix}.{name}", spec) for name, spec in found.items()}


def letters_of(topic: str) -> str:
    """Returns the topic for records between two stages that cannot be scored."""
    return f"{topic}.dead-letter"


def _read_by(emit: Emit) -> list[str]:
    parts = [*(field.part for field in emit.fields), *([] if emit.key is None else [emit.key])]
    read = [name for part in parts for name in (part.column, *([] if part.gap is None else [part.gap.when]))]
    return [*read, *([] if emit.when is None else [emit.when])]


def _source(one: Between) -> Source:
    return Source(name=one.node, topic=one.topic, format="avro", dead_letter=letters_of(one.topic), max_bytes=104_857_600)


def _sink(one: Between) -> Sink:
    return Sink(name=one.node, topic=one.topic, fields=(), format="avro")


def stage_problems(wiring: Wiring) -> Iterator[Finding]:
    """Yields what keeps a wiring from being cut where the file has `materialize`, and windows from having one state."""
    windows = {one.name for one in wiring.topology.windows}
    for node in (one for one in wiring.topology.nodes if one.materialize is not None or one.name in windows):
        fed = _with(wiring, node.name)
        if len(fed) > 1:
            where, what = (f"nodes.{node.name}.materialize", "a topic") if node.materialize else (f"nodes.{node.name}", "a window")
            message = f"{where}: its events come from the sources {' and '.join(fed)}, and {what} is of one source"
            yield node.at("materialize"), message, "name its fields SOURCE.FIELD, so that one source feeds it"
            return
    found = cut(wiring, wiring.topology.name)
    for node in wiring.topology.windows:
        if len(several := _with(found.wiring, node.name)) > 1:
            message = f"nodes.{node.name}: the stages {' and '.join(several)} would each keep a state of it"
            yield node.mark, message, "add materialize: true, so that it runs in one stage"
    yield from _match_problems(wiring, found)
    yield from _joins_problems(found)
    for one in found.between.values():
        for column, carried in one.fields.items():
            if None in carried.shape and "." in column:
                message = f"nodes.{one.node}.materialize: {column} has an axis of open size, and a topic holds arrays of one size"
                yield one.spec.mark, message, "export the model with a fixed axis, or materialise a node behind it"


def _with(wiring: Wiring, node: str) -> list[str]:
    """Returns the stages in which a node runs."""
    return [stage.name for stage in wiring.stages if any(step.node.name == node for step in stage.steps)]


def _match_problems(wiring: Wiring, found: Cut) -> Iterator[Finding]:
    """Yields the matches that two stages would remember, and what recognises events by their place: pairs of one left event share it."""
    fix = "write the pairs to a sink, and read their topic with a source"
    for whole in wiring.stages:
        if not isinstance(whole.gather, Matched):
            continue
        match = whole.gather.match
        stages = [one.name for one in found.wiring.stages if isinstance(one.gather, Matched) and one.gather.match == match]
        if len(stages) > 1:
            message = f"sources.{match.name}: the stages {' and '.join(stages)} would each remember its events"
            yield match.mark, message, "materialise one node that reads it, and let the others read that"
        for node in (step.node for step in whole.steps):
            if node in wiring.topology.windows:
                message = f"nodes.{node.name}: it reads the match {match.name}, and a window counts each event of a topic once"
                yield node.mark, message, fix
            if node.join is not None:
                message = f"nodes.{node.name}.join: pairs of the match {match.name} may have the same id, by which records are joined"
                yield node.at("join"), message, fix


def _joins_problems(found: Cut) -> Iterator[Finding]:
    """Yields the stages that read several topics and do not say how, and the other way round."""
    wiring, used = found.wiring, set[str]()
    for stage in wiring.stages:
        nodes = [one.behind for one in stage.inputs if one.behind]  # of those that a match reads, none
        joins = [step.node for step in stage.steps if step.node.join is not None]
        used |= {node.name for node in joins if len(nodes) > 1}
        if len(nodes) > 1 and not joins:
            ends = wiring.topology.node(stage.name) or next(one for one in wiring.topology.sinks if one.name == stage.name)
            where = f"{'sinks' if isinstance(ends, Sink) else 'nodes'}.{stage.name}"
            message = f"{where}: it reads {' and '.join(nodes)}, which come from different stages"
            yield ends.mark, message, "give the node that reads them `join: {within: 1s}`, or materialise only one of them"
        elif len(nodes) > 1:
            yield from _join_problems(joins[0], stage)
            for window in (step.node for step in stage.steps if step.node in wiring.topology.windows):
                message = (
                    f"nodes.{window.name}: it runs in the stage {stage.name}, which joins, and a window counts the events of one topic"
                )
                yield window.mark, message, "add materialize: true to a node between them, so that it reads the topic of that"
            keyed = [one for one in found.between.values() if one.node in nodes and one.spec.key is not None]
            if keyed and len({found.between[name].spec.key for name in nodes}) > 1:
                others = " and ".join(name for name in nodes if name != keyed[0].node)
                message = f"nodes.{keyed[0].node}.materialize.key: it is joined with {others}, whose records have another key"
                yield keyed[0].spec.mark, message, "give all the same key: records of an event are joined in one partition"
            for other in joins[1:]:
                if other.join != joins[0].join:
                    message = f"nodes.{other.name}.join: the stage {stage.name} joins once, and {joins[0].name} says how"
                    yield other.at("join"), message, "write the same, or leave it out"
    for node in wiring.topology.nodes:
        if node.join is not None and node.name not in used:
            message = f"nodes.{node.name}.join: nothing that it reads comes from different stages"
            yield node.at("join"), message, "materialise what is to be joined, or remove it"


def _join_problems(node: Node, stage: Stage) -> Iterator[Finding]:
    join, where = node.join, f"nodes.{node.name}.join"
    assert join is not None, "the caller has looked"
    assert isinstance(stage.gather, Joined), "a stage with such a node and several inputs"
    members = stage.gather.quorum.members
    known = f"it joins {', '.join(members)}"
    for name in (*join.require, *join.missing):
        if name not in members:
            yield join.at("require" if name in join.require else "missing"), f"{where}: {name!r} is not joined here", known
    if join.need is not None and (type(join.need) is not int or not 1 <= join.need <= len(members)):
        yield join.at("need"), f"{where}.need: {join.need!r} is not all, nor a number from 1 to {len(members)}", known
    elif join.need is not None and join.need < len(members):
        for name in members:
            if name not in join.require and name not in join.missing:
                message = f"{where}.missing: {name} may be missing, and its outputs have no value then"
                yield join.mark, message, f"write missing: {{{name}: nan}}, or require it"
    for one in stage.inputs:
        fill = join.missing.get(one.behind)
        for column in () if fill is None else one.columns:
            if column.name not in stage.gather.shared and not _holds(column.dtype, fill):
                message = f"{where}.missing.{one.behind}: {fill!r} is no {column.dtype}, which {column.name} is"
                yield join.at("missing"), message, f"require {one.behind}, or write a value that all its outputs can have"
    quorum = stage.gather.quorum
    for name in stage.gather.shared:
        carriers = [one.behind for one in stage.inputs if any(column.name == name for column in one.columns)]
        if not quorum.require.intersection(carriers) and len(members) - len(carriers) >= quorum.need:
            message = f"{where}: {name} comes with {' and '.join(carriers)}, which may all be missing, and has no value then"
            yield join.mark, message, f"require one of them, or let need be {len(members) - len(carriers) + 1}"
            return


def _holds(dtype: str, value: object) -> bool:
    """Returns whether a column can have the value."""
    if isinstance(value, bool | str) or dtype in ("bool", "string"):
        return dtype == {bool: "bool", str: "string"}.get(type(value))
    if not isinstance(value, int | float):
        return False
    if dtype.startswith("float"):
        return True
    bits = int(dtype.lstrip("uint"))
    least, end = (0, 1 << bits) if dtype.startswith("u") else (-1 << bits - 1, 1 << bits - 1)
    return isinstance(value, int) and least <= value < end


def stage_clashes(topology: Topology, prefix: str = "") -> Iterator[Finding]:
    """Yields what is wrong with the stages of a topology, by the file alone: names that mean two of them, topics that carry two things.

    `prefix` begins the topics that the file does not name; without it they are not known, and not compared.
    """
    nodes = {node.name: node for node in topology.nodes if node.materialize is not None}
    topics = {one.topic: f"read by the source {one.name!r}" for one in topology.sources}
    topics |= {one.dead_letter: f"the dead-letter topic of the source {one.name!r}" for one in topology.sources}
    topics |= {one.topic: f"written by the sink {one.name!r}" for one in topology.sinks}
    logs = {"control": topology.releases.control, "status": topology.releases.status}
    topics |= {topic or f"{prefix}.{key}": f"releases.{key}" for key, topic in logs.items() if topic or prefix}
    for sink in topology.sinks:
        if sink.name in nodes:
            line = nodes[sink.name].mark.line
            yield sink.mark, f"sinks.{sink.name}: the node of this name on line {line} is materialised: both name a stage", "rename one"
        elif nodes and topology.source(sink.name) is not None:
            yield sink.mark, f"sinks.{sink.name}: a source has this name as well, and both name a stage", "rename one"
    for node in nodes.values():
        spec = node.materialize
        assert spec is not None
        if not spec.topic and logs.get(node.name) == "":
            message = f"nodes.{node.name}.materialize: its topic would have the name of the releases' {node.name} topic"
            yield spec.mark, message, "rename the node, or name a topic: materialize: {topic: NAME}"
        named = spec.topic or (f"{prefix}.{node.name}" if prefix else "")
        for topic in (named, letters_of(named)) if named else ():
            if problem := topic_problem(topic):
                yield spec.mark, f"nodes.{node.name}.materialize: {problem}", "choose another name"
                break
            if topic in topics:
                yield spec.mark, f"nodes.{node.name}.materialize: the topic {topic!r} is {topics[topic]}", "use another topic"
            topics[topic] = f"that of the node {node.name!r}"
