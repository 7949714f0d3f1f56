"""Measures matches of two streams by key: how many pairs one thread makes per second, from the bytes of records to those of outputs.

Orders and payments are JSON, one of each per key; a payment comes DELAY ms after its order, and the two topics are read in turns, in
chunks of ROWS records. With `keep`, a left event without a partner goes on alone, which takes a mark in each one that has one; 5% have
none. A turn is a chunk of each topic, what is out of reach, and the checkpoint of both sides. A rule and a sink follow; sending is left
out. Memory is that of a key that waits, with its record. Time is CPU time of the thread; the cyclic collector is off, as in a worker.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.measure import Progress
from benchmarks.micro import no_collector
from benchmarks.report import Sheet
from penstock import runtime
from penstock.joins.sides import Row, Side
from penstock.pipeline import Chunk, Pipeline, Program
from penstock.pipeline.matching import Matching
from penstock.record import Record
from penstock.state import States
from penstock.telemetry import Metrics
from penstock.topology.parse import parse_text
from penstock.transports.memory import Memory, MemorySink

BEGIN: Final = 1_700_000_000_000  # ms
ROWS: Final = 256
DELAY: Final = 1_000  # ms
RATE: Final = 1  # events per ms, by their times
MISSING: Final = 20  # one of so many orders is not paid
WAITING: Final = 50_000  # keys whose memory is measured
TOPOLOGY: Final = """
topology: shop
sources:
  orders: {topic: orders, schema: order.avsc, id: id, time: at}
  payments: {topic: payments, schema: payment.avsc, time: at}
  paid:
    match: {left: orders, right: payments, by: {orders: id, payments: order}, within: 10s, lateness: 1s, unmatched: UNMATCHED}
nodes:
  size: {kind: rule, outputs: {large: paid.orders.amount > 100}}
sinks:
  out: {topic: out, fields: {id: paid.orders.id, amount: paid.orders.amount, method: paid.payments.method, large: size.large}}
"""
AT: Final = {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}}


class Spent(NamedTuple):
    """The outputs of a run, and the CPU seconds of matching, of models with encoding, and of checkpoints."""

    outputs: int
    matching: float
    scoring: float
    checkpoints: float


def measure(pairs: int, rounds: int, progress: Progress) -> Sheet:
    """A table of pairs per second and CPU µs per pair: medians of the rounds."""
    lines = []
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        for kind in ("drop", "keep"):
            program = _program(Path(folder), kind)
            found = []
            for turn in range(rounds):
                progress(f"{pairs:,} pairs, unmatched: {kind}", turn, rounds)
                orders, payments = _events(pairs)
                with no_collector():
                    found.append(run(program, orders, payments))
            parts = [statistics.median(times) / found[0].outputs * 1e6 for times in zip(*(one[1:] for one in found), strict=True)]
            figures = f"{found[0].outputs:,}", *(f"{one:.1f}" for one in parts), f"{1e6 / sum(parts):,.0f}", f"{_memory():,.0f}"
            lines.append((kind, *figures))
    names = ("unmatched", "outputs", "matching µs", "scoring µs", "checkpoints µs", "outputs/s", "bytes per waiting key")
    return Sheet(f"Matched events per CPU second of one thread, chunks of {ROWS} records", names, tuple(lines))


def _program(folder: Path, unmatched: str) -> Program:
    order = [{"name": "id", "type": "string"}, {"name": "amount", "type": "double"}, AT]
    payment = [{"name": "order", "type": "string"}, {"name": "method", "type": "string"}, AT]
    for name, fields in (("order", order), ("payment", payment)):
        (folder / f"{name}.avsc").write_text(json.dumps({"type": "record", "name": name, "fields": fields}), encoding="utf-8")
    loaded = runtime.load(parse_text(TOPOLOGY.replace("UNMATCHED", unmatched)), models=folder, schemas=folder)
    return runtime.prepare(runtime.shares(loaded, "bench")["paid"])


def _events(pairs: int) -> tuple[list[Record], list[Record]]:
    orders, payments = list[Record](), list[Record]()
    for at in range(pairs):
        id, when = f"order-{at:010d}", BEGIN + at // RATE
        value = json.dumps({"id": id, "amount": at % 200 + 0.5, "at": when}).encode()
        orders.append(Record("orders", value, id.encode(), (), when, 0, at))
        if at % MISSING:
            paid = json.dumps({"order": id, "method": "card", "at": when + DELAY}).encode()
            payments.append(Record("payments", paid, id.encode(), (), when + DELAY, 0, len(payments)))
    return orders, payments


def run(program: Program, orders: Sequence[Record], payments: Sequence[Record]) -> Spent:
    """Runs both topics to their ends."""
    states, now, metrics = States(), time.thread_time, Metrics()
    pipeline = Pipeline(program, "paid", sink=MemorySink(Memory(1)), chunk_rows=ROWS, metrics=metrics)
    matching, clock = Matching(pipeline, metrics), orders[-1].timestamp + 3_600_000
    matched = scored = checkpoints = 0.0
    outputs = 0
    for at in range(0, max(len(orders), len(payments)), ROWS):
        for topic, records in (("orders", orders[at : at + ROWS]), ("payments", payments[at : at + ROWS])):
            t0 = now()
            passes = [*matching.take(Chunk(records, ((topic, 0, len(records)),)), states, clock)] if records else []
            read_to = [matching.newest(states, (one, 0)) - matching.lateness for one in matching.topics]
            passes += matching.over(states, 0, (read_to[0], read_to[1]), 1024) or []
            t1 = now()
            outputs += sum(len(parcel) for one in passes for parcel in pipeline.complete(one))
            t2 = now()
            for one in states.checkpoint(pipeline.remembers):
                states.written(one.node, one.partition)
            matched, scored, checkpoints = matched + t1 - t0, scored + t2 - t1, checkpoints + now() - t2
    return Spent(outputs, matched, scored, checkpoints)


def _memory() -> float:
    """Returns the bytes of a key that waits, with its record of about 70 bytes."""
    orders, _ = _events(WAITING)
    tracemalloc.start()
    side = Side("bench", 10_000)
    for at, one in enumerate(orders):
        side.add(b"order-%010d" % at, Row.of(one, one.timestamp))
    side.due(0, 1 << 40)
    list(side.checkpoint())
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size / WAITING
