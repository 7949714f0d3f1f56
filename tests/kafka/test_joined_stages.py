"""A stage that joins what other stages wrote, on a real Kafka: any of them may be slow, away or killed."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from penstock.record import Record
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import Broker, end_offsets, wait_for
from penstock.testing.models import linear
from tests.kafka.operating import configure, penstock
from tests.kafka.running import Job, make_job
from tests.kafka.test_stages import workers_of

pytestmark = pytest.mark.broker

JOINED = """\
topology: doubles
sources:
  readings: {{topic: {source}, schema: reading.avsc, id: id, dead_letter: {dead}}}
nodes:
  double: {{kind: model, model: double@1, materialize: true}}
  half: {{kind: model, model: half@1, materialize: true}}
  total: {{kind: rule, outputs: {{y: double + half}}, join: {join}}}
sinks:
  totals: {{topic: {sink}, fields: {{id: id, x: x, y: total.y, double: double, half: half}}}}
"""
ANY = "{need: 1, within: 20s, missing: {double: 0.0, half: 0.0}}"
ALL = "{within: 60s}"


def joined(broker: Broker, folder: Path, join: str) -> Job:
    made = make_job(broker, folder)
    configure(made)
    DirectoryRegistry(folder / "models").publish("half", linear([0.5]), version="1")
    made.file.write_text(JOINED.format(source=made.source, sink=made.sink, dead=made.dead, join=join))
    done = penstock(made, "topics", "create", str(made.file))
    assert done.code == 0, done.err
    return made


def said(record: Record) -> tuple[dict[str, Any], Mapping[str, bytes | None]]:
    return json.loads(record.value or b""), dict(record.headers)


def test_every_event_is_answered_once_with_all_members(broker: Broker, tmp_path: Path) -> None:
    job = joined(broker, tmp_path, ALL)
    with job.run() as parent:
        wait_for(lambda: parent.log.count("assigned ") >= 3 or parent.process.poll() is not None, lambda: parent.log, 60)
        job.send(range(500))
        wait_for(lambda: len(job.answers()) == 500 or parent.process.poll() is not None, lambda: parent.log[-6000:], 60)
        assert parent.stop(60) == 0, parent.log
    for record in job.answers():
        answer, headers = said(record)
        number = int(answer["id"])
        assert answer == {"id": str(number), "x": number / 2, "y": number * 1.25, "double": number, "half": number / 4}
        assert headers["penstock-id"] == answer["id"].encode()
        assert (headers["penstock-models"] or b"").startswith(b"double=double@1,half=half@1,total=rule:")
        assert headers["penstock-stages"] == b"double=0,half=0,totals=0"
        assert (headers["penstock-join"] or b"").startswith(b"used=double,half;missing=;deadline=")
    shown = penstock(job, "explain", str(job.file), str(job.answers()[7].position), "--format", "json")
    assert shown.code == 0, shown.err
    assert json.loads(shown.out)["verdict"] in ("identical", "equal")


def test_a_member_that_has_stopped_stops_nothing(broker: Broker, tmp_path: Path) -> None:
    """The quorum allows it: answers come without it, and say so. What it writes later is late, and answers nothing again."""
    job = joined(broker, tmp_path, ANY)
    with ExitStack() as stack:
        workers = {name: stack.enter_context(job.run("--stage", name)) for name in ("double", "totals")}
        for one in workers.values():
            one.wait_until_assigned(60)
        job.send(range(200))
        wait_for(lambda: len(job.answers()) == 200, lambda: workers["totals"].log[-6000:], 60)
        for record in job.answers():
            answer, headers = said(record)
            number = int(answer["id"])
            assert (answer["double"], answer["half"], answer["y"]) == (number, None, number)
            assert (headers["penstock-join"] or b"").startswith(b"used=double;missing=half;deadline=")
            assert (headers["penstock-models"] or b"").startswith(b"double=double@1,total=rule:")
        workers["half"] = stack.enter_context(job.run("--stage", "half"))
        workers["half"].wait_until_assigned(60)
        wait_for(lambda: sum(end_offsets(broker, f"{job.group}.half").values()) >= 200, "the late ones", 60)
        job.send(range(200, 300))
        wait_for(lambda: len(job.ids()) == 300, lambda: workers["totals"].log[-6000:], 60)
        for one in workers.values():
            assert one.stop() == 0, one.log
    shown = penstock(job, "explain", str(job.file), str(job.answers()[0].position), "--format", "json")
    assert shown.code == 0, shown.err
    assert json.loads(shown.out)["verdict"] in ("identical", "equal")
    assert max(Counter(said(one)[0]["id"] for one in job.answers()).values()) == 1


def test_a_kill_at_any_stage_loses_no_answer(broker: Broker, tmp_path: Path) -> None:
    job = joined(broker, tmp_path, ALL)
    with job.run() as parent:
        wait_for(lambda: parent.log.count("assigned ") >= 3 or parent.process.poll() is not None, lambda: parent.log, 60)
        for at, stage in enumerate(("double", "totals", "half", "totals")):
            job.send(range(at * 1000, at * 1000 + 1000))
            job.wait_for_answers(at * 1000 + 300)
            wait_for(lambda: len(workers_of(parent)) == 3, "the one that was killed before", 30)
            os.kill(workers_of(parent)[stage].pid, signal.SIGKILL)
        wait_for(lambda: len(job.ids()) == 4000, lambda: f"{len(job.ids())} answers\n{parent.log[-4000:]}", 90, 0.5)
        assert parent.stop(60) == 0, parent.log
    for record in job.answers():
        answer, _ = said(record)
        assert answer["y"] == int(answer["id"]) * 1.25


def test_what_no_quorum_comes_for_is_a_dead_letter(broker: Broker, tmp_path: Path) -> None:
    """When its time has passed and the topic of the one that is missing is read to its end; what is in time is answered."""
    job = joined(broker, tmp_path, "{within: 2s}")
    with ExitStack() as stack:
        workers = {name: stack.enter_context(job.run("--stage", name)) for name in ("double", "totals")}
        for one in workers.values():
            one.wait_until_assigned(60)
        job.send(range(50))
        letters = f"{job.group}.double.dead-letter"
        wait_for(lambda: sum(end_offsets(broker, letters).values()) == 50, lambda: workers["totals"].log[-6000:], 60)
        workers["half"] = stack.enter_context(job.run("--stage", "half"))
        workers["half"].wait_until_assigned(60)
        wait_for(lambda: sum(end_offsets(broker, f"{job.group}.half").values()) == 50, "the late ones", 60)
        job.send(range(50, 100))
        wait_for(lambda: len(job.ids()) == 50, lambda: workers["totals"].log[-6000:], 60)
        for one in workers.values():
            assert one.stop() == 0, one.log
    assert job.ids().keys() == {str(number) for number in range(50, 100)}
