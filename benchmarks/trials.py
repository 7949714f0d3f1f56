"""Measures what a release on trial costs the live stream: CPU time per event with a candidate, against the live plan alone.

The job is that of `micro`, by the same steps, over the same rows in turns. The candidate changes one node: the boosting (`gb`), or the
features (`feat`), which all others read. Its models are as expensive as the live ones.

On Kafka, a worker under backlog has a candidate of the boosting in every other second, so that both rates are from one run.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import cast

from benchmarks.kafka import Cluster
from benchmarks.measure import Bench, Progress, throughput
from benchmarks.micro import _fetched, no_collector, steps
from benchmarks.penstock_job import registry, write_topology
from benchmarks.releases import TURN, Swaps, beside, job, publish, rates_of
from benchmarks.report import Sheet
from benchmarks.suite import KINDS
from benchmarks.workload import export_models, flights
from penstock import runtime
from penstock.control.messages import Release
from penstock.control.strategy import Split
from penstock.engine import Router
from penstock.operate.operator import Operator
from penstock.pipeline import Candidate, Pipeline, Program
from penstock.testing.broker import open_broker
from penstock.transports.memory import Memory, MemorySink

SHARES = (0.01, 0.05, 0.5)
CHANGED = ("gb", "feat")


def measure(rows: int, rounds: int, progress: Progress) -> Sheet:
    """A table of CPU µs per event, alone and by the share of the candidate, and the ratio to alone: medians of the rounds."""
    progress("reading flights", 0, 1)
    data = flights(rows)
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder, no_collector():
        models = registry(export_models(Path(folder) / "models"))
        topology = write_topology(Path(folder) / "json", input="flights", output="scores", format="json")
        live, other = (runtime.prepare(runtime.load(topology, models=models, schemas=topology.parent)) for _ in range(2))
        records = _fetched(data.values(rows, "json", topology.parent))
        kinds = [("none", 0.0), *((node, share) for node in CHANGED for share in SHARES)]
        found: dict[tuple[str, float], list[float]] = {kind: [] for kind in kinds}
        for turn in range(rounds):
            progress("rounds", turn, rounds)
            for kind in kinds:
                found[kind].append(steps(_pipeline(live, other, *kind), records)["all"])
    alone = found["none", 0.0]
    lines = []
    for (node, share), each in found.items():
        ratio = statistics.median(one / base for one, base in zip(each, alone, strict=True))
        lines.append((node, f"{share:.0%}" if share else "", f"{statistics.median(each):.2f}", f"{ratio:.2f}"))
    return Sheet("CPU µs per event in one thread, by what is on trial", ("changed node", "share", "µs/event", "to none"), tuple(lines))


def _pipeline(live: Program, other: Program, node: str, share: float) -> Pipeline:
    candidate = Candidate(other, frozenset([node]), Router("release", share)) if share else None
    return Pipeline(live, "flights", candidate=candidate, sink=MemorySink(Memory()))


def on_kafka(n: int, share: float, bootstrap: str | None, progress: Progress) -> Sheet:
    """A table of events per second of one worker, with and without a candidate that has this share of the units, and their ratio."""
    progress("reading flights", 0, 1)
    surplus = n + n // 10
    data = flights(surplus)
    turns: list[tuple[float, float, bool]] = []

    async def act(operator: Operator, _: Swaps) -> None:
        while True:
            began = time.time()
            await asyncio.sleep(TURN)
            turns.append((began, time.time(), False))
            await operator.deploy({"gb": "gb@2"}, strategy=Split(share), reason="benchmark")
            began = time.time()
            await asyncio.sleep(TURN)
            turns.append((began, time.time(), True))
            await operator.abort(cast(Release, operator.log.candidate).id, "benchmark")

    with open_broker(bootstrap, kinds=KINDS) as broker, tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        work = Path(folder)
        models = export_models(work / "models")
        publish(registry(models))
        bench = Bench(Cluster(broker), data, models, work, 180.0, progress)
        try:
            backlog = bench.cluster.topic("flights-json")
            for sent in bench.cluster.fill(backlog, data.values(surplus, "json", work)):
                progress("filling a topic", sent, surplus)
            found = beside(bench, job("penstock", work), act, lambda one: throughput(bench, one, backlog, n))
            rates = rates_of(bench, turns, n)
        finally:
            bench.cluster.close()
    without, with_one = statistics.median(rates[False]), statistics.median(rates[True])
    row = (f"{share:.0%}", f"{without:,.0f}", f"{with_one:,.0f}", f"{without / with_one:.2f}", str(len(rates[True])), found.check)
    return Sheet(
        "One worker on Kafka, events per second", ("share", "without", "with a candidate", "cost", "seconds each", "outputs"), (row,)
    )
