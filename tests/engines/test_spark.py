"""Spark: real executors, which are processes of their own, score what `penstock batch` scores, also when one of them is killed."""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pyspark.sql import SparkSession

from penstock.integrations import spark
from penstock.integrations.pinned import pin
from penstock.record import Record
from penstock.testing import Broker, maven, read_all, wait_for
from tests.engines.flights import TOLERANCE, TOPOLOGY, Flights, release, send
from tests.kafka.flights import make_flights
from tests.kafka.running import Job

VERSION = "4.1.1"
PIECE = 1_500_000  # bytes of the file of flights that one task scores: there are some twenty tasks
FIELDS = (
    "flight_id string, year int, month int, day int, hour int, minute int, sched_dep_time int, sched_arr_time int, dep_delay float, "
    "carrier string, flight int, tailnum string, origin string, dest string, distance int, departed_at long"
)
MODELS: dict[str, Any] = {"models": TOPOLOGY.parents[1] / "models", "schemas": TOPOLOGY.parents[1] / "schemas"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the executors keep their models: nothing is there that they have not fetched."""
    return tmp_path_factory.mktemp("executors")


@pytest.fixture(scope="module")
def session(cache: Path) -> Iterator[SparkSession]:
    """A cluster of this host: two executors of one core."""
    jars = maven.jars(
        f"spark-kafka-{VERSION}",
        f"org.apache.spark:spark-sql-kafka-0-10_2.13:{VERSION}",
        f"org.apache.spark:spark-token-provider-kafka-0-10_2.13:{VERSION}",
        "org.apache.kafka:kafka-clients:3.9.1",
        "org.apache.commons:commons-pool2:2.12.1",
        alone=True,
    )
    settings = {
        "spark.ui.enabled": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.jars": ",".join(map(str, sorted(jars.glob("*.jar")))),
        "spark.pyspark.python": sys.executable,
        "spark.executorEnv.PENSTOCK_CACHE": str(cache),
        "spark.executorEnv.PYTHONPATH": ":".join(sys.path),
        "spark.sql.files.maxPartitionBytes": str(PIECE),
        "spark.executor.heartbeatInterval": "2s",
        "spark.network.timeout": "20s",  # until a lost executor is abandoned
        "spark.network.timeoutInterval": "5s",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.session.timeZone": "UTC",
    }
    builder = SparkSession.builder.master("local-cluster[2,1,1024]").appName("penstock")
    for name, value in settings.items():
        builder = builder.config(name, value)
    made = builder.getOrCreate()
    yield made
    made.stop()


def executors() -> list[psutil.Process]:
    """The executors of this process's Spark."""
    return [one for one in psutil.Process().children(recursive=True) if "CoarseGrainedExecutorBackend" in " ".join(_command(one))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline() if process.name() == "java" else []
    except psutil.NoSuchProcess:
        return []


def while_it_runs(session: SparkSession, tasks: int, act: Callable[[], Any], then: Callable[[], None]) -> Any:
    """Returns what `act` returns; `then` is called once a task has ended of a stage with so many `tasks` at least, and others run."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(act()))
    thread.start()
    tracker = session.sparkContext.statusTracker()

    def midway() -> bool:
        stages = [tracker.getStageInfo(one) for one in tracker.getActiveStageIds()]
        return any(one and one.numTasks >= tasks and one.numCompletedTasks and one.numActiveTasks for one in stages)

    wait_for(midway, "a stage that is half done", 120, 0.02)
    then()
    thread.join()
    return found[0]


def kill_one() -> None:
    executors()[0].kill()


def test_dataframe_gets_what_a_batch_gets_though_an_executor_is_killed(session: SparkSession, flights: Flights, cache: Path) -> None:
    frame = session.read.schema(FIELDS).json(str(flights.file))
    scored = spark.score(frame, TOPOLOGY, keep=["departed_at"], **MODELS)
    before = {one.pid for one in executors()}
    answers = while_it_runs(session, 10, lambda: scored.toArrow().to_pylist(), kill_one)
    assert len(before) == 2
    assert {one.pid for one in executors()} != before, "no executor was lost, so this shows less than it seems to"
    assert flights.differs(one for one in answers if one["failure"] is None) < TOLERANCE
    assert len(answers) == len(flights.values)
    assert [one["failure"] for one in answers if one["failure"]] == ["field 'distance' is null"] * len(flights.failed)
    assert all(one["departed_at"] for one in answers)
    assert [*cache.glob("models/sha256-*/model.onnx")], "the executors took their models from elsewhere"


def test_answer_has_the_types_of_its_sink(session: SparkSession) -> None:
    frame = session.createDataFrame([], FIELDS)
    types = dict(spark.score(frame, TOPOLOGY, **MODELS).dtypes)
    assert types == {
        "flight_id": "string", "score": "float", "logistic": "float", "trees": "float", "carrier": "string", "dest": "string",
        "failure": "string",
    }  # fmt: skip


def test_column_that_the_answer_has_is_not_kept_beside_it(session: SparkSession) -> None:
    with pytest.raises(ValueError, match="a column flight_id itself"):
        spark.score(session.createDataFrame([], FIELDS), TOPOLOGY, keep=["flight_id"], **MODELS)


# -- streams -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def job(broker: Broker, tmp_path: Path) -> Job:
    return make_flights(broker, tmp_path, partitions=4)


def stream(session: SparkSession, job: Job, *, most: int = 10_000_000, **further: Any) -> Any:
    return spark.stream(
        session, job.file, brokers=job.broker.bootstrap, checkpoint=job.folder / "checkpoint", models=job.folder / "models",
        schemas=job.folder / "schemas", options={"maxOffsetsPerTrigger": str(most)}, **further,
    )  # fmt: skip


def flight(record: Record) -> str:
    return str(json.loads(record.value or b"")["flight_id"])


def header(record: Record, name: str) -> str:
    return (dict(record.headers)[name] or b"").decode()


def test_stream_gets_what_a_worker_gets_though_an_executor_is_killed(session: SparkSession, job: Job, flights: Flights) -> None:
    send(job, flights.values)
    query = stream(session, job, most=30_000, trigger={"availableNow": True})
    while_it_runs(session, job.partitions, query.awaitTermination, kill_one)
    written = read_all(job.broker, job.sink)
    assert flights.differs(json.loads(one.value or b"") for one in written) < TOLERANCE
    letters = read_all(job.broker, job.dead)
    assert {flight(one): header(one, "__streams.errors.message") for one in letters} == flights.failed
    one = written[0]
    topic, partition, _ = header(one, "penstock-source").split("/")
    assert (topic, int(partition), header(one, "penstock-generation")) == (job.source, one.partition, "0")


def test_micro_batch_has_one_generation_and_the_next_one_the_newest(session: SparkSession, job: Job, flights: Flights) -> None:
    """The generations of all outputs change where a micro-batch ends, by the offsets that Spark has stored, and nowhere else."""
    (job.folder / "penstock.toml").write_text(f'application = "{job.application}"\ntrust = "{job.folder / "trust.toml"}"\n')
    send(job, flights.values[:8_000])
    query = stream(
        session, job, most=1_000, follow=job.broker.bootstrap, config=job.folder / "penstock.toml", trigger={"processingTime": "0 seconds"}
    )
    try:
        job.wait_for_answers(2_000, 120)
        release(job, 0.5)

        def newest() -> bool:
            send(job, flights.values[8_000:8_400])
            return any(header(one, "penstock-generation") == "1" for one in read_all(job.broker, job.sink))

        wait_for(newest, "outputs of generation 1", 120, 1.0)
        query.processAllAvailable()
    finally:
        query.stop()
    outputs = read_all(job.broker, job.sink)
    generations: dict[int, set[str]] = defaultdict(set)
    ends = sorted(
        (int(file.name), json.loads(file.read_text().splitlines()[-1])[job.source])
        for file in (job.folder / "checkpoint/offsets").glob("[0-9]*")
    )
    for one in outputs:
        _, partition, offset = header(one, "penstock-source").split("/")
        number = next(number for number, until in ends if int(offset) < until[partition])
        generations[number].add(header(one, "penstock-generation"))
    order = [generations[number] for number, _ in ends if generations[number]]
    assert order == sorted(order, key=max), order
    assert {*map(len, order)} == {1}, order
    assert order[0] == {"0"}
    assert order[-1] == {"1"}
    changed = {
        header(one, "penstock-generation"): abs(json.loads(one.value or b"")["trees"] - flights.scores[header(one, "penstock-id")][2])
        for one in outputs
    }
    assert changed["0"] < TOLERANCE < changed["1"]


def test_records_of_a_batch_from_kafka(session: SparkSession, job: Job, flights: Flights) -> None:
    """`answers` alone: rows of Spark's Kafka source in, rows of its sink out, for a pipeline that is put together by hand."""
    send(job, [*flights.values[:100], b"no event"])
    pinned = pin(job.file, models=job.folder / "models", schemas=job.folder / "schemas")
    source = session.read.format("kafka").option("kafka.bootstrap.servers", job.broker.bootstrap).option("subscribe", job.source).load()
    rows = spark.answers(source, pinned).collect()
    assert {job.sink: 100, job.dead: 1} == Counter(one.topic for one in rows)
    assert [one.value for one in rows if one.topic == job.dead] == [b"no event"]
