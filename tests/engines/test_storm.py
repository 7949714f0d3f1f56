"""The flights on Storm: a local cluster of the real thing, the Flux file of examples/storm, a real Kafka, and a bolt that is killed."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from penstock.record import Record
from penstock.testing import Broker, committed, end_offsets, maven, produce, read_all, wait_for
from penstock.testing.driver import TopologyDriver
from tests.engines.equal import check_same
from tests.engines.java import Java
from tests.kafka.flights import flights, make_flights
from tests.kafka.running import Job

ROOT = Path(__file__).parents[2]
VERSION = "2.4.0"
JARS = (
    *(f"org.apache.storm:{name}:{VERSION}" for name in ("storm-server", "storm-kafka-client", "flux-core", "flux-wrappers")),
    "org.apache.kafka:kafka-clients:3.9.1",  # the last that has what the spout of this version calls
)
FLIGHTS = 100_000
BAD = {
    b"no event": "JSON is malformed",
    b'{"flight_id": "x"}': "missing",
    b"\xff\xfe\x00": "invalid UTF-8",
    None: "",
}  # what the reason says


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
            "PENSTOCK_MODELS": str(job.folder / "models"),
            "PENSTOCK_SCHEMAS": str(job.folder / "schemas"),
            "PENSTOCK_TOPOLOGIES": str(job.folder),
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


def wait_until(reached: int, job: Job, running: Java, seconds: float) -> None:
    def ready() -> bool:
        assert running.process.poll() is None, running.tail()
        return count(job) >= reached

    wait_for(ready, lambda: f"{reached} outputs, {count(job)} now:\n{running.tail()}", seconds, 0.2)


@pytest.mark.broker
def test_storm_answers_as_a_worker_does_and_loses_nothing_with_a_bolt(broker: Broker, tmp_path: Path) -> None:
    """A killed bolt ends the cluster's worker, as Storm has it; the next one goes on where the spout's group has committed."""
    job = make_flights(broker, tmp_path, partitions=4)
    records = [
        Record(job.source, one.value, one.id.encode(), partition=at % 4) for at, one in enumerate(itertools.islice(flights(), FLIGHTS))
    ]
    records += [Record(job.source, value, b"bad", partition=at % 4) for at, value in enumerate(BAD)]
    produce(broker, records)
    file = flux(job)

    with storm(job, file) as running:
        wait_until(FLIGHTS // 5, job, running, 120)
        first, *_ = running.children("penstock.integrations.storm")
        os.kill(first, signal.SIGKILL)
        assert running.process.wait(60) == 1, running.tail()
    held = sum(committed(broker, job.group, job.source).values())
    assert 0 < held < len(records)

    with storm(job, file) as running:
        before = count(job)
        wait_until(before + 1, job, running, 120)
        wait_for(
            lambda: committed(broker, job.group, job.source) == end_offsets(broker, job.source),
            lambda: f"every offset committed:\n{running.tail()}", 120, 0.2,
        )  # fmt: skip

    driver = TopologyDriver(job.file, models=job.folder / "models", schemas=job.folder / "schemas", partitions=4)
    driver.send_records("departures", records)
    expected = {one["flight_id"]: one for one in driver.events("predictions")}
    answers = read_all(broker, job.sink)
    found = [json.loads(one.value or b"") for one in answers]
    assert [one["flight_id"].encode() for one in found] == [one.key for one in answers]
    check_same(found, expected)
    # Twice come only those that the first cluster answered and whose offsets it had not committed.
    assert len(answers) - FLIGHTS <= before - min(held, before) + 5_000

    letters = [json.loads(one.value or b"") for one in read_all(broker, job.dead)]
    reasons = {dict(one.headers)["penstock-id"]: dict(one.headers)["__streams.errors.message"] for one in driver.dead_letters("departures")}
    assert {one["id"]: one["message"].encode() for one in letters} == reasons
    assert all(any(why in one["message"] for why in BAD.values() if why) or "value" not in one for one in letters)
    print(f"{FLIGHTS} flights, {len(answers) - FLIGHTS} answered twice, {Counter(one['failed_at'] for one in letters)}")
