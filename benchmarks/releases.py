"""Measures the cost of releases: the same job with and without model swaps, in turns, in one session.

throughput  a backlog, one worker; in every other second, release after release, each announced after the previous one
            is active, each loading a model (four versions take turns, two stay loaded). The seconds with and without are from one
            run, because two runs minutes apart differ by more than the measured effect.
paced       2,000 events per second, one worker, likewise; and while a model of 100 MB is loaded every few
            seconds but never activated.
switch      three workers under the paced load: from the broker's stamp of `activate` to its stamp of the last worker's report that it
            scores with the new generation, which is an upper bound of the switch; a rollback likewise.

The versions differ in their bytes but not in their outputs, so the outputs are compared as in every other run. Work that a host does once
per version (the quarantine) is done before. Messages are not signed here: a signature costs 0.1 ms.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks import results
from benchmarks.contender import Contender
from benchmarks.kafka import Cluster
from benchmarks.measure import Bench, Progress, paced, throughput
from benchmarks.penstock_job import registry, write_topology
from benchmarks.results import Figures, Result
from benchmarks.suite import KINDS, Options, described
from benchmarks.workload import export_models, flights
from penstock import runtime
from penstock.control.lifecycle import State
from penstock.control.messages import Release, new_id, timestamp
from penstock.errors import ControlError, TopicMissing
from penstock.operate.operator import Operator
from penstock.registry.directory import DirectoryRegistry
from penstock.settings import Settings
from penstock.testing.broker import open_broker
from penstock.topology.parse import parse
from penstock.worker.preparation import Preparation

VERSIONS = ("1", "2", "3", "4")
LARGE = "1.100MB"
LARGE_BYTES = 100_000_000
TURN, EDGE, REST = 1.0, 0.05, 4.0  # seconds

Act = Callable[[Operator, "Swaps"], Coroutine[Any, Any, None]]


@dataclass(slots=True)
class Swaps:
    """Releases during a run: seconds from each activation to the last worker's switch, and how often a model was loaded."""

    deploys: list[float] = field(default_factory=list)
    rollbacks: list[float] = field(default_factory=list)
    staged: int = 0

    def figures(self) -> Figures:
        every = {"switch": self.deploys, "rollback": self.rollbacks}
        made = {"swaps": float(len(self.deploys) + len(self.rollbacks)), "staged": float(self.staged)}
        for name, seconds in every.items():
            if seconds:
                made |= {f"{name}_ms": statistics.median(seconds) * 1e3, f"{name}_max_ms": max(seconds) * 1e3}
        return made


def run(options: Options, path: Path, progress: Progress) -> None:
    """Measures, and appends each result to the results file `path`."""
    progress("reading flights", 0, 1)
    surplus = options.n + options.n // 10
    data = flights(surplus)
    with open_broker(options.bootstrap, kinds=KINDS) as broker, tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        results.append(path, results.machine(broker=described(broker), flights=f"{data.source}, {len(data.rows):,} different flights"))
        work = Path(folder)
        models = export_models(work / "models")
        publish(registry(models))
        bench = Bench(Cluster(broker), data, models, work, options.timeout, progress)
        how = {"rate": options.rate, "seconds": options.seconds, "warmup": options.warmup}
        try:
            backlog = bench.cluster.topic("flights-json")
            for sent in bench.cluster.fill(backlog, data.values(surplus, "json", work)):
                progress("filling a topic", sent, surplus)
            progress("trying the versions in quarantine, once", 0, 1)
            _prime(registry(models), work)
            for _ in range(options.repeat):
                plain, swapping = job("penstock", work), job("penstock-swapping", work)
                for one, again in ((swapping, True), (job("penstock-swap-1s", work), False)):
                    for found in by_turns(bench, one, backlog, options.n, again=again):
                        results.append(path, found)
                results.append(path, paced(bench, plain, **how))
                results.append(path, beside(bench, swapping, _swap, lambda job: paced(bench, job, **how)))
                large = job("penstock-large", work)
                results.append(path, beside(bench, large, _stage_large, lambda job: paced(bench, job, **how)))
                three = job("penstock-3", work, "--workers", "3")
                found = beside(bench, three, _swap_and_take_back, lambda job: paced(bench, job, **how))
                results.append(path, Result("switch", three.name, int(found.figures["swaps"]), found.figures, found.check))
        finally:
            bench.cluster.close()


def publish(root: Path) -> None:
    """Further versions of the trees, and the large one, in the registry of the job."""
    shelf = DirectoryRegistry(root)
    first = shelf.resolve("gb", "1")
    for version in VERSIONS[1:]:
        if version not in shelf.versions("gb"):
            shelf.publish("gb", variant(first.read(), version), version=version, golden=first.golden_records(), description="other bytes")
    if LARGE not in shelf.versions("gb"):
        shelf.publish("gb", padded(first.read()), version=LARGE, golden=first.golden_records(), description="100 MB")


def _prime(root: Path, work: Path) -> None:
    """Loads every version once, so that the host's cache holds the files and the results of the quarantine."""
    folder = work / "prime"
    loaded = runtime.load(write_topology(folder, input="in", output="out"), models=root, schemas=folder)
    preparation = Preparation(loaded, Settings(models=root, schemas=folder, cache=work / "cache"))
    for version in (*VERSIONS, LARGE):
        bound = runtime.bindings(replace(loaded, artifacts={**loaded.artifacts, "gb": DirectoryRegistry(root).resolve("gb", version)}))
        release = Release(
            id=new_id(), topology="bench", cluster="", control_topic="bench", time=timestamp(), author="benchmark", base=0, bindings=bound
        )
        preparation.prepare(release, lambda _state, _detail: None)


def variant(model: bytes, name: str) -> bytes:
    """The same model under another digest."""
    changed = onnx.ModelProto.FromString(model)
    changed.doc_string = f"variant {name}"
    data: bytes = changed.SerializeToString()
    return data


def padded(model: bytes) -> bytes:
    """The same outputs from a file of 100 MB: the result of a lookup in a table of weights is multiplied by zero."""
    changed = onnx.ModelProto.FromString(model)
    graph = changed.graph
    table = np.random.default_rng(7).standard_normal(LARGE_BYTES // 4, dtype=np.float32)
    graph.initializer.append(numpy_helper.from_array(table, "pad.table"))
    graph.initializer.append(numpy_helper.from_array(np.array([5], np.int64), "pad.row"))
    graph.initializer.append(numpy_helper.from_array(np.array([0], np.float32), "pad.nought"))
    output = next(one for one in graph.output if one.type.tensor_type.elem_type == TensorProto.FLOAT)
    plain = f"{output.name}.plain"
    for node in graph.node:
        node.output[:] = [plain if name == output.name else name for name in node.output]
    graph.node.extend(
        [
            helper.make_node("Gather", ["pad.table", "pad.row"], ["pad.value"]),
            helper.make_node("Mul", ["pad.value", "pad.nought"], ["pad.zero"]),
            helper.make_node("Add", [plain, "pad.zero"], [output.name]),
        ]
    )
    data: bytes = changed.SerializeToString()
    return data


def job(name: str, work: Path, *options: str) -> Contender:
    title = {"penstock-swapping": "Penstock, 1 worker, swapping", "penstock-3": "Penstock, 3 workers, swapping"}.get(name, name)
    return Contender(name, title, "benchmarks.penstock_job", ("--unsigned-control", "--cache", str(work / "cache"), *options))


def beside(bench: Bench, contender: Contender, act: Act, measure: Callable[[Contender], Result]) -> Result:
    """Runs it with an operator beside it, from the time when its workers are ready. Returns its figures with the operator's."""
    swaps, groups = Swaps(), len(bench.groups)
    over = threading.Event()
    failed: list[BaseException] = []

    def operate() -> None:
        try:
            while len(bench.groups) == groups and not over.wait(0.05):
                pass
            if not over.is_set():
                asyncio.run(_operate(bench, bench.groups[-1], act, swaps, over))
        except BaseException as error:  # noqa: BLE001  raised again at the end of the run
            failed.append(error)

    thread = threading.Thread(target=operate, name="operator")
    thread.start()
    try:
        found = measure(contender)
    finally:
        over.set()
        thread.join()
    if failed:
        raise failed[0]
    return Result(found.mode, found.contender, found.n, {**found.figures, **swaps.figures()}, found.check)


def by_turns(bench: Bench, contender: Contender, backlog: str, n: int, *, again: bool) -> list[Result]:
    """Returns the rates of one worker under backlog, in the seconds without and with releases: one release, or with `again` many.

    Omits the first turn and the edges.
    """
    turns: list[tuple[float, float, bool]] = []

    async def act(operator: Operator, swaps: Swaps) -> None:
        at = 0
        while True:
            began = time.time()
            await asyncio.sleep(TURN)
            turns.append((began, time.time(), False))
            began = time.time()
            while time.time() - began < TURN:
                at += 1
                await _deploy(operator, VERSIONS[at % len(VERSIONS)], swaps)
                if not again:
                    await asyncio.sleep(max(began + TURN - time.time(), 0))
            turns.append((began, time.time(), True))

    found = beside(bench, contender, act, lambda job: throughput(bench, job, backlog, n))
    rates = rates_of(bench, turns, n)
    made = {False: {}, True: {name: found.figures[name] for name in ("swaps", "duplicates", "rss_mb")}}
    return [
        Result("throughput", name, found.n, {**made[swapping], "ev_s": statistics.mean(rates[swapping])}, found.check)
        for name, swapping in ((f"{contender.name}-not", False), (contender.name, True))
    ]


def rates_of(bench: Bench, turns: Sequence[tuple[float, float, bool]], n: int) -> dict[bool, list[float]]:
    """Returns the outputs per second of the last run in each turn (Unix seconds, and its kind), without the first and without edges."""
    stamps = np.sort(np.fromiter((seen.at for seen in bench.cluster.read(bench.groups[-1])), np.int64)) / 1e3
    rates: dict[bool, list[float]] = {True: [], False: []}
    for began, ended, kind in turns[1:]:
        low, high = began + EDGE, ended - EDGE
        if high <= stamps[n - 1] and high > low:
            rates[kind].append(float(np.searchsorted(stamps, high) - np.searchsorted(stamps, low)) / (high - low))
    return rates


async def _operate(bench: Bench, group: str, act: Act, swaps: Swaps, over: threading.Event) -> None:
    state = bench.work / group
    settings = Settings(
        brokers=bench.cluster.broker.bootstrap, application=group, models=registry(bench.models), schemas=state, unsigned_control=True
    )
    while not (state / "bench.yaml").exists() and not over.is_set():
        await asyncio.sleep(0.05)
    topology = parse(state / "bench.yaml")
    while not over.is_set():
        try:
            async with Operator(settings, topology) as operator:
                while not any(one.live and one.status.ready for one in await operator.workers()):
                    if over.is_set():
                        return None
                    await asyncio.sleep(0.05)
                work = asyncio.ensure_future(act(operator, swaps))
                while not over.is_set() and not work.done():
                    await asyncio.sleep(0.05)
                if work.done():
                    error = work.exception()
                    if isinstance(error, ControlError) and error.code == "no-workers" and over.wait(30):
                        return None  # the run has ended, and its workers exited first
                    return work.result()
                work.cancel()
                await asyncio.wait([work])
                return None
        except TopicMissing:  # the contender creates its topics first
            await asyncio.sleep(0.1)
    return None


async def _swap(operator: Operator, swaps: Swaps) -> None:
    """Makes release after release, until cancelled."""
    at = 0
    while True:
        at += 1
        await _deploy(operator, VERSIONS[at % len(VERSIONS)], swaps)


async def _swap_and_take_back(operator: Operator, swaps: Swaps) -> None:
    at = 0
    while True:
        at += 1
        await _deploy(operator, VERSIONS[1 + at % (len(VERSIONS) - 1)], swaps)
        taken_back = await operator.rollback(reason="benchmark")
        swaps.rollbacks.append(max((taken_back.seconds or {}).values()))


async def _stage_large(operator: Operator, swaps: Swaps) -> None:
    while True:
        await _stage(operator, LARGE)
        swaps.staged += 1
        await asyncio.sleep(REST)


async def _deploy(operator: Operator, version: str, swaps: Swaps) -> None:
    deployed = await operator.deploy({"gb": f"gb@{version}"}, reason="benchmark")
    swaps.deploys.append(max((deployed.seconds or {}).values()))


async def _stage(operator: Operator, version: str) -> None:
    """Announces a release, waits until every worker is ready, and aborts it."""
    announced = await operator.deploy({"gb": f"gb@{version}"}, reason="benchmark", wait=False)
    id = announced.release.id
    while True:
        told = [one for worker in await operator.workers() if worker.live for one in worker.status.releases if one.id == id]
        if any(one.state == State.FAILED for one in told):
            raise ControlError(f"{version} could not be made ready: {told[0].detail}")
        if told and all(one.state == State.READY for one in told):
            break
        await asyncio.sleep(0.02)
    await operator.abort(id, "benchmark")
