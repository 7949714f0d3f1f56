"""Measures dead letters: what each costs, from its failure to the batch that is sent, and how many bytes it adds to its record.

One stage, chunks of 256 records that all fail in decoding, of one partition; what the decoder spends until it knows that they fail is
not a letter's cost and is shown beside it. The cyclic collector is off, as in a worker. Kafka's part is omitted.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.measure import Progress
from benchmarks.micro import BATCH_BYTES, PASSES, no_collector
from benchmarks.penstock_job import registry, write_topology
from benchmarks.report import Sheet
from benchmarks.workload import export_models, flights, key
from penstock import runtime
from penstock.parcel import Parcel
from penstock.pipeline import Pipeline
from penstock.record import Record
from penstock.transports.kafka.encode import RecordBatch
from penstock.transports.memory import Memory, MemorySink

CHUNK = 256
STEPS = ("decode and fail", "make", "build batch")
MOST_US, MOST_BYTES = 20.0, 600.0
TRACE = [("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), ("tracestate", b"vendor=00f067aa0ba902b7")]


def measure(rows: int, progress: Progress) -> Sheet:
    """Returns a table of CPU µs and added bytes per dead letter, by kind of record: medians of PASSES."""
    found: dict[str, Mapping[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder, no_collector():
        models = registry(export_models(Path(folder) / "models"))
        topology = write_topology(Path(folder) / "json", input="flights", output="scores", format="json")
        program = runtime.prepare(runtime.load(topology, models=models, schemas=topology.parent))
        pipeline = Pipeline(program, "flights", chunk_rows=CHUNK, sink=MemorySink(Memory()))
        kinds = _kinds(rows, topology.parent)
        for at, (kind, records) in enumerate(kinds.items()):
            progress(kind, at, len(kinds))
            passes = [_once(pipeline, records) for _ in range(PASSES)]
            found[kind] = {name: statistics.median(one[name] for one in passes) for name in passes[0]}
    lines = [
        *((f"{step}, µs", *(f"{one[step]:.2f}" for one in found.values())) for step in STEPS),
        (f"a letter, µs (at most {MOST_US:g})", *(f"{one['letter']:.2f}" for one in found.values())),
        (f"bytes more than the record (at most {MOST_BYTES:g})", *(f"{one['bytes']:.0f}" for one in found.values())),
    ]
    return Sheet("CPU µs and bytes per dead letter, in one thread, by kind of record", ("", *found), tuple(lines))


def _kinds(rows: int, folder: Path) -> dict[str, list[Record]]:
    values = [value[:-1] for value in flights(rows).values(rows, "json", folder)]  # without its last brace
    stamp = 1_600_000_000_000
    return {
        "empty": [Record("flights", b"", timestamp=stamp + at, offset=at) for at in range(rows)],
        "a flight cut short": [Record("flights", value, key(at), (), stamp + at, 0, at) for at, value in enumerate(values)],
        "and with headers": [Record("flights", value, key(at), TRACE, stamp + at, 0, at) for at, value in enumerate(values)],
    }


def _once(pipeline: Pipeline, records: Sequence[Record]) -> dict[str, float]:
    spent, now, more = dict.fromkeys(STEPS, 0.0), time.thread_time, 0
    for chunk in pipeline.chunks([(("flights", 0), records)]):
        t0 = now()
        passing = pipeline.begin(chunk)
        batch = passing.execution.run()
        t1 = now()
        (letters,) = pipeline._bury(passing, batch.failures)
        t2 = now()
        size = _size(letters)
        t3 = now()
        assert len(letters) == chunk.rows
        more += size - _size(
            Parcel("flights", 0, chunk.records, [one.value for one in chunk.records], extra=[one.headers for one in chunk.records])
        )
        for step, seconds in zip(STEPS, (t1 - t0, t2 - t1, t3 - t2), strict=True):
            spent[step] += seconds
    each = {step: seconds / len(records) * 1e6 for step, seconds in spent.items()}
    return each | {"letter": sum(each[step] for step in STEPS[1:]), "bytes": more / len(records)}


def _size(parcel: Parcel) -> int:
    built = RecordBatch(BATCH_BYTES)
    built.add(parcel)
    return len(built._build())
