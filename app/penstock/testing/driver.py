"""TopologyDriver: records in, records out, through the real plan and pipeline, without a broker and without time passing.

    driver = TopologyDriver("topologies/flights.yaml")
    driver.send("departures", {"flight_id": "2013-07-01-UA-1545-EWR", "dep_delay": 2.0, ...})
    assert driver.events("predictions")[0]["score"] < 0.5

What comes out is what a worker would have produced: the same models, bytes, keys, headers, timestamps, dead letters.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from penstock import runtime
from penstock.codecs import event_reader, event_writer
from penstock.record import Header, Record
from penstock.runners.pipeline import Pipeline, Slice

__all__ = ["TopologyDriver"]

START = 1_600_000_000_000  # ms since the epoch: where the virtual clock begins


class TopologyDriver:
    """A topology as one function from records to records.

    `topology` is the file; `models` and `schemas` the folders that it names things in. `partitions` is how many every
    topic has. Everything is checked and loaded as a worker does it. Raises TopologyError, SchemaError, ModelError.
    """

    def __init__(
        self,
        topology: str | Path,
        *,
        models: str | Path = "models",
        schemas: str | Path = "schemas",
        partitions: int = 1,
        chunk_rows: int = 256,
    ) -> None:
        loaded = runtime.load(Path(topology), models=Path(models), schemas=Path(schemas))
        self.topology = loaded.topology
        self.plan = runtime.prepare(loaded)
        self.partitions = partitions
        self.now = START
        self._topics: dict[str, list[Record]] = {}
        self._ends: dict[tuple[str, int], int] = {}
        self._pipelines = {
            name: Pipeline(self.plan, name, chunk_rows=chunk_rows, partition_for=self._partition_for) for name in self.plan.flows
        }
        self._writers = {source.name: event_writer(source.format, loaded.schemas[source.name]) for source in self.topology.sources}
        self._readers = {sink.name: event_reader(sink.format, loaded.sink_schemas.get(sink.name)) for sink in self.topology.sinks}

    def advance(self, seconds: float) -> None:
        """Moves the virtual clock, which stamps the records that are sent without a timestamp."""
        self.now += round(seconds * 1000)

    def send(
        self, source: str, *events: Mapping[str, Any] | bytes | None, key: bytes | None = None, headers: Sequence[Header] = (),
        timestamp: int | None = None, partition: int = 0,
    ) -> None:  # fmt: skip
        """Publishes events to a source and processes them: mappings are written in the source's format, bytes are sent as they are."""
        topic = self._source_topic(source)
        write = self._writers[source]
        values = [event if event is None or isinstance(event, bytes) else write(event) for event in events]
        stamp = self.now if timestamp is None else timestamp
        records = [self._append(Record(topic, value, key, tuple(headers), stamp, partition)) for value in values]
        pipeline = self._pipelines[source]
        for chunk in pipeline.chunks([Slice(topic, partition, records)]):
            for parcel in pipeline.process(chunk):
                for stamped, out_key, value, out_headers in parcel.records:
                    self._append(Record(parcel.topic, value, out_key, tuple(out_headers), stamped, parcel.partition))

    def records(self, topic: str) -> list[Record]:
        """Everything in a topic, in the order of its offsets. `topic` may also be the name of a sink."""
        sink = next((sink for sink in self.topology.sinks if sink.name == topic), None)
        return list(self._topics.get(sink.topic if sink else topic, ()))

    def events(self, sink: str) -> list[dict[str, Any]]:
        """What was published to a sink, read in its format."""
        read = self._readers[sink]
        return [read(record.value or b"") for record in self.records(sink)]

    def dead_letters(self, source: str) -> list[Record]:
        """What could not be processed of a source, with the reason in the headers `__streams.errors.*`."""
        declared = self.topology.source(source)
        return self.records(declared.dead_letter) if declared else []

    def clear(self) -> None:
        """Forgets every record, not the offsets."""
        self._topics.clear()

    def _source_topic(self, source: str) -> str:
        declared = self.topology.source(source)
        if declared is None:
            known = ", ".join(one.name for one in self.topology.sources)
            raise KeyError(f"{self.topology.file} has no source {source!r}; it has: {known}")
        return declared.topic

    def _append(self, record: Record) -> Record:
        place = record.topic, record.partition
        stored = record._replace(offset=self._ends.get(place, 0))
        self._ends[place] = stored.offset + 1
        self._topics.setdefault(record.topic, []).append(stored)
        return stored

    def _partition_for(self, topic: str, key: bytes | None) -> int:
        """Any stable choice will do without a broker: CRC-32 of the key."""
        import zlib

        return zlib.crc32(key or b"") % self.partitions


def explain(records: Iterable[Record]) -> str:
    """Dead letters as text, for the message of a failed assertion."""
    lines = []
    for record in records:
        headers = {name: (value or b"").decode(errors="replace") for name, value in record.headers}
        value = (record.value or b"").decode(errors="replace")
        lines.append(
            f"offset {headers.get('__streams.errors.offset')}: {headers.get('__streams.errors.message')} <- {json.dumps(value)[:200]}"
        )
    return "\n".join(lines)
