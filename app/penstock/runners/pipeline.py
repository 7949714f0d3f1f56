"""Pipeline: what happens to the records of one source between taking and sending, in numbered steps.

1. decode     bytes to columns; what is no event fails
2. execute    the plan's nodes; rows on which a model fails, fail
3. encode     columns to the sinks' bytes; what cannot be written fails
4. address    topic, partition, key, timestamp and headers of each output
5. dead-letter  the failed records, as they came, with the reason in their headers

Sending, and acknowledging after that, is the runner's (`stream`, `TopologyDriver`). Nothing here waits, and nothing
here raises because of a record.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import NamedTuple

from penstock.batch import Batch, Failure
from penstock.engine import Emission, Plan, Stage, execute
from penstock.engine.observe import Observers
from penstock.errors import RecordError
from penstock.parcel import Parcel
from penstock.record import Header, RecordLike
from penstock.telemetry.metrics import Metrics, NodeMeter

__all__ = ["Chunk", "Parcel", "Pipeline", "Slice"]

OWN = "penstock-"  # headers that describe an output; those of an earlier topology are replaced
_VALUE, _HEADERS = attrgetter("value"), attrgetter("headers")  # mapped, they cost half of a comprehension
TRACE_LIMIT = 8192  # characters of a stack trace in a dead letter


@dataclass(frozen=True, slots=True)
class Slice:
    """Records of one partition, in their order."""

    topic: str
    partition: int
    records: Sequence[RecordLike]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows that go through the models together: a piece of a large slice, or several small slices."""

    slices: tuple[Slice, ...]
    rows: int


class _Written(NamedTuple):
    """What one sink gets of a chunk: values, their keys if the sink has its own, their row numbers (None: all rows), and who failed."""

    values: list[bytes]
    keys: list[bytes] | None
    rows: list[int] | None
    failures: tuple[Failure, ...]


class Pipeline:
    """The stage of one source, with everything that is the same for all its records made once.

    `generation` is the plan's place in the control log, told in every output's headers. `partition_for(topic, key)` chooses
    the partition of a sink that has a key of its own.
    """

    def __init__(
        self,
        plan: Plan,
        source: str,
        *,
        generation: int = 0,
        chunk_rows: int = 256,
        partition_for: Callable[[str, bytes | None], int],
        metrics: Metrics | None = None,
        observers: Observers | None = None,
    ) -> None:
        self.stage: Stage = plan.stages[source]
        self.chunk_rows = chunk_rows * self.stage.decoder.spread
        self.metrics = metrics or Metrics()
        self.observers = observers or Observers()
        self._generation = generation
        self._meter = NodeMeter({node.name: self.metrics.node(node.name, node.version) for node in self.stage.nodes})
        self._partition_for = partition_for
        self._dead_letter = self.stage.wired.source.dead_letter
        versions = ",".join(f"{node}={version}" for node, version in plan.versions.items())
        self._about: tuple[Header, ...] = (
            (f"{OWN}topology", plan.topology.encode()),
            (f"{OWN}generation", b"%d" % generation),
            (f"{OWN}models", versions.encode()),
        )

    def chunks(self, slices: Iterable[Slice]) -> Iterator[Chunk]:
        """Cuts large slices and puts small ones together, so that a chunk holds at most `chunk_rows` rows."""
        limit = self.chunk_rows
        group: list[Slice] = []
        rows = 0
        for piece in chain.from_iterable(_cut(one, limit) for one in slices):
            if group and rows + len(piece.records) > limit:
                yield Chunk(tuple(group), rows)
                group, rows = [], 0
            group.append(piece)
            rows += len(piece.records)
        if group:
            yield Chunk(tuple(group), rows)

    def process(self, chunk: Chunk, *, isolate: bool = True) -> list[Parcel]:
        """Steps 1 to 5. `isolate` as in `engine.execute`: without it, InferenceError may be raised, and nothing was done."""
        metrics = self.metrics
        records = chunk.slices[0].records if len(chunk.slices) == 1 else [record for one in chunk.slices for record in one.records]

        began = time.perf_counter()
        batch = self.stage.decoder.decode(list(map(_VALUE, records)))  # 1
        decoded = time.perf_counter()
        self._meter.start(decoded)
        batch = execute(self.stage, batch, isolate=isolate, tell=self._meter)  # 2
        executed = time.perf_counter()
        failures = batch.failures
        parcels: list[Parcel] = []
        for emission in self.stage.emissions:
            written = self._encode(emission, batch)  # 3
            failures += written.failures
            parcels += self._address(emission, chunk, records, written)  # 4
        if failures:
            parcels += self._bury(chunk, failures)  # 5
        self._meter.count()
        metrics.decode_seconds.inc(decoded - began)
        metrics.execute_seconds.inc(executed - decoded)
        metrics.encode_seconds.inc(time.perf_counter() - executed)
        if self.observers:
            self.observers.saw(self.stage, batch, generation=self._generation)
        return parcels

    # -- 3 ---------------------------------------------------------------------------------------------------------

    def _encode(self, emission: Emission, batch: Batch) -> _Written:
        if not batch.size:
            return _Written([], None, [], ())
        values, errors = emission.encoder.encode([pick(batch.columns) for pick in emission.picks])
        keys = None if emission.key is None else [_key(key) for key in emission.key(batch.columns).tolist()]
        rows = None if batch.rows is None else batch.rows.tolist()
        if not errors:
            return _Written(values, keys, rows, ())
        numbers = range(batch.size) if rows is None else rows
        left = [at for at in range(batch.size) if at not in errors]
        return _Written(
            [values[at] for at in left],
            None if keys is None else [keys[at] for at in left],
            [numbers[at] for at in left],
            tuple(Failure(numbers[at], error) for at, error in errors.items()),
        )

    # -- 4 ---------------------------------------------------------------------------------------------------------

    def _address(self, emission: Emission, chunk: Chunk, records: Sequence[RecordLike], written: _Written) -> Iterator[Parcel]:
        """Outputs keep their input's key, timestamp and partition, unless the sink has a key; our headers, then what came along."""
        values, keys, rows, _ = written
        topic = emission.emit.sink.topic
        if rows is None and keys is None and len(chunk.slices) == 1:
            yield self._parcel(topic, chunk.slices[0].partition, chunk.slices[0], records, values, None)
            return
        groups: dict[tuple[int, int], list[int]] = {}
        places = [number for number, one in enumerate(chunk.slices) for _ in one.records]
        numbers = range(len(records)) if rows is None else rows
        for at, number in enumerate(numbers):
            place = places[number]
            partition = chunk.slices[place].partition if keys is None else self._partition_for(topic, keys[at])
            groups.setdefault((place, partition), []).append(at)
        for (place, partition), ats in groups.items():
            inputs = [records[numbers[at]] for at in ats]
            own = None if keys is None else [keys[at] for at in ats]
            yield self._parcel(topic, partition, chunk.slices[place], inputs, [values[at] for at in ats], own)

    def _parcel(
        self, topic: str, partition: int, one: Slice, inputs: Sequence[RecordLike], values: Sequence[bytes], keys: Sequence[bytes] | None
    ) -> Parcel:
        extra = [_passing(headers) for headers in map(_HEADERS, inputs)] if any(map(_HEADERS, inputs)) else None
        origin = f"{OWN}source", f"{one.topic}/{one.partition}/".encode()
        return Parcel(topic, partition, inputs, values, keys, self._about, origin, extra)

    # -- 5 ---------------------------------------------------------------------------------------------------------

    def _bury(self, chunk: Chunk, failures: Iterable[Failure]) -> Iterator[Parcel]:
        by_slice: dict[int, list[tuple[RecordLike, RecordError]]] = {}
        places = [(at, record) for at, one in enumerate(chunk.slices) for record in one.records]
        first: dict[int, RecordError] = {}  # a record that several sinks refuse is one dead letter, not several
        for failure in failures:
            first.setdefault(failure.row, failure.error)
        for row in sorted(first):
            at, record = places[row]
            by_slice.setdefault(at, []).append((record, first[row]))
        for at, failed in by_slice.items():
            yield self.dead_letters(chunk.slices[at], failed)

    def dead_letters(self, one: Slice, failed: Sequence[tuple[RecordLike, RecordError]]) -> Parcel:
        """The records as they came, with the reason in headers that have the names Kafka Streams gives them (KIP-1034)."""
        inputs = [record for record, _ in failed]
        extra = [[*record.headers, *_reasons(one, record, error)] for record, error in failed]
        return Parcel(self._dead_letter, one.partition, inputs, [record.value for record in inputs], extra=extra, dead=True)


def _reasons(one: Slice, record: RecordLike, error: RecordError) -> list[Header]:
    kind = type(error)
    trace = "".join(traceback.format_exception(error))[-TRACE_LIMIT:]
    return [
        ("__streams.errors.exception", f"{kind.__module__}.{kind.__qualname__}".encode()),
        ("__streams.errors.stacktrace", trace.encode(errors="replace")),
        ("__streams.errors.message", str(error).encode(errors="replace")),
        ("__streams.errors.topic", one.topic.encode()),
        ("__streams.errors.partition", b"%d" % one.partition),
        ("__streams.errors.offset", b"%d" % record.offset),
        (f"{OWN}stage", error.stage.encode()),
    ]


def _cut(one: Slice, rows: int) -> Iterator[Slice]:
    if len(one.records) <= rows:
        yield one
        return
    for at in range(0, len(one.records), rows):
        yield Slice(one.topic, one.partition, one.records[at : at + rows])


def _passing(headers: Sequence[Header]) -> list[Header]:
    return [header for header in headers if not header[0].startswith(OWN)]


def _key(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
