"""The commands that ask a broker, over names and texts on its topics that somebody made to steer a terminal."""

from __future__ import annotations

import json
import re

import pytest

from penstock.control.messages import timestamp
from penstock.record import Record
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models, produce, read_all, wait_for
from tests.hostile import EVIL, harmless
from tests.kafka.operating import announced, in_force, penstock, push, status, wait_until_ready
from tests.kafka.running import Job

pytestmark = pytest.mark.broker


def evil_reports() -> list[tuple[str, dict[str, object]]]:
    times = {"time": timestamp(), "started": timestamp()}
    usual = {"kind": "worker", "topology": EVIL, "host": EVIL, "pid": 1, "generation": 0, "wanted": 0, "ready": True, **times}
    texts = {
        "models": {EVIL: EVIL}, "partitions": {EVIL: {"position": 1, "lag": 1}}, "problems": [EVIL], "refused": {EVIL: 1},
        "releases": [{"id": EVIL, "state": EVIL, "detail": EVIL, "since": EVIL}],
        "refusals": [{"offset": 0, "code": EVIL, "why": EVIL}],
    }  # fmt: skip
    boundary = {"kind": "boundary", "topic": EVIL, "partition": 0, "offset": 1, "generation": 0, "worker": EVIL, "time": EVIL}
    blank = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", " ", EVIL)
    return [
        ("worker/ghost", {**usual, **texts, "worker": "ghost", "started": EVIL}),
        (f"worker/{blank}", {**usual, **texts, "worker": EVIL}),
        (f"worker/{EVIL}", {**usual, **texts, "worker": EVIL}),
        (f"boundary/{blank}/0/1", boundary),
        (EVIL, {EVIL: EVIL}),
    ]


def test_no_control_character_comes_out(job: Job) -> None:
    DirectoryRegistry(job.folder / "models").publish("double", models.linear([3.0]), description=EVIL, provenance={"author": EVIL})
    with job.run() as worker:
        wait_until_ready(job, worker)
        in_force(job, push(job, 4.0), "--reason", EVIL.replace("\x00", ""))
        pending = announced(job, "double@2", "--reason", "[/]" + EVIL.replace("\x00", ""))
        reports = [Record(job.releases.status, json.dumps(value).encode(), key.encode()) for key, value in evil_reports()]
        said = [
            Record(job.releases.control, json.dumps({"kind": EVIL, "version": 2, EVIL: EVIL}).encode(), EVIL.encode()),
            Record(job.releases.control, EVIL.encode(), b"k"),
        ]
        event = Record(job.source, json.dumps({"id": EVIL, "x": EVIL}).encode(), EVIL.encode(), [(EVIL.replace("\x00", ""), EVIL.encode())])
        odd = Record(job.source, json.dumps({"id": EVIL, "x": 1.0}).encode(), EVIL.encode())
        produce(job.broker, [*reports, *said, event, odd])
        wait_for(lambda: len(read_all(job.broker, job.dead)) >= 1, "the dead letter", 30.0, 0.2)
        job.wait_for_answers(1)
        places = [
            f"{topic}:{one.partition}:{one.offset}" for topic in (job.source, job.sink, job.dead) for one in read_all(job.broker, topic)
        ]
        assert "ghost" in {one["worker"] for one in status(job)["workers"]}
        for line in (
            ["status", "doubles"],
            ["history", "doubles", "--all", "--boundaries"],
            ["releases", "ls", "doubles"],
            ["releases", "show", "doubles", pending],
            ["releases", "show", "doubles", EVIL],
            ["deploy", "doubles", "double=double@2", "--dry-run"],
            ["deploy", "doubles", f"double={EVIL}@{EVIL}"],
            ["rollback", "doubles", "--dry-run"],
            ["rollback", "doubles", "--to", EVIL],
            ["abort", "doubles", EVIL],
            ["topics", "ls", str(job.file)],
            *(["explain", place] for place in places),
            ["explain", f"{EVIL}:0:1"],
        ):
            for form in ("text", "json"):
                done = penstock(job, *line, "--format", form)
                assert harmless(done.out), (line, repr(done.out))
                assert harmless(done.err), (line, repr(done.err))
                assert "This is a bug" not in done.err, (line, done.err)
        assert harmless(worker.log), repr(worker.log)
        assert not re.search(r"^12:30:01", worker.log, re.MULTILINE)
