"""Measures lookups: how fast a table is read, what it takes in memory, and how many events one thread looks up per second.

The table has ROWS rows of six fields, as JSON records. Events have a key of it, or none in MISSING of them, and read all six fields, in
batches. Decoding the events, models and Kafka are left out. Time is CPU time of the thread; the cyclic collector is off, as in a worker.
"""

from __future__ import annotations

import json
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.measure import Progress
from benchmarks.micro import no_collector
from benchmarks.report import Sheet
from penstock import runtime
from penstock.batch import Batch, Origin
from penstock.nodes import Context
from penstock.pipeline.tables import TableReader
from penstock.record import Record
from penstock.state import States

MISSING = 0.05
BATCHES = (256, 4096)
EVENTS = 1_000_000
BEGAN = 1_700_000_000_000
TOGETHER = 5_000  # records, as a worker takes them
FIELDS = {"code": "string", "price": "double", "stock": ["null", "long"], "weight": "float", "maker": "string", "new": "boolean"}
TOPOLOGY = """\
topology: shop
sources: {{orders: {{topic: orders, schema: order.avsc}}}}
tables: {{items: {{topic: items, schema: item.avsc, key: code{history}}}}}
nodes: {{found: {{kind: lookup, table: items, by: item}}}}
sinks: {{out: {{topic: out, fields: [{fields}]}}}}
"""


def measure(rows: int, rounds: int, progress: Progress) -> Sheet:
    """A table of rows read per second, bytes per row, and events per second by the size of their batches: medians of the rounds."""
    lines = []
    for history in (False, True):
        read: list[float] = []
        looked: dict[int, list[float]] = {size: [] for size in BATCHES}
        memory = 0.0
        for turn in range(rounds):
            progress(f"{'with' if history else 'without'} a history", turn, rounds)
            reader, spent, taken = filled(rows, history)
            read.append(rows / spent)
            memory = memory or taken
            for size in BATCHES:
                looked[size].append(EVENTS / look_up(reader, rows, size))
        rates = [f"{statistics.median(looked[size]):,.0f}" for size in BATCHES]
        lines.append(("7 days" if history else "none", f"{statistics.median(read):,.0f}", f"{memory / rows:,.0f}", *rates))
    title = f"Lookups per CPU second of one thread, {rows:,} rows of {len(FIELDS)} fields"
    return Sheet(title, ("history", "rows read/s", "bytes/row", *(f"events/s, batches of {size:,}" for size in BATCHES)), tuple(lines))


def loaded(history: bool) -> runtime.Loaded:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name, fields in (("order", {"item": "string"}), ("item", FIELDS)):
            schema = {"type": "record", "name": name, "fields": [{"name": one, "type": kind} for one, kind in fields.items()]}
            (place / f"{name}.avsc").write_text(json.dumps(schema))
        read = ", ".join(f"found.{name}" for name in FIELDS)
        (place / "shop.yaml").write_text(TOPOLOGY.format(history=", history: 7d" if history else "", fields=read))
        return runtime.load(place / "shop.yaml", models=place, schemas=place)


def filled(rows: int, history: bool) -> tuple[TableReader, float, float]:
    """Returns a table, the seconds that reading it took, and the bytes by which the process has grown."""
    reader = runtime.readers(loaded(history))["items"]
    before, spent = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0.0
    with no_collector():
        for at in range(0, rows, TOGETHER):
            records = [item(number) for number in range(at, min(at + TOGETHER, rows))]
            began = time.thread_time()
            reader.apply(records)
            spent += time.thread_time() - began
    return reader, spent, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024.0


def item(number: int) -> Record:
    code, stock = f"item-{number:08d}", number % 50 or None
    row = {"code": code, "price": number / 4, "stock": stock, "weight": 0.5, "maker": f"m{number % 999}", "new": True}
    return Record("items", json.dumps(row).encode(), code.encode(), timestamp=BEGAN)


def look_up(reader: TableReader, rows: int, size: int) -> float:
    """Returns the seconds for EVENTS events."""
    program = runtime.prepare(loaded(bool(reader.table.history_ms)))
    (node,) = program.plan.stages["orders"].nodes
    context = Context(states=States(tables={"items": reader.rows}))
    batches = [*events(rows, size)]
    with no_collector():
        began = time.thread_time()
        for at in range(EVENTS // size):
            node.run(batches[at % len(batches)], context)
        return (time.thread_time() - began) * EVENTS / (EVENTS // size * size)


def events(rows: int, size: int) -> Sequence[Batch]:
    chance = np.random.default_rng(0)
    made = []
    for _ in range(16):
        keys = chance.integers(0, int(rows / (1 - MISSING)), size).tolist()
        records = [Record("orders", b"", timestamp=BEGAN + 1, offset=at) for at in range(size)]
        column = np.array([f"item-{key:08d}" for key in keys], object)
        made.append(Batch(size, {"item": column}, origin=Origin(records, (("orders", 0, size),))))
    return made
