"""The topology that computes what windows and lookups have at each event, for a table to train from: derived from the one of the stream.

1. It has one source, these nodes, and the nodes that they read. Models that they do not read are left out: they may not be trained yet.
2. Its one sink writes the event's fields that the stream reads, every feature of the windows, and what the stream reads of lookups.
3. It asks its decoder for all columns that the stream asks for. So an event that the stream refuses is refused here as well, and no window
   counts it. Windows run before the models beside them (`topology.check`), so what those refuse makes no difference.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from typing import Final

from penstock.errors import ConfigError, Problem, TopologyError
from penstock.runtime import Loaded, derived
from penstock.schema import Field, Schema
from penstock.topology.document import Scalar
from penstock.topology.kinds import kind_of
from penstock.topology.kinds.rule import condition
from penstock.topology.names import did_you_mean, ref
from penstock.topology.spec import FOUND, LookupNode, Mark, Node, Ref, Sink, Source, Topology, When, WindowNode, condition_of
from penstock.topology.wiring import Stage

__all__ = ["computing"]

SINK: Final = "features"
Remembering = WindowNode | LookupNode


def computing(loaded: Loaded, chosen: Collection[str] = (), since: datetime | None = None) -> Loaded:
    """Returns the topology of these windows and lookups, by name (none: all), whose sink writes a row per event.

    A column of the event is called like its field, one of a node NODE_FEATURE or NODE_FIELD; of last_k, one per value: NODE_FEATURE_0 is
    the newest. With `since`, only events of that time or later are written. Raises TopologyError for a topology without such nodes, for
    nodes of several sources, and for columns of one name; ConfigError for the name of another node.
    """
    topology = loaded.topology
    windows = _remembering(topology, chosen)
    stage = _stage(loaded, windows)
    source, schema = stage.source, loaded.schemas[stage.source.name]
    fields = _named(topology, [*_of_event(stage, schema, {one.name for one in topology.nodes}), *_of_nodes(stage, windows)])
    sink = Sink(name=SINK, topic=f"{topology.name}.{SINK}", fields=fields)
    behind = _behind(stage, windows)
    nodes: list[Node] = [replace(one, materialize=None, join=None) for one in topology.nodes if one.name in behind]
    if since is not None:
        sink = replace(sink, when=When(condition_of(SINK)))
        nodes.append(condition(SINK, "--since", _since(topology, source, schema, since)))
    read = {node.table for node in nodes if isinstance(node, LookupNode)}
    tables = tuple(one for one in topology.tables if one.name in read)
    alone = replace(topology, sources=(source,), matches=(), nodes=tuple(nodes), sinks=(sink,), precomputed=None, tables=tables)
    made = derived(loaded, alone)
    return _reading(made, stage)


def _remembering(topology: Topology, chosen: Collection[str]) -> list[Remembering]:
    if not topology.remembering:
        what, mark = f"the topology {topology.name} has no window and no lookup, whose features could be computed", topology.mark
        raise TopologyError(Problem(topology.file, mark.line, mark.column, what, "add a node of the kind window or lookup"))
    names = [one.name for one in topology.remembering]
    for name in chosen:
        if name not in names:
            raise ConfigError(Problem(topology.file, 0, 0, f"there is no window or lookup {name!r}", did_you_mean(name, names)))
    return [one for one in topology.remembering if not chosen or one.name in chosen]


def _stage(loaded: Loaded, windows: Iterable[Remembering]) -> Stage:
    """Returns the stage of the nodes: a window is in one; of a lookup that is in several, it is the first."""
    topology = loaded.topology
    of = {
        one.name: next(stage for stage in loaded.wiring.stages if any(step.node.name == one.name for step in stage.steps))
        for one in windows
    }
    stages = {stage.name: stage for stage in of.values()}
    if len(stages) > 1:
        listed = ", ".join(f"{node} of {stage.name}" for node, stage in of.items())
        what = f"an event has one source, and these nodes have several: {listed}"
        raise TopologyError(Problem(topology.file, 0, 0, what, "choose the nodes of one source: --nodes NAME,NAME"))
    return next(iter(stages.values()))


def _behind(stage: Stage, windows: Iterable[Remembering]) -> set[str]:
    """Returns the names of these nodes and of those that they read, directly or through others."""
    names, read = {one.name for one in windows}, set[str]()
    for step in reversed(stage.steps):
        if step.node.name in names or not read.isdisjoint(step.columns):
            # A model that is not registered has no columns, and is named all the same: then it is reported.
            names |= {step.node.name, *(one.head for one in kind_of(step.node).refs(step.node))}
            read |= step.reads
    return names


def _of_event(stage: Stage, schema: Schema, nodes: Collection[str]) -> Iterator[tuple[str, Ref]]:
    """Yields the fields that the stage reads and a sink can write: the event's id, its time, then the others as they are read.

    Of a model that is not registered, they are the fields that the file names.
    """
    (only,) = stage.inputs
    named = [one for step in stage.steps for one in kind_of(step.node).refs(step.node)]
    read = dict.fromkeys(column.field for column in only.columns)
    read |= dict.fromkeys(one.tail if one.head == only.source.name and one.tail else one.path for one in named if one.head not in nodes)
    for path in sorted(read, key=lambda path: (path != only.source.id, path != only.source.time)):
        field, found = schema.field(path), ref(f"{only.source.name}.{path}", Mark())
        if field is not None and found is not None and _is_written(field):
            yield path, found


def _is_written(field: Field) -> bool:
    return bool(field.dtype) and (field.items is None or (not field.optional and None not in field.shape))


def _of_nodes(stage: Stage, nodes: Iterable[Remembering]) -> Iterator[tuple[str, Ref]]:
    for node in nodes:
        if isinstance(node, LookupNode):
            read = next(step.outputs for step in stage.steps if step.node.name == node.name)
            for name in (one.name for one in read if one.name == FOUND or one.name in node.names):
                found = ref(f"{node.name}.{name}", node.mark)
                assert found is not None, "the file has referred to it"
                yield f"{node.name}_{name}", found
            continue
        for name, feature in node.outputs:
            # A row of an array column cannot be null, its elements can.
            for index in range(feature.k) if feature.kind == "last_k" else (None,):
                at = "" if index is None else f"[{index}]"
                found = ref(f"{node.name}.{name}{at}", feature.mark)
                assert found is not None, "names of nodes and features can be referred to"
                yield f"{node.name}_{name}" + ("" if index is None else f"_{index}"), found


def _named(topology: Topology, fields: Iterable[tuple[str, Ref]]) -> tuple[tuple[str, Ref], ...]:
    """Returns the fields by names that every format takes, each of them once."""
    made: dict[str, Ref] = {}
    for text, one in fields:
        name = re.sub(r"\W+", "_", text).strip("_")
        if name in made:
            what = f"{made[name].text} and {one.text} would both be the column {name}"
            raise TopologyError(Problem(topology.file, one.mark.line, one.mark.column, what, "rename the node or the feature"))
        made[name] = one
    return tuple(made.items())


def _since(topology: Topology, source: Source, schema: Schema, since: datetime) -> Scalar:
    """Returns the condition that an event is of this time or later."""
    field = None if source.time is None else schema.field(source.time)
    if field is None:
        what = f"sources.{source.name}: --since needs the time of an event, and the source names none"
        raise TopologyError(Problem(topology.file, source.mark.line, source.mark.column, what, "name its field: time: FIELD"))
    stamp = round(since.timestamp() * (1_000_000 if field.unit == "us" else 1000))
    named = f"{source.name}.{source.time}"
    text = f"coalesce({named}, {stamp - 1}) >= {stamp}" if field.optional else f"{named} >= {stamp}"
    return Scalar(text, text, source.mark)


def _reading(made: Loaded, stage: Stage) -> Loaded:
    """Returns the topology with one stage, which also asks for the columns that `stage` asks for."""
    (own,) = made.wiring.stages
    (reads,), (only,) = own.inputs, stage.inputs
    known = {repr((one.field, one.dtype, one.shape, one.missing)) for one in reads.columns}  # by their text: NaN does not equal itself
    others = [one for one in only.columns if repr((one.field, one.dtype, one.shape, one.missing)) not in known]
    columns = (*reads.columns, *(replace(one, name=f"{one.name}:stream") for one in others))  # nothing here is called so
    whole = replace(own, inputs=(replace(reads, columns=columns),))
    return replace(made, wiring=replace(made.wiring, stages=(whole,)))
