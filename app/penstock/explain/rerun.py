"""Runs one event alone through a program, in the same delivery loop as a worker, with each model watched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from penstock.codecs import Writers, event_reader
from penstock.engine import Run, Stage, watched
from penstock.errors import DecodeError
from penstock.explain.provenance import DeadLetter, provenance
from penstock.pipeline import Chunk, Pipeline, Program
from penstock.pipeline.matching import Matching
from penstock.pipeline.score import Pass
from penstock.record import Record
from penstock.runners.memory import InMemory
from penstock.runtime import Loaded
from penstock.schema import Schema
from penstock.state import States
from penstock.telemetry import Metrics
from penstock.topology.spec import Sink, Source
from penstock.transports.memory import Memory, MemorySink

__all__ = ["Output", "Rerun", "read_event", "rerun"]

_LATER: Final = 1 << 61  # ms: after every event


@dataclass(frozen=True, slots=True)
class Output:
    """An output for a topic; `sink` names the sinks that write there."""

    sink: str
    topic: str
    key: bytes | None
    value: bytes
    event: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Rerun:
    """The whole decoded event (None: not an event), every run of a model in order, the outputs, and the failure (None: no failure)."""

    event: Mapping[str, Any] | None
    runs: tuple[Run, ...]
    outputs: tuple[Output, ...]
    failure: DeadLetter | None


def rerun(loaded: Loaded, program: Program, name: str, record: Record, paired: bool = False, partner: Record | None = None) -> Rerun:
    """Runs the record through the stage `name`. A record that fails is a `failure`, as it is on a worker. Blocks.

    Where it is `paired`, it runs as the left record of a match: with its partner, or alone.
    """
    runs: list[Run] = []
    stage = watched(program.plan.stages[name], runs.append)
    seen = replace(program, plan=replace(program.plan, stages={name: stage}))
    memory = _matched(seen, name, record, partner) if paired else _delivered(seen, name, record)
    between = {} if loaded.share is None else loaded.share.schemas
    outputs = []
    for topic, sinks in _sinks_by_topic(stage).items():
        for one in memory.records(topic):
            sink = sinks[0]
            schema = {**loaded.sink_schemas, **between}.get(sink.name)
            event = read_event(sink.format, schema, one.value, frame=loaded.frames.get(sink.name, b""))
            outputs.append(Output(", ".join(sink.name for sink in sinks), topic, one.key, one.value or b"", event))
    letters = [provenance(one) for one in memory.records(stage.wired.source.dead_letter)]
    failure = next((one for one in letters if isinstance(one, DeadLetter)), None)
    came = _event(stage.wired.source, {**loaded.schemas, **between}, loaded.writers, record)
    return Rerun(came, tuple(runs), tuple(outputs), failure)


def _delivered(program: Program, stage: str, record: Record) -> Memory:
    """Returns the topics after the loop has passed the record, at its real position, through the stage."""
    inside = InMemory(program, {record.topic: stage}, partitions=record.partition + 1)
    inside.topics.begin((record.topic, record.partition), record.offset)
    inside.topics.append(record)
    inside.run()
    inside.close()
    return inside.topics


def _matched(program: Program, stage: str, left: Record, right: Record | None) -> Memory:
    """Returns the topics after the stage, which matches, has run the pair, or the left record alone."""
    memory, states, metrics = Memory(1), States(), Metrics()
    pipeline = Pipeline(program, stage, sink=MemorySink(memory), metrics=metrics)
    matching = Matching(pipeline, metrics)
    passes: list[Pass] = []
    for record in (left, right):
        if record is not None:
            passes += matching.take(Chunk([record], ((record.topic, record.partition, 1),)), states, _LATER)
    if right is None:
        passes += matching.over(states, left.partition, (_LATER, _LATER), 1) or []
    for parcel in (parcel for one in passes for parcel in pipeline.complete(one)):
        for stamp, key, value, headers in parcel.records:
            memory.append(Record(parcel.topic, value, key, tuple(headers), stamp))
    return memory


def _sinks_by_topic(stage: Stage) -> dict[str, list[Sink]]:
    topics: dict[str, list[Sink]] = {}
    for output in stage.outputs:
        topics.setdefault(output.emit.sink.topic, []).append(output.emit.sink)
    return topics


def read_event(
    format: str, schema: Schema | None, value: bytes | None, writers: Writers | None = None, *, frame: bytes = b""
) -> Mapping[str, Any]:
    """Returns the value as an event; see `event_reader`. Raises DecodeError when it is not one."""
    read: Callable[[bytes], Any] = event_reader(format, schema, writers, frame=frame)
    try:
        event = read(value or b"")
    except Exception as error:  # the Avro library raises many errors, depending on the wrong bytes
        raise DecodeError(f"{type(error).__name__}: {error}") from error
    if not isinstance(event, Mapping):
        raise DecodeError("it is not an object")
    return event


def _event(source: Source, schemas: Mapping[str, Schema], writers: Mapping[str, Writers], record: Record) -> Mapping[str, Any] | None:
    try:
        return read_event(source.format, schemas[source.name], record.value, writers.get(source.name))
    except DecodeError:  # the failure has the better message
        return None
