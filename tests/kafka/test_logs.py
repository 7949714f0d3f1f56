"""What a worker writes to its log while it starts, scores, meets a bad record and stops."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from penstock.record import Record
from penstock.testing import Broker, produce, read_all, wait_for
from tests.kafka.running import Job, make_job

pytestmark = [pytest.mark.broker, pytest.mark.measured]


def log_of(job: Job, form: str) -> list[str]:
    """The lines of a worker that scores ten records and refuses one."""
    with job.run(log_format=form) as worker:
        produce(job.broker, [Record(job.source, b"{not json", b"bad")])
        job.send(range(10))
        job.wait_for_answers(10)
        wait_for(lambda: len(read_all(job.broker, job.dead)) == 1, "the dead letter")
        assert worker.stop() == 0, worker.log
        return worker.log.splitlines()


def test_every_line_of_a_json_log_is_an_object_whoever_wrote_it(broker: Broker, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in log_of(make_job(broker, tmp_path), "json")]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    (last,) = [line for line in lines if line["message"] == "stopped"]
    assert (last["records_in"], last["records_out"], last["dead_letters"]) == (11, 10, 1)


def test_text_log_tells_what_the_worker_does_and_not_what_faust_does(broker: Broker, tmp_path: Path) -> None:
    """Faust and its services announce every step of theirs, "[^App]: Starting..." among them."""
    lines = log_of(make_job(broker, tmp_path), "text")
    assert [line for line in lines if "[^" in line or " penstock." not in line] == []
