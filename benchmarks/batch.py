"""Measures a batch over Parquet beside the same by hand: pyarrow reads the columns, the models run, pyarrow writes the outputs.

By hand means that nothing is checked: no schema, no nulls, no numbers that are not finite, no dead letters, no resume. Both run in one
thread, over the same file, in turns, and read and write the same columns; the hand's chunks have the size that is best for it.
Time is CPU time of the process. Ids are all different, as real ones are, so no text of theirs is made once for several rows.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measure import Progress
from benchmarks.penstock_job import FIELDS, registry, write_topology
from benchmarks.report import Sheet
from benchmarks.workload import ID, Flights, Scorer, export_models, flights
from penstock import runtime
from penstock.pipeline import Pace, Program
from penstock.runners.files import Target, batch_pace, finish, formed, job_of, run_units
from penstock.runtime import Loaded
from penstock.transports.checkpoint import Checkpoint
from penstock.transports.files import FORMATS, Input, place
from penstock.transports.files.manifest import Manifest

CHUNKS = (256, 1024, 4096)
BATCH = 1 << 16
TYPES = {"int": pa.int32(), "double": pa.float64(), "string": pa.string()}


def measure(rows: int, rounds: int, progress: Progress) -> Sheet:
    """A table of CPU µs per row by hand and by Penstock, medians of `rounds`, and their ratio."""
    progress("reading flights", 0, 1)
    data = flights(rows)
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        folder = Path(name)
        models = export_models(folder / "models")
        scorer, file = Scorer(models), write_flights(data, rows, folder / "in.parquet")
        topology = write_topology(folder / "topology", input="flights", output="scores")
        loaded = runtime.load(topology, models=registry(models), schemas=topology.parent)
        program = runtime.prepare(loaded)
        ways: dict[str, Callable[[Path], None]] = {
            **{f"by hand, chunks of {size:,}": partial(by_hand, scorer, file, size) for size in CHUNKS},
            "penstock": partial(by_penstock, loaded, program, file),
        }
        spent: dict[str, list[float]] = {way: [] for way in ways}
        for turn, (way, run) in itertools.product(range(rounds + 1), ways.items()):
            progress(way, turn, rounds + 1)
            out = folder / f"{len(spent[way])}-{abs(hash(way))}.parquet"
            gc.collect()
            began = time.process_time()
            run(out)
            spent[way].append((time.process_time() - began) / rows * 1e6)
            compare(out, folder / "first.parquet")
        medians = {way: statistics.median(times[1:]) for way, times in spent.items()}  # the first turn warms up
    best = min(medians[way] for way in medians if way.startswith("by hand"))
    lines = tuple((way, f"{value:.2f}", f"{best / value:.2f}") for way, value in medians.items())
    return Sheet(
        f"Parquet to Parquet in one thread, {rows:,} rows, {rounds} rounds in turns", ("", "CPU µs/row", "of the best by hand"), lines
    )


def write_flights(data: Flights, rows: int, file: Path) -> Path:
    """Writes numbered flights as Parquet."""
    schema = pa.schema([(name, TYPES[kind]) for name, kind in FIELDS.items()])
    events = [{**data.row(at), ID: f"f{at:08d}"} for at in range(rows)]
    pq.write_table(pa.Table.from_pylist(events, schema=schema), file, row_group_size=BATCH * 2)
    return file


def by_hand(scorer: Scorer, file: Path, chunk: int, out: Path) -> None:
    """Reads, scores and writes with nothing but pyarrow, numpy and the sessions."""
    tensors = scorer.feat.signature.inputs
    schema = pa.schema([(ID, pa.string()), ("score", pa.float32()), ("lr", pa.float32()), ("gb", pa.float32())])
    with pq.ParquetFile(file) as given, pq.ParquetWriter(out, schema) as written:
        for batch in given.iter_batches(BATCH, columns=[ID, *(tensor.name for tensor in tensors)], use_threads=False):
            columns = {
                one.name: batch.column(one.name).to_numpy(zero_copy_only=False).astype(object if one.dtype == "string" else one.dtype)
                for one in tensors
            }
            scores = []
            for at in range(0, batch.num_rows, chunk):
                lr, gb = scorer.run({name: values[at : at + chunk].reshape(-1, 1) for name, values in columns.items()})
                scores.append(((lr + gb) / 2, lr, gb))
            made = [pa.array(np.concatenate(one)) for one in zip(*scores, strict=True)]
            written.write_batch(pa.RecordBatch.from_arrays([batch.column(ID), *made], schema=schema))


def by_penstock(loaded: Loaded, program: Program, file: Path, out: Path) -> None:
    """What `penstock batch --in in.parquet --out out.parquet` runs, without its start."""
    source = loaded.topology.sources[0]
    target = Target.of(place(str(out)), ["scores"], source.dead_letter, FORMATS["parquet"])
    job = job_of(loaded, FORMATS["parquet"], target, {0: str(file)}, part_rows=1_000_000)
    manifest = Manifest({}, [(str(file), file.stat().st_size)])
    pace, inputs = batch_pace(Pace()), [Input(0, place(str(file)), file.stat().st_size)]

    async def run() -> None:
        written = formed(loaded, program, lines=True, writes="columns")
        await run_units(written, job, inputs, Checkpoint(keep=manifest.keep), pace=pace, progress=lambda *_: None, stopped=asyncio.Event())

    asyncio.run(run())
    finish(target, job.outputs, manifest)


def compare(out: Path, first: Path) -> None:
    """Raises AssertionError when these outputs are not those of the first run."""
    if not first.exists():
        first.write_bytes(out.read_bytes())
    found, wanted = pq.read_table(out), pq.read_table(first)
    assert found.column(ID).equals(wanted.column(ID)), "other ids"
    for name in ("score", "lr", "gb"):
        np.testing.assert_allclose(found.column(name).to_numpy(), wanted.column(name).to_numpy(), atol=1e-6)
