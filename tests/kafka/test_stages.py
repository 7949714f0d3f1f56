"""A topology that is cut into stages, on a real Kafka: each runs in processes of its own, and any of them may die."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from penstock.record import Record
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import Broker, create_topics, end_offsets, wait_for
from penstock.testing.models import linear
from tests.kafka.operating import must_be_signed, penstock
from tests.kafka.running import Job, Running, make_job

pytestmark = pytest.mark.broker

EVENTS = 4_000
STAGED = """\
topology: doubles
sources:
  readings: {{topic: {source}, schema: reading.avsc, id: id, dead_letter: {dead}}}
nodes:
  double: {{kind: model, model: double@1, materialize: true}}
  half: {{kind: model, model: half@1, inputs: {{x: double}}, materialize: {{retention: 1h, compression: zstd}}}}
  again: {{kind: model, model: double@1, inputs: {{x: half}}}}
sinks:
  doubled: {{topic: {sink}, fields: {{id: id, y: again, x: x}}}}
"""
STAGES = ("double", "half", "doubled")


@pytest.fixture
def staged(broker: Broker, tmp_path: Path) -> Job:
    """Three stages; the topics between them are made by `penstock topics create`."""
    made = make_job(broker, tmp_path)
    must_be_signed(made)
    DirectoryRegistry(tmp_path / "models").publish("half", linear([0.5]), version="1")
    made.file.write_text(STAGED.format(source=made.source, sink=made.sink, dead=made.dead))
    done = penstock(made, "topics", "create", str(made.file))
    assert done.code == 0, done.err
    assert done.out.count("between stages") == 2
    return made


def workers_of(parent: Running) -> dict[str, psutil.Process]:
    """The processes of the stages, by stage."""
    words = {one: one.as_dict(["cmdline"])["cmdline"] or [] for one in psutil.Process(parent.process.pid).children()}
    return {said[said.index("--process") + 1]: one for one, said in words.items() if "--process" in said}


def test_every_stage_has_a_process_and_may_die(staged: Job) -> None:
    """Each is killed while events flow: all are answered, with what every stage has made of them, under the ids that they came with."""
    with staged.run() as parent:
        wait_for(lambda: parent.log.count("assigned ") >= 3 or parent.process.poll() is not None, lambda: parent.log, 60)
        assert workers_of(parent).keys() == set(STAGES)
        for at, stage in enumerate(STAGES):
            staged.send(range(at * 1000, at * 1000 + 1000))
            staged.wait_for_answers(at * 1000 + 300)
            wait_for(lambda: len(workers_of(parent)) == len(STAGES), "the one that was killed before", 30)
            os.kill(workers_of(parent)[stage].pid, signal.SIGKILL)
        staged.send(range(3000, EVENTS))
        wait_for(lambda: len(staged.ids()) == EVENTS, lambda: f"{EVENTS} answers\n{parent.log[-4000:]}", 90, 0.5)
        assert parent.stop(60) == 0, parent.log
    for record in staged.answers():
        answer, headers = json.loads(record.value or b""), dict(record.headers)
        number = int(answer["id"])
        assert (answer["x"], answer["y"]) == (number / 2, number), "doubled, halved and doubled"
        assert headers["penstock-id"] == answer["id"].encode()
        assert record.key == answer["id"].encode()
        assert headers["penstock-stages"] == b"double=0,half=0,doubled=0"
        assert headers["penstock-models"] == b"double=double@1,half=half@1,again=double@1"


def test_a_release_waits_for_every_stage(staged: Job) -> None:
    """Each prepares and reports its own nodes. While a stage has no worker, a release is refused; an output lists what each has run."""
    DirectoryRegistry(staged.folder / "models").publish("half", linear([0.25]), version="2")
    deploy = ("deploy", str(staged.file), "half=half@2", "--reason", "a quarter", "--yes")
    with ExitStack() as stack:
        workers = {name: stack.enter_context(staged.run("--stage", name)) for name in STAGES[:2]}
        for one in workers.values():
            one.wait_until_assigned(60)
        refused = penstock(staged, *deploy)
        assert refused.code != 0
        assert "no live worker runs the stage doubled of doubles" in refused.err
        assert "--stage doubled" in refused.err
        looked = penstock(staged, "status", str(staged.file), "--format", "json")
        assert looked.code == 1
        assert "no live worker runs the stage doubled: penstock run doubles --stage doubled" in json.loads(looked.out)["wrong"]
        workers["doubled"] = stack.enter_context(staged.run("--stage", "doubled"))
        workers["doubled"].wait_until_assigned(60)
        staged.send(range(100))
        staged.wait_for_answers(100)
        done = penstock(staged, *deploy)
        assert done.code == 0, done.err
        staged.send(range(100, 200))
        staged.wait_for_answers(200)
        shown = json.loads(penstock(staged, "status", str(staged.file), "--format", "json").out)
        assert workers["doubled"].stop() == 0
        staged.send([200])
        wait_for(lambda: sum(end_offsets(staged.broker, f"{staged.group}.half").values()) == 201, "the second stage", 30)
        back = penstock(staged, "rollback", str(staged.file), "--reason", "back", "--min-ready", "0")
        assert back.code == 0, back.err
        workers["doubled"] = stack.enter_context(staged.run("--stage", "doubled"))
        staged.wait_for_answers(201)
        for one in workers.values():
            assert one.stop() == 0, one.log
    assert {one["stage"]: sorted(one["models"]) for one in shown["workers"]} == {
        "double": ["double"], "half": ["half"], "doubled": ["again"],
    }  # fmt: skip
    found = {int(json.loads(one.value or b"")["id"]): one for one in staged.answers()}
    _explained(staged, found)
    mixed = dict(found.pop(200).headers)
    assert mixed["penstock-stages"] == b"double=1,half=1,doubled=2", "a release became active between two stages"
    for number, record in found.items():
        headers, late = dict(record.headers), number >= 100
        assert json.loads(record.value or b"")["y"] == number * (0.5 if late else 1)
        assert headers["penstock-stages"] == (b"double=1,half=1,doubled=1" if late else b"double=0,half=0,doubled=0")
        assert headers["penstock-models"] == f"double=double@1,half=half@{2 if late else 1},again=double@1".encode()


def _explained(job: Job, found: Mapping[int, Record]) -> None:
    """Each is computed again as it was, by what each of its stages has run."""
    for number in (0, 150, 200):
        shown = penstock(job, "explain", str(job.file), str(found[number].position), "--format", "json")
        assert shown.code == 0, shown.err
        explained = json.loads(shown.out)
        assert explained["verdict"] in ("identical", "equal")
        assert explained["input"]["position"].startswith(f"{job.source}:")
        assert explained["models"]["half"]["version"] == f"half@{2 if number >= 100 else 1}"


def test_topics_between_stages_have_the_partitions_of_their_source(broker: Broker, tmp_path: Path) -> None:
    """Else no worker starts, and the error has the command that mends it."""
    job = make_job(broker, tmp_path, partitions=3)
    DirectoryRegistry(tmp_path / "models").publish("half", linear([0.5]), version="1")
    job.file.write_text(STAGED.format(source=job.source, sink=job.sink, dead=job.dead))
    between = [f"{job.group}.double", f"{job.group}.half"]
    create_topics(broker, {between[0]: 2, between[1]: 3} | {f"{one}.dead-letter": 3 for one in between})
    with job.run("--stage", "double") as worker:
        assert worker.wait() == 2
    assert f"topic {between[0]} between two stages has 2 partitions, but {job.source} 3" in worker.log
    assert f"kafka-topics --alter --topic {between[0]} --partitions 3" in worker.log


def test_a_stage_that_is_not_there_is_named(staged: Job) -> None:
    with staged.run("--stage", "dubled") as worker:
        assert worker.wait() == 2
    assert "doubles has no stage 'dubled'; did you mean 'doubled'" in worker.log


def test_a_stage_that_comes_after_retention_says_so(staged: Job) -> None:
    """Records keep the timestamp of their event, by which Kafka deletes them: a stage that begins too late says it."""
    with staged.run("--stage", "double") as first:
        staged.send(range(20))
        wait_for(lambda: sum(end_offsets(staged.broker, f"{staged.group}.double").values()) == 20, lambda: first.log, 60)
        assert first.stop() == 0, first.log
    topic = f"{staged.group}.double"
    admin = AdminClient({"bootstrap.servers": staged.broker.bootstrap})
    ends = end_offsets(staged.broker, topic)
    for deleted in admin.delete_records([TopicPartition(topic, number, end) for number, end in ends.items() if end]).values():
        deleted.result()
    with staged.run("--stage", "half") as second:
        second.wait_until_assigned(60)
        assert second.stop() == 0, second.log
    assert "records that this group has not read are deleted (retention)" in second.log
    assert all(f"{topic}/{number} begins at {end}" in second.log for number, end in ends.items() if end)
