"""A worker with a schema registry: its sink is registered at start, new writers are read while it runs, and an outage loses nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.codecs.framing import frame_of
from penstock.record import Record
from penstock.testing import Broker, committed, produce, read_all, wait_for
from tests.kafka.running import Job, ask, make_job
from tests.schema_registry import Double, double

pytestmark = [pytest.mark.broker, pytest.mark.measured]

TOPOLOGY = """\
topology: doubles
sources:
  readings: {{topic: {source}, format: avro-confluent, schema: reading.avsc, dead_letter: {dead}}}
nodes:
  double: {{kind: model, model: double@1}}
sinks:
  doubled: {{topic: {sink}, format: avro-confluent, schema: doubled.avsc, fields: {{y: double}}}}
"""
X = {"name": "x", "type": "float"}
WRITER = {"type": "record", "name": "Reading", "fields": [X]}
LATER = {"type": "record", "name": "Reading", "fields": [{"name": "note", "type": "string"}, X]}
DOUBLED = {"type": "record", "name": "Doubled", "fields": [{"name": "y", "type": "float"}]}
ONE, TWO = b"\0\0\x80\x3f", b"\0\0\0\x40"


@pytest.fixture
def site() -> Iterator[Double]:
    with double() as running:
        yield running


@pytest.fixture
def job(broker: Broker, tmp_path: Path) -> Job:
    job = make_job(broker, tmp_path, partitions=1)
    job.file.write_text(TOPOLOGY.format(source=job.source, sink=job.sink, dead=job.dead))
    (tmp_path / "schemas/reading.avsc").write_text(json.dumps(WRITER))
    (tmp_path / "schemas/doubled.avsc").write_text(json.dumps(DOUBLED))
    return job


def send(job: Job, *values: bytes, headers: Any = ()) -> None:
    produce(job.broker, [Record(job.source, value, None, headers, partition=0) for value in values])


def answered(job: Job, count: int) -> None:
    wait_for(lambda: len(job.answers()) >= count, f"{count} answers", 30, 0.2)


def test_worker_follows_the_registry(job: Job, site: Double) -> None:
    old = site.add(f"{job.source}-value", WRITER)
    with job.run(schema_registry_url=site.url, http="127.0.0.1:0") as worker:
        worker.wait_until_assigned()
        assert site.subjects[f"{job.sink}-value"] == [2]
        send(job, frame_of(old) + ONE, frame_of(99) + ONE)
        answered(job, 1)
        site.status = 503
        later = site.add(f"{job.source}-value", LATER)
        send(job, frame_of(later) + b"\x02!" + TWO, ONE)
        wait_for(lambda: "waits for schema id" in worker.log, lambda: f"the wait\n{worker.log}")
        assert sum(committed(job.broker, job.group, job.source).values()) <= 2
        status, body = ask(worker, "/readyz")
        (missing,) = body["missing"]
        assert (status, missing.startswith(f"schemas: {job.source} waits for schema id")) == (503, True), body
        site.status = 0
        answered(job, 2)
        send(job, TWO, headers=[("__value_schema_id", frame_of(old))])
        answered(job, 3)
        assert ask(worker, "/readyz")[0] == 200
        assert worker.stop() == 0, worker.log
    assert [one.value for one in job.answers()] == [frame_of(2) + value for value in (TWO, b"\0\0\x80\x40", b"\0\0\x80\x40")]
    assert len(read_all(job.broker, job.dead)) == 2


def test_worker_ends_when_the_registry_stays_away_and_loses_nothing(job: Job, site: Double) -> None:
    site.add(f"{job.source}-value", WRITER)
    away = {"schema_registry_url": site.url, "broker_timeout": "2"}
    with job.run(**away) as worker:
        worker.wait_until_assigned()
        later = site.add(f"{job.source}-value", LATER)
        site.status = 503
        send(job, frame_of(later) + b"\x02!" + TWO)
        assert worker.wait() == 4, worker.log
        assert "the schema registry does not answer" in worker.errors[-1]
    with job.run(**away) as worker:
        worker.wait_until_assigned()  # by what the first one has fetched
        wait_for(lambda: "waits for schema id" in worker.log, lambda: f"the wait\n{worker.log}")
        assert worker.stop(10) == 0, worker.log
    site.status = 0
    with job.run(**away) as worker:
        answered(job, 1)
        assert worker.stop() == 0, worker.log
    assert read_all(job.broker, job.dead) == []
