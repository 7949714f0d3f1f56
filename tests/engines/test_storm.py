"""The flights on Storm: a local cluster of the real thing, the Flux file of examples/storm, a real Kafka, and a bolt that is killed."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock.record import Record
from penstock.testing import Broker, committed, end_offsets, maven, produce, read_all, wait_for
from penstock.testing.driver import TopologyDriver
from tests.engines.equal import check_same
from tests.engines.java import Java
from tests.kafka.flights import flights, make_flights, operate, push, recomputed
from tests.kafka.running import Job

ROOT = Path(__file__).parents[2]
VERSION = "2.4.0"
JARS = (
    *(f"org.apache.storm:{name}:{VERSION}" for name in ("storm-server", "storm-kafka-client", "flux-core", "flux-wrappers")),
    "org.apache.kafka:kafka-clients:3.9.1",  # the last that has what the spout of this version calls
)
PATHS = {"MODELS": "models", "SCHEMAS": "schemas", "TOPOLOGIES": "", "TRUST": "trust.toml", "CACHE": "cache"}
FLIGHTS = 100_000
LATER = 2_000  # that are scored by a release
BOLTS = 2  # of examples/storm/flights.yaml
PENDING = 5_000  # topology.max.spout.pending
BAD = (b"no event", b'{"flight_id": "x"}', b"\xff\xfe\x00", None)


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


def sent(job: Job, start: int, stop: int) -> list[Record]:
    """Flights as records, over all partitions."""
    chosen = enumerate(itertools.islice(flights(), start, stop))
    return [Record(job.source, one.value, one.id.encode(), partition=at % 4) for at, one in chosen]


def wait_until_all_is_committed(job: Job, running: Java) -> None:
    def ready() -> bool:
        assert running.process.poll() is None, running.tail()
        return committed(job.broker, job.group, job.source) == end_offsets(job.broker, job.source)

    wait_for(ready, lambda: f"every offset committed, {count(job)} outputs:\n{running.tail()}", 120, 0.2)


def answers(job: Job) -> list[dict[str, Any]]:
    """What is in the topic of the predictions; each answer has its flight's key."""
    records = read_all(job.broker, job.sink)
    found = [json.loads(one.value or b"") for one in records]
    assert [one["flight_id"].encode() for one in found] == [one.key for one in records]
    return found


def text(header: bytes | None) -> str:
    return (header or b"").decode()


@pytest.mark.broker
def test_storm_answers_as_a_worker_does_and_loses_nothing_with_a_bolt(broker: Broker, tmp_path: Path) -> None:
    """A killed bolt ends the cluster's worker, as Storm has it; the next one goes on where the spout's group has committed.

    Then a release is deployed: what comes after both processes have logged its generation is answered by its models.
    """
    job = make_flights(broker, tmp_path, partitions=4)
    records = [*sent(job, 0, FLIGHTS), *(Record(job.source, value, b"bad", partition=at % 4) for at, value in enumerate(BAD))]
    produce(broker, records)
    file = flux(job)

    with storm(job, file) as running:
        wait_until(FLIGHTS // 5, job, running)
        first, *_ = running.children("penstock.integrations.storm")
        os.kill(first, signal.SIGKILL)
        assert running.process.wait(60) == 1, running.tail()
    held, before = sum(committed(broker, job.group, job.source).values()), count(job)
    assert 0 < held < FLIGHTS

    with storm(job, file) as running:
        wait_until_all_is_committed(job, running)
        found = answers(job)

        version = push(job, "flight-trees", 0.5)
        operate(job, lambda operator: operator.deploy({"trees": str(version)}, min_ready=0, reason="half of the trees"))
        wait_for(
            lambda: running.log.read_text(errors="replace").count("generation 1 is live") == BOLTS, lambda: f"a swap:\n{running.tail()}", 60
        )
        produce(broker, later := sent(job, FLIGHTS, FLIGHTS + LATER))
        wait_until_all_is_committed(job, running)
        newer = [one for one in answers(job) if one["flight_id"].encode() in {record.key for record in later}]

    driver = TopologyDriver(job.file, models=job.folder / "models", schemas=job.folder / "schemas", partitions=4)
    driver.send_records("departures", records)
    check_same(found, {one["flight_id"]: one for one in driver.events("predictions")})
    # Twice come at most those that were answered without a commit, and those under way at the kill.
    assert len(found) - FLIGHTS <= before - held + PENDING

    letters = {one["id"]: one["message"] for one in (json.loads(one.value or b"") for one in read_all(broker, job.dead))}
    theirs = [dict(one.headers) for one in driver.dead_letters("departures")]
    assert letters == {text(one["penstock-id"]): text(one["__streams.errors.message"]) for one in theirs}
    assert len(letters) == len(BAD)

    versions = {"features": "flight-features@1", "logistic": "flight-logistic@1", "trees": str(version), "stack": "flight-stack@1"}
    events = [json.loads(one.value or b"") for one in later]
    scored = recomputed(job.folder / "models", versions, events)
    rows = {one["flight_id"]: at for at, one in enumerate(events)}
    check_same(newer, {id: events[at] | {name: values[at] for name, values in scored.items()} for id, at in rows.items()})
    print(f"{FLIGHTS:,} flights, of which {len(found) - FLIGHTS:,} were answered twice, and {len(newer):,} by the release")
