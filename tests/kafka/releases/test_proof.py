"""A model is judged by what it does on real rows: before it is ready, after it is live, and again and again while it scores."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.testing import Broker, produce, read_all, wait_for
from penstock.testing import models as onnx_models
from tests.kafka.operating import (
    announced,
    configure,
    factor_of,
    generation_of,
    in_force,
    penstock,
    push,
    status,
    trusted,
    wait_until,
    wait_until_ready,
    wait_until_stands,
)
from tests.kafka.running import Job, Running, make_job

pytestmark = [pytest.mark.broker, pytest.mark.measured]


@pytest.fixture
def job(broker: Broker, tmp_path: Path) -> Job:
    made = make_job(broker, tmp_path)
    configure(made, unsigned_control=True)
    return made


@pytest.fixture
def worker(job: Job) -> Iterator[Running]:
    with job.run() as running:
        wait_until_ready(job, running)
        yield running


def dead(job: Job) -> list[str]:
    """The ids of the readings that are dead letters."""
    return [json.loads(one.value or b"")["id"] for one in read_all(job.broker, job.dead)]


def test_model_that_is_nan_on_every_real_row_is_refused_before_it_is_ready(job: Job, worker: Running) -> None:
    """It passes its golden records. Nothing of the stream changes. An operator who means it says so."""
    job.send(range(200, 300))  # x is 100 and more
    job.wait_for_answers(100)
    version = push(job, onnx_models.up_to(100.0, 3.0))
    done = penstock(job, "deploy", "doubles", f"double={version}", "--format", "json")
    assert (done.code, done.json["released"], done.json["code"]) == (8, False, "not-ready")
    why = wait_until_stands(job, worker, done.json["release"]["id"], "failed")
    assert f"proving: nodes.double: {version}: 100 of 100 real rows fail in it and not in generation 0 (100.00%" in why
    assert f"the first: {job.source}:" in why
    assert "double: field 'y' is not a finite number" in why
    assert "deploy this one with --min-ready 0" in why
    job.send(range(300, 400))
    job.wait_for_answers(200)
    assert {(generation_of(one), factor_of(one)) for one in job.answers()} == {(0, 2.0)}
    assert dead(job) == []

    assert penstock(job, "deploy", "doubles", f"double={version}", "--min-ready", "0").code in (0, 1)
    wait_until(job, worker, "the generation that was insisted on", lambda told: told["generation"] == 1)
    job.send(range(400, 410))
    wait_for(lambda: len(dead(job)) == 10, "ten dead letters", 30.0, 0.2)


def test_flood_of_bad_records_does_not_disarm_the_proof(job: Job, worker: Running) -> None:
    """Twice as many as a worker keeps rows."""
    job.send(range(200, 300))
    job.wait_for_answers(100)
    produce(job.broker, [job.reading(number)._replace(value=b"{") for number in range(2000)])
    wait_for(lambda: len(read_all(job.broker, job.dead)) == 2000, "the dead letters", 60.0, 0.5)
    version = push(job, onnx_models.up_to(100.0, 3.0))
    done = penstock(job, "deploy", "doubles", f"double={version}", "--format", "json")
    assert (done.code, done.json["code"]) == (8, "not-ready")
    assert "100 of 100 real rows fail in it" in wait_until_stands(job, worker, done.json["release"]["id"], "failed")


def test_ready_release_says_on_what_it_was_proven(job: Job, worker: Running) -> None:
    first = announced(job, push(job, 3.0))
    assert "proven on its golden records only" in wait_until_stands(job, worker, first, "ready")
    job.send(range(1, 101))
    job.wait_for_answers(100)
    second = announced(job, push(job, 2.5))
    said = wait_until_stands(job, worker, second, "ready")
    assert "proven on 100 real rows: 0 of 100 fail only in it (0.00%); y differs by 12.6 on average (mean 50.5 → 63.12); " in said
    assert "times the live latency" in said


@pytest.mark.parametrize("workers", [1, 2])
def test_model_that_is_bad_on_rows_of_a_later_kind_is_taken_back_once(job: Job, workers: int) -> None:
    job.file.write_text(job.file.read_text() + "releases: {on_invalid: rollback}\n")
    configure(job, trust=str(job.folder / "trust.toml"))
    operator, own = trusted(job, "operator"), trusted(job, "worker")
    running = [job.run("--signing-key", own, guard_rows="100") for _ in range(workers)]
    try:
        wait_until_ready(job, *running)
        job.send(range(1, 101))
        job.wait_for_answers(100)
        in_force(job, push(job, onnx_models.up_to(1000.0, 3.0)), "--signing-key", operator)
        job.send(range(101, 201))
        job.wait_for_answers(200)
        job.send(range(2000, 2100))
        for one in running:
            wait_until(job, one, "the rollback", lambda told: told["generation"] == 2)
        release = status(job)["release"]
        assert (release["author"], release["restores"]) == ("worker", 0)
        assert "generation 1 is bad" in release["reason"]
        assert "fail in it and not in generation 0" in release["reason"]
        wait_for(lambda: len(dead(job)) + len(job.answers()) >= 300, "everything, answered or a dead letter", 30.0, 0.2)
        job.send(range(2100, 2200))
        wait_for(lambda: len(job.answers()) + len(dead(job)) >= 400, "what is sent afterwards", 30.0, 0.2)
        assert status(job)["generation"] == 2
    finally:
        codes = [one.stop() for one in running]
    assert codes == [0] * workers, [one.log for one in running]
    answers, buried = job.answers(), dead(job)
    assert sorted([int(one.key or b"") for one in answers] + [int(id) for id in buried]) == [*range(1, 201), *range(2000, 2200)]
    assert set(buried) <= {str(number) for number in range(2000, 2100)}
    assert {(generation_of(one), factor_of(one)) for one in answers if int(one.key or b"") >= 2100} == {(2, 2.0)}


def test_bad_model_is_only_reported_unless_the_topology_says_more(job: Job) -> None:
    with job.run(guard_rows="100") as worker:
        wait_until_ready(job, worker)
        job.send(range(1, 101))
        job.wait_for_answers(100)
        in_force(job, push(job, onnx_models.up_to(1000.0, 3.0)))
        job.send(range(2000, 2100))
        told = wait_until(job, worker, "its problem", lambda told: bool(told.get("problems")))
        assert "generation 1 is bad: " in told["problems"][0]
        assert "`penstock rollback doubles` takes it back" in told["problems"][0]
        wait_for(lambda: len(dead(job)) == 100, "the dead letters", 30.0, 0.2)
        assert status(job)["generation"] == 1
        assert penstock(job, "rollback", "doubles").code == 0
        assert "problems" not in wait_until(job, worker, "the rollback", lambda told: told["generation"] == 2)


def test_records_that_no_model_scores_do_not_count_against_a_new_one(job: Job) -> None:
    with job.run(guard_rows="20", guard_seconds="1") as worker:
        wait_until_ready(job, worker)
        in_force(job, push(job, 3.0))
        job.send(range(1, 11))
        job.wait_for_answers(10)
        broken = [job.reading(number)._replace(value=b"{") for number in range(200)]
        produce(job.broker, broken)
        wait_for(lambda: len(read_all(job.broker, job.dead)) == 200, "the dead letters", 30.0, 0.2)
        job.send(range(11, 31))
        wait_for(lambda: "generation 1 has passed its guard: 0 of 30 rows fail in it" in worker.log, "the end of the guard", 30.0)
        assert "problems" not in status(job)["workers"][0]
