"""Measures the cost of each step of the pipeline: calls the parts of `Pipeline.process` one by one, over rows that it has not seen before.

The records are like those of a worker, parsed from record batches by the client's parser. The cyclic collector is off, as in a
worker. Kafka's part is omitted: fetching, parsing, sending. Chunks of 1 show the cost of an event that comes alone.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from benchmarks.measure import Progress
from benchmarks.penstock_job import registry, write_topology
from benchmarks.report import Sheet
from benchmarks.workload import export_models, flights, key
from penstock import runtime
from penstock.pipeline import Pipeline
from penstock.record import RecordLike
from penstock.transports.kafka.encode import RecordBatch
from penstock.transports.memory import Memory, MemorySink

CHUNKS = (1, 64, 256, 1024)
STEPS = ("decode", "execute", "encode", "address", "build batch")
BATCH_BYTES = 1 << 20
FEW = 2_000  # rows for chunks of one, which take a hundred times as long
PASSES = 3


def measure(rows: int, progress: Progress) -> Sheet:
    """A table of CPU µs per event, by step, format and chunk size: medians of PASSES."""
    progress("reading flights", 0, 1)
    data = flights(rows)
    columns: list[Mapping[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder, no_collector():
        models = registry(export_models(Path(folder) / "models"))
        for form in ("json", "avro"):
            topology = write_topology(Path(folder) / form, input="flights", output="scores", format=form)
            program = runtime.prepare(runtime.load(topology, models=models, schemas=topology.parent))
            records = _fetched(data.values(rows, form, topology.parent))
            for at, size in enumerate(CHUNKS):
                progress(f"{form}, chunks of {size:,}", at, len(CHUNKS))
                pipeline = Pipeline(program, "flights", chunk_rows=size, sink=MemorySink(Memory()))
                columns.append(steps(pipeline, records if size > 1 else records[:FEW]))
    heads = (f"{form} {size}" for form in ("JSON", "Avro") for size in CHUNKS)
    rows_drawn = tuple((step, *(f"{column[step]:.2f}" for column in columns)) for step in (*STEPS, "all"))
    return Sheet("CPU µs per event in one thread, by format and rows of a chunk", ("", *heads), rows_drawn)


def steps(pipeline: Pipeline, records: Sequence[RecordLike]) -> dict[str, float]:
    """Returns µs per event of every step, and of `all` steps together."""
    passes = [_once(pipeline, records) for _ in range(PASSES)]
    return {step: statistics.median(one[step] for one in passes) for step in (*STEPS, "all")}


def _once(pipeline: Pipeline, records: Sequence[RecordLike]) -> dict[str, float]:
    stage, spent, now = pipeline.stage, dict.fromkeys(STEPS, 0.0), time.thread_time
    (output,) = stage.outputs
    for chunk in pipeline.chunks([(("flights", 0), records)]):
        t0 = now()
        passing = pipeline.begin(chunk)
        t1 = now()
        passing.execution.run()
        t2 = now()
        written = pipeline.encode(output, passing)
        t3 = now()
        ((parcel, numbers),) = pipeline.address(output, passing, written)
        parcel, _ = pipeline._fitting(parcel, numbers)
        t4 = now()
        built = RecordBatch(BATCH_BYTES)
        built.add(parcel)
        built._build()
        t5 = now()
        for step, seconds in zip(STEPS, (t1 - t0, t2 - t1, t3 - t2, t4 - t3, t5 - t4), strict=True):
            spent[step] += seconds
    each = {step: seconds / len(records) * 1e6 for step, seconds in spent.items()}
    return each | {"all": sum(each.values())}


def _fetched(values: Iterable[bytes]) -> list[RecordLike]:
    """Returns the values as records of one partition, in the form of a fetch."""
    batches: list[BatchBuilder] = []
    for at, value in enumerate(values):
        record = {"timestamp": 1_600_000_000_000 + at, "key": key(at), "value": value}
        if not batches or batches[-1].append(**record) is None:
            batches.append(BatchBuilder(BATCH_BYTES, 0))
            batches[-1].append(**record)
    records: list[RecordLike] = []
    for batch in batches:
        batch.close()
        source = MemoryRecords(bytes(batch._build()))
        while source.has_next():
            records.extend(source.next_batch())
    return records


@contextmanager
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
