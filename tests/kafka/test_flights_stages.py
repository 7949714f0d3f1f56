"""The flights in stages, on a real Kafka: every stage is killed, no flight is lost, and windows and joins answer as without that."""

from __future__ import annotations

import gzip
import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from penstock.record import Record
from penstock.testing import Broker, TopologyDriver, create_release_topics, create_topics, produce, read_all, unique, wait_for
from tests.kafka.operating import must_be_signed, penstock
from tests.kafka.running import Job
from tests.kafka.test_stages import workers_of

pytestmark = pytest.mark.broker

ROOT = Path(__file__).parents[2]
FILE = ROOT / "topologies/flights-stages.yaml"
STAGES = ("features", "logistic", "trees", "predictions")
EVENTS = 4000


@pytest.fixture
def job(broker: Broker, tmp_path: Path) -> Job:
    name = unique("departures")
    made = Job(broker, tmp_path, name, f"{name}.predictions", f"{name}.dead-letter", unique("app"), 1, "flights-stages")
    text = FILE.read_text().replace("flights.departures", made.source).replace("flights.predictions", made.sink)
    # A stage that is killed may be away for longer than two seconds; the live plan is checked every second on rows that were joined.
    made.file.write_text(text.replace("within: 2s", "within: 60s") + "\nreleases: {check_every: 1}\n")
    create_topics(broker, {made.source: 1, made.sink: 1, made.dead: 1})
    create_release_topics(broker, made.application, made.topology)
    must_be_signed(made)
    done = penstock(made, "topics", "create", str(made.file))
    assert done.code == 0, done.err
    assert done.out.count("remembers") == 4
    return made


def flights() -> list[dict[str, Any]]:
    with gzip.open(ROOT / "examples/flights/sample/departures.ndjson.gz") as lines:
        return [json.loads(line) for _, line in zip(range(EVENTS), lines, strict=False)]


def test_every_stage_is_killed_and_every_flight_has_its_answer(job: Job) -> None:
    events = flights()
    settings = {"models": str(ROOT / "models"), "schemas": str(ROOT / "schemas"), "max_batch_rows": "128", "chunk_rows": "64"}
    with job.run(**settings) as parent:
        for at, stage in enumerate(STAGES):
            wait_for(lambda: len(workers_of(parent)) == len(STAGES) or parent.process.poll() is not None, lambda: parent.log, 60)
            produce(job.broker, [Record(job.source, json.dumps(one).encode()) for one in events[at * 1000 : (at + 1) * 1000]])
            wait_for(partial(has_answers, job, at * 1000 + 200), lambda: parent.log[-3000:], 90, 0.1)
            os.kill(workers_of(parent)[stage].pid, signal.SIGKILL)
        wait_for(lambda: len(answers(job)) == EVENTS, lambda: f"{len(answers(job))} answers\n{parent.log[-4000:]}", 120, 0.5)
        assert parent.stop(60) == 0, parent.log
    driver = TopologyDriver(FILE, models=ROOT / "models", schemas=ROOT / "schemas")
    driver.send("departures", *events)
    expected = {one["flight_id"]: one for one in driver.events("predictions")}
    assert not read_all(job.broker, job.dead)
    for id, (answer, decided) in answers(job).items():
        used = decided["used"].split(",")
        assert "trees" in used, "it is required"
        assert (answer["logistic"] is None) == ("logistic" not in used) == (decided["missing"] == "logistic")
        assert answer["trees"] == pytest.approx(expected[id]["trees"], abs=1e-6)
        if "logistic" in used:
            assert answer == pytest.approx(expected[id], abs=1e-6)


def has_answers(job: Job, count: int) -> bool:
    return len(answers(job)) >= count


def answers(job: Job) -> dict[str, tuple[dict[str, Any], dict[str, str]]]:
    """The first answer to each flight, and what its join has decided."""
    found: dict[str, tuple[dict[str, Any], dict[str, str]]] = {}
    for record in read_all(job.broker, job.sink):
        answer = json.loads(record.value or b"")
        text = (dict(record.headers)["penstock-join"] or b"").decode()
        found.setdefault(answer["flight_id"], (answer, dict(part.partition("=")[::2] for part in text.split(";"))))
    return found
