"""The flights on Storm: a local cluster of the real thing, the Flux file of examples/storm, a real Kafka, and a bolt that is killed."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock.testing import Broker, committed, end_offsets, maven, read_all, wait_for
from tests.engines.flights import COUNT, ROOT, SCORES, TOLERANCE, Flights, release, send
from tests.engines.java import Java
from tests.kafka.flights import make_flights, recomputed, registry_of
from tests.kafka.running import Job

VERSION = "2.4.0"
JARS = (
    *(f"org.apache.storm:{name}:{VERSION}" for name in ("storm-server", "storm-kafka-client", "flux-core", "flux-wrappers")),
    "org.apache.kafka:kafka-clients:3.9.1",  # the last that has what the spout of this version calls
)
PATHS = {"MODELS": "models", "SCHEMAS": "schemas", "TOPOLOGIES": "", "TRUST": "trust.toml", "CACHE": "cache"}
LATER = 2_000  # that are scored by a release
BOLTS = 2  # of examples/storm/flights.yaml
PENDING = 5_000  # topology.max.spout.pending
BAD = {b"no event": "JSON is malformed", b'{"flight_id": "x"}': "missing required field", b"\xff\xfe\x00": "invalid UTF-8"}


@contextmanager
def storm(job: Job, file: Path) -> Iterator[Java]:
    """A local cluster that runs the topology of the file."""
    libs = maven.jars(f"storm-{VERSION}", *JARS)
    with Java.running(
        libs, "org.apache.storm.LocalCluster", "org.apache.storm.flux.Flux", "--no-splash", "--env-filter", str(file),
        folder=job.folder,
        # The command `storm local` sets both: how long the cluster runs, and the jar that is submitted.
        properties={"storm.local.sleeptime": "600", "storm.jar": str(libs / f"flux-core-{VERSION}.jar")},
        environment={
            "BROKERS": job.broker.bootstrap,
            "PYTHON": sys.executable,
            **{f"PENSTOCK_{name}": str(job.folder / path) for name, path in PATHS.items()},
            "PENSTOCK_BROKERS": job.broker.bootstrap,
            "PENSTOCK_APPLICATION": job.application,
        },
    ) as running:  # fmt: skip
        yield running


def flux(job: Job) -> Path:
    """Writes the example with the topics and the group of the job."""
    text = (ROOT / "examples/storm/flights.yaml").read_text()
    for theirs, ours in {"flights.departures": job.source, "flights.predictions": job.sink, "storm-flights": job.group}.items():
        assert theirs in text
        text = text.replace(theirs, ours)
    file = job.folder / "flux.yaml"
    file.write_text(text)
    return file


def count(job: Job) -> int:
    return sum(end_offsets(job.broker, job.sink).values())


def wait_until(reached: int, job: Job, running: Java) -> None:
    def ready() -> bool:
        assert running.process.poll() is None, running.tail()
        return count(job) >= reached

    wait_for(ready, lambda: f"{reached} outputs, {count(job)} now:\n{running.tail()}", 120, 0.2)


def wait_until_all_is_committed(job: Job, running: Java) -> None:
    def ready() -> bool:
        assert running.process.poll() is None, running.tail()
        return committed(job.broker, job.group, job.source) == end_offsets(job.broker, job.source)

    wait_for(ready, lambda: f"every offset committed, {count(job)} outputs:\n{running.tail()}", 120, 0.2)


def answers(job: Job) -> list[dict[str, Any]]:
    """The predictions in the order in which they were written."""
    return [json.loads(one.value or b"") for one in sorted(read_all(job.broker, job.sink), key=lambda one: one.timestamp)]


@pytest.mark.broker
def test_storm_answers_as_a_batch_does_and_loses_nothing_with_a_bolt(broker: Broker, flights: Flights, tmp_path: Path) -> None:
    """The worker of a bolt that was killed ends in a cluster, and its supervisor starts it again; here the test does both.

    Then a release is made: what comes after both processes have logged its generation is answered by its models.
    """
    job = make_flights(broker, tmp_path, partitions=4)
    send(job, [*flights.values, *BAD])
    file = flux(job)

    with storm(job, file) as running:
        wait_until(COUNT // 5, job, running)
        first, *_ = running.children("penstock.integrations.storm")
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: "ShellBolt died" in running.log.read_text(errors="replace"), "Storm to notice", 30)
    held, before = sum(committed(broker, job.group, job.source).values()), count(job)
    assert 0 < held < COUNT

    with storm(job, file) as running:
        wait_until_all_is_committed(job, running)
        found = answers(job)

        release(job, 0.5)
        wait_for(
            lambda: running.log.read_text(errors="replace").count("generation 1 is live") == BOLTS, lambda: f"a swap:\n{running.tail()}", 60
        )
        send(job, flights.values[:LATER])
        wait_until_all_is_committed(job, running)
        newer = answers(job)[len(found) :]

    assert flights.differs(found) < TOLERANCE
    # Twice come at most those that were answered without a commit, and those under way at the kill.
    assert len(found) - len(flights.scores) <= before - held + PENDING
    letters = {one["id"]: one for one in (json.loads(one.value or b"") for one in read_all(broker, job.dead))}
    bad = [letters.pop(f"{job.source}:{at % 4}:{(COUNT + at) // 4}")["message"] for at in range(len(BAD))]
    assert [why in reason for why, reason in zip(BAD.values(), bad, strict=True)] == [True] * len(BAD), bad
    assert {json.loads(one["value"])["flight_id"]: one["message"] for one in letters.values()} == flights.failed

    events = [one for one in map(json.loads, flights.values[:LATER]) if one["flight_id"] not in flights.failed]
    newest = registry_of(job).versions("flight-trees")[-1]
    versions = {
        "features": "flight-features@1",
        "logistic": "flight-logistic@1",
        "trees": f"flight-trees@{newest}",
        "stack": "flight-stack@1",
    }
    scored = recomputed(job.folder / "models", versions, events)
    expected = {one["flight_id"]: tuple(scored[name][at] for name in SCORES) for at, one in enumerate(events)}
    assert Flights(flights.file, [], expected, {}).differs(newer) < TOLERANCE
    assert max(abs(expected[one["flight_id"]][2] - flights.scores[one["flight_id"]][2]) for one in newer) > TOLERANCE
    print(f"{COUNT:,} flights, of which {len(found) - len(flights.scores):,} were answered twice, and {len(newer):,} by the release")
