"""The flights of `penstock demo` as a job for tests that swap models: signed releases, and versions that answer differently.

`recomputed` scores flights again without anything of Penstock's: the files of a registry, run by onnxruntime, wired here by hand.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from penstock.control.messages import timestamp
from penstock.control.trust import SigningKey
from penstock.model.artifact import MODEL_FILE, Artifact
from penstock.operate import operator
from penstock.operate.operator import Operator
from penstock.record import Record
from penstock.registry.directory import DirectoryRegistry
from penstock.settings import Settings
from penstock.testing import Broker, create_release_topics, create_topics, produce, unique
from penstock.topology.parse import parse
from tests.kafka.running import Job

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
METRICS = {"auc": 0.9, "log_loss": 0.3}  # what the topology asks for at least
KEY = "operator.pem"
NUMBERS = ("hour", "minute", "dep_delay", "distance", "sched_arr_time")
CATEGORIES = ("carrier", "origin", "dest")


def make_flights(broker: Broker, folder: Path, *, partitions: int = 6) -> Job:
    """`topologies/flights.yaml` with topics of its own, a copy of the registry, and a key that may release for it."""
    name = unique("departures")
    job = Job(broker, folder, name, f"{name}.predictions", f"{name}.dead-letter", unique("app"), partitions, "flights")
    text = (ROOT / "topologies/flights.yaml").read_text().replace("flights.departures", f"{job.source}\n    dead_letter: {job.dead}")
    job.file.write_text(text.replace("flights.predictions", job.sink))
    for node in parse(job.file).model_nodes:
        shutil.copytree(ROOT / "models" / node.model.name, folder / "models" / node.model.name)
    shutil.copytree(ROOT / "schemas", folder / "schemas")
    key = SigningKey.new("operator")
    key.save(folder / KEY)
    trusted = f'[keys.operator]\npublic = "{key.public}"\ntopologies = ["flights"]\ntrusted = {timestamp(0)}\n'
    (folder / "trust.toml").write_text(trusted)
    create_topics(broker, {job.source: partitions, job.sink: partitions, job.dead: partitions})
    create_release_topics(broker, job.application, "flights")
    return job


def settings_of(job: Job) -> Settings:
    """What an operator of the job has set."""
    return Settings(
        brokers=job.broker.bootstrap,
        application=job.application,
        models=job.folder / "models",
        schemas=job.folder / "schemas",
        trust=job.folder / "trust.toml",
        signing_key=job.folder / KEY,
    )


def operate(job: Job, act: Callable[[Operator], Awaitable[T]]) -> T:
    """What an operator of the job does, signed."""
    return operator.operate(settings_of(job), parse(job.file), act)


# -- versions ----------------------------------------------------------------------------------------------------------


def registry_of(job: Job) -> DirectoryRegistry:
    return DirectoryRegistry(job.folder / "models")


def push(job: Job, name: str, factor: float, **metrics: float) -> Artifact:
    """Registers a version of `name` whose weights are those of its version 1, `factor` times as large."""
    return registry_of(job).publish(name, reweighted(job, name, factor), metrics={**METRICS, **metrics})


def reweighted(job: Job, name: str, factor: float) -> bytes:
    model = onnx.load_from_string(registry_of(job).resolve(name, "1").read())
    for attribute in (attribute for node in model.graph.node for attribute in node.attribute):
        if attribute.name in ("coefficients", "class_weights"):
            attribute.floats[:] = [value * factor for value in attribute.floats]
    return bytes(model.SerializeToString())


def renamed(job: Job, name: str) -> bytes:
    """Version 1 with an input of another name."""
    model = onnx.load_from_string(registry_of(job).resolve(name, "1").read())
    for node in model.graph.node:
        node.input[:] = ["Z" if one == "X" else one for one in node.input]
    model.graph.input[0].name = "Z"
    return bytes(model.SerializeToString())


# -- events ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flight:
    """An event: its id, which no other has, and its value."""

    id: str
    value: bytes


@cache
def _once() -> Sequence[Flight]:
    """The committed sample of half a year's flights."""
    sys.path.insert(0, str(ROOT / "examples" / "flights"))  # scripts of an example, not a package
    try:
        import events
    finally:
        sys.path.pop(0)
    return [Flight(one.flight_id, one.value) for one in events.replay(None).departures()]


def flights() -> Iterator[Flight]:
    """The flights of the sample for ever, as the demo sends them; from the second time on the ids say which time it is."""
    yield from _once()
    for time in itertools.count(2):
        for one in _once():
            id = f"{one.id}.{time}"
            yield Flight(id, one.value.replace(one.id.encode(), id.encode(), 1))


class Departures:
    """Sends flights from a thread at `rate` per second, in bursts. `sent` holds them by partition, in the order of their offsets."""

    BURST_S = 0.25

    def __init__(self, job: Job, rate: int) -> None:
        self.sent: list[list[Flight]] = [[] for _ in range(job.partitions)]
        self._job, self._burst = job, int(rate * self.BURST_S)
        self._coming = flights()
        self._count = 0
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="departures")

    @contextmanager
    def flowing(self) -> Iterator[None]:
        """They flow inside."""
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            while not self._stop.wait(self.BURST_S):
                produce(self._job.broker, map(self._record, itertools.islice(self._coming, self._burst)))
        except BaseException as error:  # noqa: BLE001  told to whoever waits for this thread
            self._failure = error

    def _record(self, flight: Flight) -> Record:
        partition = self._count % self._job.partitions
        self._count += 1
        self.sent[partition].append(flight)
        return Record(self._job.source, flight.value, flight.id.encode(), partition=partition)


# -- the same again, by other means ------------------------------------------------------------------------------------


def recomputed(models: Path, versions: Mapping[str, str], events: Sequence[Mapping[str, Any]]) -> Mapping[str, npt.NDArray[np.float32]]:
    """`score`, `logistic` and `trees` of the events, with `versions` (node -> NAME@VERSION)."""
    run = {node: partial(_run, models, version) for node, version in versions.items()}
    feeds: dict[str, Any] = {name: np.array([[one[name]] for one in events], np.float32) for name in NUMBERS}  # None is NaN
    feeds |= {name: np.array([[one[name]] for one in events], object) for name in CATEGORIES}
    features = run["features"]("variable", feeds)
    logistic = run["logistic"]("probabilities", {"X": features})[:, 1]
    trees = run["trees"]("probabilities", {"X": features})[:, 1]
    score = run["stack"]("probabilities", {"X": np.column_stack([logistic, trees])})[:, 1]
    return {"score": score, "logistic": logistic, "trees": trees}


def _run(models: Path, version: str, output: str, feeds: Mapping[str, Any]) -> Any:
    return _session(models / version.replace("@", os.sep) / MODEL_FILE).run([output], dict(feeds))[0]


@cache
def _session(file: Path) -> ort.InferenceSession:
    return ort.InferenceSession(file, providers=["CPUExecutionProvider"])
