"""The main benchmark: all claims, in one session, on one broker, in turns, so that a noisy minute affects all contenders alike."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import results
from benchmarks.contender import CONTENDERS
from benchmarks.kafka import Cluster
from benchmarks.measure import Bench, Progress, paced, throughput
from benchmarks.penstock_job import registry
from benchmarks.pure_onnx import pure_onnx
from benchmarks.results import Result
from benchmarks.workload import export_models, flights
from penstock.testing.broker import Broker, Kind, open_broker

RUNS = (*CONTENDERS, "onnx", "paced")
KINDS: tuple[Kind, ...] = ("external", "container", "jvm")  # not the mock cluster: it keeps too little, and is not a Kafka to measure on


@dataclass(frozen=True, slots=True)
class Options:
    """The amount of measurement. `n` is the number of outputs of a throughput run."""

    n: int
    repeat: int
    only: Sequence[str]
    bootstrap: str | None
    rate: int
    seconds: int
    warmup: int
    timeout: float


def run(options: Options, path: Path, progress: Progress) -> None:
    """Measures, and appends each result to the results file `path`. Ends every started process, also when it raises."""
    progress("reading flights", 0, 1)
    surplus = options.n + options.n // 10  # so that no partition is empty before the N-th output
    data = flights(surplus)
    progress("starting Kafka", 0, 1)
    with open_broker(options.bootstrap, kinds=KINDS) as broker, tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        facts = results.machine(broker=described(broker), flights=f"{data.source}, {len(data.rows):,} different flights")
        results.append(path, facts)
        work = Path(folder)
        models = export_models(work / "models")
        registry(models)  # before the measurement, as in a deployment
        bench = Bench(Cluster(broker), data, models, work, options.timeout, progress)
        try:
            inputs = _inputs(bench, options.only, surplus)
            for _ in range(options.repeat):
                for name in options.only:
                    results.append(path, _one(bench, name, inputs, options))
        finally:
            bench.cluster.close()


def _inputs(bench: Bench, only: Sequence[str], count: int) -> dict[str, str]:
    """Fills one topic with events per required format."""
    inputs: dict[str, str] = {}
    for format in dict.fromkeys(CONTENDERS[name].format for name in only if name in CONTENDERS):
        inputs[format] = bench.cluster.topic(f"flights-{format}")
        for sent in bench.cluster.fill(inputs[format], bench.flights.values(count, format, bench.work)):
            bench.progress(f"filling a topic with {format} events", sent, count)
    return inputs


def _one(bench: Bench, name: str, inputs: dict[str, str], options: Options) -> Result:
    if name == "onnx":
        bench.progress("the models alone", 0, 1)
        return Result("compute", "onnx", len(bench.flights.rows), {"cpu_us_ev": pure_onnx(bench.models, bench.flights)}, "ok")
    if name == "paced":
        return paced(bench, CONTENDERS["penstock"], rate=options.rate, seconds=options.seconds, warmup=options.warmup)
    contender = CONTENDERS[name]
    return throughput(bench, contender, inputs[contender.format], max(options.n // contender.share, 1))


def described(broker: Broker) -> str:
    """The broker, for the caption of a table."""
    from penstock.testing.jvm_kafka import KAFKA_VERSION

    return f"Kafka {KAFKA_VERSION}" if broker.kind == "jvm" else f"Kafka ({broker.kind})"
