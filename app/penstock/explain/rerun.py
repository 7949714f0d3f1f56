"""One event alone through a plan, by the road that a worker takes: the same pipeline, with each model watched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from penstock.codecs import event_reader
from penstock.engine import Plan, Run, watched
from penstock.errors import DecodeError
from penstock.explain.provenance import DeadLetter, provenance
from penstock.record import Record
from penstock.runners.pipeline import Chunk, Pipeline, Slice
from penstock.runtime import Loaded
from penstock.schema import Schema

__all__ = ["Output", "Rerun", "read_event", "rerun"]


@dataclass(frozen=True, slots=True)
class Output:
    """What comes out for a topic; `sink` names the sinks that write there."""

    sink: str
    topic: str
    key: bytes | None
    value: bytes
    event: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Rerun:
    """The event, decoded whole (None: it is no event); every run of a model, in order; what came out; what failed (None: nothing)."""

    event: Mapping[str, Any] | None
    runs: tuple[Run, ...]
    outputs: tuple[Output, ...]
    failure: DeadLetter | None


def rerun(loaded: Loaded, plan: Plan, source: str, record: Record) -> Rerun:
    """Runs the record as an event of the source. A record that fails is a `failure`, as it is on a worker."""
    runs: list[Run] = []
    stage = watched(plan.stages[source], runs.append)
    pipeline = Pipeline(replace(plan, stages={source: stage}), source, partition_for=lambda _topic, _key: record.partition)
    parcels = pipeline.process(Chunk((Slice(record.topic, record.partition, [record]),), 1))
    outputs, failure = [], None
    for parcel in parcels:
        timestamp, key, value, headers = parcel.records[0]
        if parcel.dead:
            letter = provenance(Record(parcel.topic, value, key, headers, timestamp))
            failure = letter if isinstance(letter, DeadLetter) else None
            continue
        sinks = [emission.emit.sink for emission in stage.emissions if emission.emit.sink.topic == parcel.topic]
        event = read_event(sinks[0].format, loaded.sink_schemas.get(sinks[0].name), value)
        outputs.append(Output(", ".join(sink.name for sink in sinks), parcel.topic, key, value or b"", event))
    return Rerun(_event(loaded, source, record), tuple(runs), tuple(outputs), failure)


def read_event(format: str, schema: Schema | None, value: bytes | None) -> Mapping[str, Any]:
    """The value as an event. Raises DecodeError when it is none."""
    read: Callable[[bytes], Any] = event_reader(format, schema)
    try:
        event = read(value or b"")
    except Exception as error:  # what the Avro library raises depends on where wrong bytes lead it
        raise DecodeError(f"{type(error).__name__}: {error}") from error
    if not isinstance(event, Mapping):
        raise DecodeError("it is no object")
    return event


def _event(loaded: Loaded, source: str, record: Record) -> Mapping[str, Any] | None:
    declared = loaded.topology.source(source)
    try:
        return read_event(declared.format, loaded.schemas[source], record.value) if declared else None
    except DecodeError:  # the failure says it better
        return None
