"""TopologyDriver: records in, records out, through the real plan and the real delivery loop, without a broker and without time passing.

    driver = TopologyDriver("topologies/flights.yaml")
    driver.send("departures", {"flight_id": "2013-07-01-UA-1545-EWR", "dep_delay": 2.0, ...})
    assert driver.events("predictions")[0]["score"] < 0.5

The outputs are those that a worker would have produced: the same models, bytes, keys, headers, timestamps, dead letters.
Only the partition of an output whose sink sets a key differs from Kafka's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from penstock import runtime
from penstock.codecs import event_reader, event_writer
from penstock.codecs.writers import Registry
from penstock.engine.observe import Observers
from penstock.errors import TopologyError
from penstock.pipeline import Pace
from penstock.provider import CPU
from penstock.record import Header, Position, Record
from penstock.runners.memory import InMemory
from penstock.settings import Settings
from penstock.state import States
from penstock.topology.names import did_you_mean

__all__ = ["TopologyDriver", "explain"]

T = TypeVar("T")
START = 1_600_000_000_000  # ms since the epoch: where the virtual clock begins


class TopologyDriver:
    """A topology as one function from records to records.

    `topology` is the file; `models` and `schemas` the folders that it names things in. `partitions` is how many every
    topic has. `observers` receive the chunks. `schema_registry` is asked for schemas that are not in files.
    Everything is checked and loaded as a worker does it. What is sent to a table becomes its rows.
    Raises TopologyError, SchemaError, ModelError.
    """

    def __init__(
        self,
        topology: str | Path,
        *,
        models: str | Path = "models",
        schemas: str | Path = "schemas",
        partitions: int = 1,
        chunk_rows: int = 256,
        observers: Observers | None = None,
        schema_registry: Registry | None = None,
    ) -> None:
        loaded = runtime.load(Path(topology), models=Path(models), schemas=Path(schemas), schema_registry=schema_registry)
        if problems := runtime.forgotten(loaded.topology, "a test", nodes=()):
            raise TopologyError(problems)
        self.topology = loaded.topology
        self.schemas = {**loaded.schemas, **loaded.tables}
        self._loaded = loaded
        # A test checks what is computed, not which models may serve, nor where: it runs on any host.
        here = Settings(chunk_rows=chunk_rows, model_providers=CPU[0].name)
        self.program = runtime.prepare(loaded, here, signatures="off")
        self.partitions = partitions
        self.now = START
        self._given: set[Position] = set()  # records that no stage has written
        self._sources = {source.name: source for source in (*self.topology.sources, *self.topology.tables)}
        self._writers = {
            name: event_writer(source.format, self.schemas[name], loaded.writers.get(name)) for name, source in self._sources.items()
        }
        self._readers = {
            sink.name: event_reader(sink.format, loaded.sink_schemas.get(sink.name), frame=loaded.frames.get(sink.name, b""))
            for sink in self.topology.sinks
        }
        self._sinks = {sink.name: sink.topic for sink in self.topology.sinks}
        inputs = [topic for source in self.topology.sources for topic in (source.topic, source.dead_letter)]
        self._known = dict.fromkeys([*inputs, *self._sinks.values()])
        stages = {one.source.topic: one.name for one in loaded.wiring.stages}
        self._inside = InMemory(self.program, stages, partitions=partitions, pace=Pace(chunk_rows=chunk_rows), observers=observers)
        self._memory = self._inside.topics
        self._remember()

    def _remember(self) -> None:
        """Forgets what nodes remember, and the rows of all tables."""
        self._tables = runtime.readers(self._loaded)
        self._inside.states = States(tables={name: one.rows for name, one in self._tables.items()})

    def advance(self, seconds: float) -> None:
        """Advances the virtual clock, which gives a timestamp to records that are sent without one."""
        self.now += round(seconds * 1000)

    def send(
        self, source: str, *events: Mapping[str, Any] | bytes | None, key: bytes | None = None, headers: Sequence[Header] = (),
        timestamp: int | None = None, partition: int = 0,
    ) -> None:  # fmt: skip
        """Publishes events to a source and processes them, as many at once as a worker would; or rows to a table.

        Mappings are written in the source's format, bytes are sent as they are, None is a tombstone. Key, headers and
        `timestamp` (ms since the epoch; the virtual clock when omitted) are those of each of the events. Raises ValueError
        for a mapping that the format cannot hold (JSON holds any), and for a partition that does not exist.
        """
        stamp = self.now if timestamp is None else timestamp
        self.send_records(source, [Record("", self.write(source, event), key, headers, stamp, partition) for event in events])

    def send_records(self, source: str, records: Iterable[Record]) -> None:
        """Does the same for records that each have a key, headers, timestamp and partition. It sets their topic and offset.

        Raises ValueError for a record that is no row of a table.
        """
        topic = _named("source", source, self._sources).topic
        if source in self._tables:
            for strange in self._tables[source].apply([*records]):
                raise ValueError(f"it is no row of {source}: {strange.reason}")
            return
        for record in (given := list(records)):
            if not 0 <= record.partition < self.partitions:
                raise ValueError(f"{topic} has no partition {record.partition}: this driver was made with {self.partitions}")
        for record in given:
            self._given.add(self._memory.append(record._replace(topic=topic)).position)
        self._inside.run()

    def write(self, source: str, event: Mapping[str, Any] | bytes | None) -> bytes | None:
        """Returns the event's bytes in the source's format; of a structured CloudEvent, its JSON.

        Raises ValueError when the format cannot hold it.
        """
        write = _named("source", source, self._writers)
        if event is None or isinstance(event, bytes):
            return event
        structured = self._sources[source].envelope == "cloudevents" and "specversion" in event
        return event_writer("json", None)(event) if structured else write(event)

    def records(self, topic: str) -> list[Record]:
        """Returns the records of a topic, as they arrived. `topic` may also be the name of a sink. Raises KeyError for an unknown one."""
        found = self._sinks.get(topic, topic)
        _named("topic", found, self._known)
        return self._memory.records(found)

    def events(self, sink: str) -> list[dict[str, Any]]:
        """Returns the events that the sink has written, decoded: without those that were sent to a source of the same topic.

        Raises KeyError for an unknown sink.
        """
        read = _named("sink", sink, self._readers)
        return [read(record.value or b"") for record in self.records(sink) if record.position not in self._given]

    def dead_letters(self, source: str) -> list[Record]:
        """Returns the failed records of a source, with the reason in the headers `__streams.errors.*`. Raises KeyError."""
        return self.records(_named("source", source, {one.name: one for one in self.topology.sources}).dead_letter)

    def clear(self) -> None:
        """Removes every record, what nodes remember of them and the rows of tables, and keeps the offsets."""
        self._memory.clear()
        self._remember()
        self._given.clear()


def _named(what: str, name: str, known: Mapping[str, T]) -> T:
    """Returns the one with this name. Raises KeyError for an unknown name: a mistyped one must not look like an empty topic."""
    if name not in known:
        raise KeyError(f"there is no {what} {name!r}; {did_you_mean(name, known)}")
    return known[name]


def explain(records: Iterable[Record]) -> str:
    """Returns dead letters as text, one line per letter, for the message of a failed assertion."""
    lines = []
    for record in records:
        headers = {name: (value or b"").decode(errors="replace") for name, value in record.headers}
        reason = f"offset {headers.get('__streams.errors.offset')}: {headers.get('__streams.errors.message')}"
        lines.append(f"{reason} <- {json.dumps((record.value or b'').decode(errors='replace'), ensure_ascii=False)[:200]}")
    return "\n".join(lines)
