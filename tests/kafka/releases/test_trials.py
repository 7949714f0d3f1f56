"""Releases on trial, on a real Kafka: who answers which unit, whatever is killed, and what becomes of the candidate."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import penstock as penstock_package
from penstock.engine.assign import numbers_of
from penstock.record import Record
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import Broker, produce, read_all, wait_for
from penstock.testing import models as onnx_models
from tests.kafka.operating import CONFIG, configure, penstock, status, wait_until_ready
from tests.kafka.running import Job, make_job
from tests.kafka.services import Service

pytestmark = pytest.mark.broker

UNITS = 60


@pytest.fixture
def job(broker: Broker, tmp_path: Path) -> Job:
    """Version 1 doubles, 2 triples, and 3 doubles what is at most 100 and fails on the rest."""
    job = make_job(broker, tmp_path)
    registry = DirectoryRegistry(job.folder / "models")
    registry.publish("double", onnx_models.linear([3.0]), version="2")
    registry.publish("double", onnx_models.up_to(100, 2.0), version="3")
    configure(job, unsigned_control=True)
    return job


class Readings:
    """Readings that flow from a thread: of UNITS units, each in one partition."""

    def __init__(self, job: Job, x: float = 1.0) -> None:
        self.job, self.x, self.sent = job, x, 0
        self._over = threading.Event()

    def send(self, count: int) -> None:
        produce(self.job.broker, [self._reading(number) for number in range(self.sent, self.sent + count)])
        self.sent += count

    def _reading(self, number: int) -> Record:
        unit = number % UNITS
        value = json.dumps({"id": str(number), "x": self.x}).encode()
        return Record(self.job.source, value, b"unit-%d" % unit, partition=unit % self.job.partitions)

    @contextmanager
    def flowing(self) -> Iterator[None]:
        def flow() -> None:
            while not self._over.wait(0.05):
                self.send(50)

        thread = threading.Thread(target=flow)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()


class Answer:
    def __init__(self, record: Record) -> None:
        self.event: dict[str, Any] = json.loads(record.value or b"")
        self.headers = {name: (text or b"").decode() for name, text in record.headers}
        self.key, self.position = record.key or b"", record.position
        self.generation = int(self.headers["penstock-generation"])
        self.variant = self.headers.get("penstock-variant", "")


def answers(job: Job) -> list[Answer]:
    return [Answer(one) for one in read_all(job.broker, job.sink)]


def tell(job: Job, *command: str) -> dict[str, Any]:
    done = penstock(job, *command, "--format", "json")
    assert done.code == 0, done.err
    found: dict[str, Any] = done.json
    return found


def wait_until_in_use(job: Job, generation: int) -> None:
    """Until each partition has been answered with the generation."""

    def there() -> bool:
        return len({one.key for one in answers(job) if one.generation >= generation}) == UNITS

    wait_for(there, f"answers of generation {generation}", 60, 0.3)


def wait_until_seen(job: Job, generation: int) -> None:
    wait_for(lambda: any(one.generation == generation for one in answers(job)), f"an answer of generation {generation}", 60, 0.3)


def test_units_are_answered_by_the_plan_of_their_share_whatever_is_killed(job: Job) -> None:
    """Two workers; one is killed while the candidate has a fifth of the units, and another takes its place."""
    readings = Readings(job)
    with (
        job.run(unsigned_control="true", status_interval="0.5") as first,
        job.run(unsigned_control="true", status_interval="0.5") as second,
    ):
        wait_until_ready(job, first, second)
        with readings.flowing():
            wait_until_in_use(job, 0)
            release = tell(job, "deploy", "doubles", "double=double@2", "--canary", "20,60")["release"]["id"]
            wait_until_in_use(job, 1)
            first.process.kill()
            with job.run(unsigned_control="true", status_interval="0.5") as third:
                wait_until_ready(job, second, third)
                tell(job, "promote", "doubles")
                wait_until_in_use(job, 2)
                tell(job, "promote", "doubles")
                wait_until_in_use(job, 3)
        job.wait_for_answers(readings.sent)
        wait_for(lambda: len({one.event["id"] for one in answers(job)}) == readings.sent, "every event answered", 60, 0.3)
    shares = {0: 0.0, 1: 0.2, 2: 0.6, 3: 1.0}
    units = [b"unit-%d" % unit for unit in range(UNITS)]
    number = dict(zip(units, numbers_of("", release, "", units).tolist(), strict=True))
    seen = Counter[tuple[int, str]]()
    for one in answers(job):
        its = number[one.key] < shares[one.generation]
        assert one.event["y"] == (3.0 if its else 2.0), one.headers
        assert one.headers["penstock-models"] == f"double=double@{2 if its else 1}"
        if one.generation in (1, 2):
            share = shares[one.generation]
            assert one.variant == ("candidate" if its else "live")
            assert one.headers["penstock-propensity"] == f"{share if its else 1 - share:.6g}"
            assert one.headers["penstock-experiment"] == release
        else:
            assert one.variant == ""
        seen[one.generation, one.variant] += 1
    assert len(seen) == 6, "both plans have answered in both steps"
    assert not read_all(job.broker, job.dead)


def test_a_trial_that_is_aborted_leaves_the_live_plan_alone_and_a_rollback_is_an_abort(job: Job) -> None:
    readings = Readings(job)
    with job.run(unsigned_control="true", status_interval="0.5") as worker:
        wait_until_ready(job, worker)
        for generation, back in ((1, "abort"), (3, "rollback")):
            tell(job, "deploy", "doubles", "double=double@2", "--split", "50")
            readings.send(200)
            wait_until_seen(job, generation)
            assert penstock(job, "deploy", "doubles", "double=double@3").code == 8
            tell(job, back, "doubles")
            told = status(job)
            assert told["generation"] == generation + 1
            readings.send(100)
            wait_until_seen(job, generation + 1)
        assert penstock(job, "promote", "doubles").code == 8
        assert penstock(job, "abort", "doubles").code == 8
        job.wait_for_answers(readings.sent)
        assert worker.stop() == 0
    for variant, version in (("live", "1"), ("candidate", "2")):
        one = next(one for one in answers(job) if one.variant == variant)
        told = tell(job, "explain", "doubles", str(one.position))
        assert (told["verdict"], told["said_by"], told["models"]["double"]["version"]) == ("equal", "control log", f"double@{version}")
    assert {one.event["y"] for one in answers(job) if not one.generation % 2} == {2.0}
    assert {one.event["y"] for one in answers(job) if one.generation == 1} == {2.0, 3.0}


def test_a_worker_that_starts_while_something_is_on_trial_answers_as_the_others(job: Job) -> None:
    readings = Readings(job)
    with job.run(unsigned_control="true", status_interval="0.5") as worker:
        wait_until_ready(job, worker)
        tell(job, "deploy", "doubles", "double=double@2", "--split", "50")
        readings.send(200)
        job.wait_for_answers(200)
        assert worker.stop() == 0
    with job.run(unsigned_control="true", status_interval="0.5") as worker:
        wait_until_ready(job, worker)
        readings.send(200)
        job.wait_for_answers(400)
        assert worker.stop() == 0
    found = {(one.key, one.event["y"]) for one in answers(job) if one.generation == 1}
    assert len(found) == UNITS, "each unit has had one plan"
    assert len({y for _, y in found}) == 2


def test_a_candidate_that_fails_is_taken_back_and_no_event_misses_its_answer(job: Job) -> None:
    job.file.write_text(job.file.read_text() + "releases: {on_invalid: rollback}\n")
    readings = Readings(job)
    with job.run(unsigned_control="true", status_interval="0.5") as worker:
        wait_until_ready(job, worker)
        readings.send(200)
        job.wait_for_answers(200)
        tell(job, "deploy", "doubles", "double=double@3", "--split", "50")
        readings.x = 1000.0  # what its proof has not seen
        readings.send(400)
        wait_for(lambda: status(job)["generation"] == 2, "the end of the trial", 60, 0.3)
        readings.send(100)
        job.wait_for_answers(readings.sent)
        assert worker.stop() == 0
    assert Counter(one.event["y"] for one in answers(job)) == {2.0: 200, 2000.0: 500}
    fell = [one for one in answers(job) if one.headers.get("penstock-fell-back") == "candidate"]
    assert {one.variant for one in fell} == {"live"}
    assert len(fell) >= 20
    assert not read_all(job.broker, job.dead)


def test_a_trial_on_what_the_file_binds_has_one_live_version_although_an_alias_has_moved(job: Job) -> None:
    """Two workers have started with two versions of it: where the trial begins, both answer with what it was begun on."""
    registry = DirectoryRegistry(job.folder / "models")
    registry.alias("double", "production", "1")
    job.file.write_text(job.file.read_text().replace("double@1", "double@production"))
    readings = Readings(job)
    with job.run(unsigned_control="true", status_interval="0.5") as first:
        wait_until_ready(job, first)
        registry.alias("double", "production", "2")
        with job.run(unsigned_control="true", status_interval="0.5") as second:
            wait_until_ready(job, first, second)
            tell(job, "deploy", "doubles", "double=double@1", "--split", "50")
            readings.send(300)
            wait_until_in_use(job, 1)
            assert second.stop() == 0
        assert first.stop() == 0
    found = {(one.variant, one.event["y"]) for one in answers(job) if one.generation == 1}
    assert found == {("live", 3.0), ("candidate", 2.0)}


def test_a_worker_whose_file_has_another_unit_does_not_start_while_something_is_on_trial(job: Job) -> None:
    """It would answer the units of the others with another plan."""
    readings = Readings(job)
    with job.run(unsigned_control="true", status_interval="0.5") as worker:
        wait_until_ready(job, worker)
        tell(job, "deploy", "doubles", "double=double@2", "--split", "50")
        assert worker.stop() == 0
    text = job.file.read_text()
    job.file.write_text(text + "releases: {unit: id}\n")
    with job.run(unsigned_control="true") as other:
        assert other.wait() == 8
        assert "is tried by the record's key, and releases.unit of this worker's topology file is the field id" in other.log
    job.file.write_text(text)
    with job.run(unsigned_control="true", status_interval="0.5") as worker:
        wait_until_ready(job, worker)
        readings.send(120)
        job.wait_for_answers(120)
        assert worker.stop() == 0
    assert {one.variant for one in answers(job)} == {"live", "candidate"}


def test_services_and_programs_answer_with_what_is_live_while_something_is_on_trial(job: Job) -> None:
    """They take part in the release, so that a promotion finds them ready."""
    followed = penstock_package.open(job.file, follow=job.broker.bootstrap, config=job.folder / CONFIG, cache=job.folder / "own")
    with job.run(unsigned_control="true", status_interval="0.5") as worker, Service(job) as service, followed as plan:
        wait_until_ready(job, worker)
        service.wait_until_ready()

        def answer(generation: int) -> float:
            def there() -> bool:
                return plan.followed is not None and plan.followed.generation == generation

            wait_for(there, f"generation {generation} in a program", 60, 0.1)
            (found,) = plan.score([{"id": "1", "x": 1.0}])
            assert isinstance(found, dict)
            return float(found["y"])

        assert answer(0) == 2.0
        begun = tell(job, "deploy", "doubles", "double=double@2", "--split", "90")
        assert [one["state"] for one in begun["workers"]] == ["candidate", "candidate"]
        assert answer(1) == 2.0
        assert tell(job, "promote", "doubles")["outcome"] == "live"
        assert answer(2) == 3.0
        assert service.told["generation"] == 2
        assert service.stop() == 0
        assert worker.stop() == 0
