"""Flink: a job of real task slots and Python processes scores what `penstock batch` scores, also when one of them is killed."""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import psutil
import pytest
from pyflink.common import Configuration
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.java_gateway import get_gateway
from pyflink.table import StreamTableEnvironment

from penstock.integrations import flink
from penstock.record import Record
from penstock.testing import Broker, maven, read_all, wait_for
from tests.engines.flights import TOLERANCE, TOPOLOGY, Flights, release, send
from tests.kafka.flights import make_flights
from tests.kafka.running import Job

MODELS: dict[str, Any] = {"models": TOPOLOGY.parents[1] / "models", "schemas": TOPOLOGY.parents[1] / "schemas"}
FIELDS = (
    "flight_id STRING, `year` INT, `month` INT, `day` INT, `hour` INT, `minute` INT, sched_dep_time INT, sched_arr_time INT, "
    "dep_delay FLOAT, carrier STRING, flight INT, tailnum STRING, origin STRING, dest STRING, distance INT, departed_at BIGINT"
)
ANSWERS = "departed_at BIGINT, flight_id STRING, score FLOAT, logistic FLOAT, trees FLOAT, carrier STRING, dest STRING, failure STRING"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the processes of Flink keep their models: nothing is there that they have not fetched."""
    return tmp_path_factory.mktemp("processes")


@pytest.fixture
def tables(cache: Path, monkeypatch: pytest.MonkeyPatch) -> StreamTableEnvironment:
    """An environment with a cluster of its own in a JVM of this test run, whose Python processes are children of that JVM."""
    monkeypatch.setenv("_python_worker_execution_mode", "process")  # else a local cluster calls functions in the process of the test
    os.environ["PENSTOCK_CACHE"] = str(cache)  # of the JVM, which is started once, and its children
    try:
        get_gateway()
    finally:
        del os.environ["PENSTOCK_CACHE"]
    (jar,) = maven.jars("flink-kafka-5.0.0-2.2", "org.apache.flink:flink-sql-connector-kafka:5.0.0-2.2", alone=True).glob("*.jar")
    settings = {
        "python.executable": sys.executable,
        "python.client.executable": sys.executable,
        "pipeline.jars": jar.as_uri(),
        "parallelism.default": "2",
        "execution.checkpointing.interval": "1 s",
        "restart-strategy.type": "fixed-delay",
        "restart-strategy.fixed-delay.attempts": "3",
        "restart-strategy.fixed-delay.delay": "1 s",
    }
    configuration = Configuration()
    for name, value in settings.items():
        configuration.set_string(name, value)
    return StreamTableEnvironment.create(StreamExecutionEnvironment.get_execution_environment(configuration))


def test_table_gets_what_a_batch_gets(tables: StreamTableEnvironment, flights: Flights, tmp_path: Path, cache: Path) -> None:
    file = "'connector' = 'filesystem', 'format' = 'json', 'path' = '%s'"
    tables.execute_sql(f"CREATE TEMPORARY TABLE flights ({FIELDS}) WITH ({file % flights.file.as_uri()})")
    tables.execute_sql(f"CREATE TEMPORARY TABLE scores ({ANSWERS}) WITH ({file % (tmp_path / 'out').as_uri()})")
    scored = flink.score(tables.from_path("flights"), TOPOLOGY, keep=["departed_at"], **MODELS)
    scored.execute_insert("scores").wait()
    answers = [json.loads(line) for part in (tmp_path / "out").rglob("part-*") for line in part.read_bytes().splitlines()]
    assert flights.differs(one for one in answers if one["failure"] is None) < TOLERANCE
    assert len(answers) == len(flights.values)
    assert [one["failure"] for one in answers if one["failure"]] == ["field 'distance' is null"] * len(flights.failed)
    assert all(one["departed_at"] for one in answers)
    assert [*cache.glob("models/sha256-*/model.onnx")], "the processes took their models from elsewhere"


# -- streams -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def job(broker: Broker, tmp_path: Path) -> Job:
    return make_flights(broker, tmp_path, partitions=4)


def stream(tables: StreamTableEnvironment, job: Job, **further: Any) -> Any:
    where: dict[str, Any] = {"models": job.folder / "models", "schemas": job.folder / "schemas"}
    return flink.stream(tables, job.file, brokers=job.broker.bootstrap, group=job.application, **where, **further)


def flight(record: Record) -> str:
    return str(json.loads(record.value or b"")["flight_id"])


def header(record: Record, name: str) -> str:
    return (dict(record.headers)[name] or b"").decode()


def workers() -> list[psutil.Process]:
    """The Python processes of this run's cluster."""
    found = []
    for one in psutil.Process().children(recursive=True):
        try:
            if any("beam_boot" in part for part in one.cmdline()):
                found.append(one)
        except psutil.NoSuchProcess:
            continue
    return found


def test_stream_gets_what_a_worker_gets_though_a_process_is_killed(tables: StreamTableEnvironment, job: Job, flights: Flights) -> None:
    flights = flights.first(20_000)
    send(job, flights.values)
    result = stream(tables, job)

    def answered() -> bool:
        return len({flight(one) for topic in (job.sink, job.dead) for one in read_all(job.broker, topic)}) == len(flights.values)

    try:
        job.wait_for_answers(1_000, 120)
        workers()[0].kill()
        wait_for(answered, "an answer or a dead letter of every flight", 240, 5.0)
    finally:
        result.get_job_client().cancel().result()
    written = read_all(job.broker, job.sink)
    assert flights.differs(json.loads(one.value or b"") for one in written) < TOLERANCE
    letters = read_all(job.broker, job.dead)
    assert {flight(one): header(one, "__streams.errors.message") for one in letters} == flights.failed
    by_offset = {(header(one, "penstock-source")): one for one in written}
    one = by_offset[f"{job.source}/0/0"]
    assert (one.key, header(one, "penstock-generation")) == (b"0", "0")
    assert one.timestamp == next(record.timestamp for record in read_all(job.broker, job.source) if record.position[1:] == (0, 0))


def test_release_is_picked_up_between_two_batches(tables: StreamTableEnvironment, job: Job, flights: Flights) -> None:
    (job.folder / "penstock.toml").write_text(f'application = "{job.application}"\ntrust = "{job.folder / "trust.toml"}"\n')
    send(job, flights.values[:1_000])
    result = stream(tables, job, follow=job.broker.bootstrap, config=job.folder / "penstock.toml")
    try:
        job.wait_for_answers(999, 120)
        release(job, 0.5)

        def newest() -> bool:
            send(job, flights.values[1_000:1_100])
            return any(header(one, "penstock-generation") == "1" for one in read_all(job.broker, job.sink))

        wait_for(newest, "outputs of generation 1", 120, 1.0)
    finally:
        result.get_job_client().cancel().result()
    order: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for one in read_all(job.broker, job.sink):
        _, partition, offset = header(one, "penstock-source").split("/")
        order[partition].append((int(offset), header(one, "penstock-generation")))
        expected = flights.scores[header(one, "penstock-id")][2]
        changed = abs(json.loads(one.value or b"")["trees"] - expected)
        assert changed < TOLERANCE if header(one, "penstock-generation") == "0" else changed > TOLERANCE
    for numbers in order.values():
        generations = [generation for _, generation in sorted(numbers)]
        assert generations == sorted(generations)
