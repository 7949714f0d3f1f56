"""Reports on the status topic by somebody who may write to it and is no worker: they neither block nor steer an operator."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.cli.main import main
from penstock.control.messages import timestamp
from penstock.control.trust.member import Identity
from penstock.errors import TransportUnavailable
from penstock.operate.operator import Operator, operate
from penstock.record import Record
from penstock.settings import load
from penstock.testing import end_offsets, produce
from penstock.testing.broker import ExternalBroker
from penstock.testing.jvm_kafka import JvmKafka, JvmNode, _admin, _listed, require_java
from penstock.topology.parse import parse
from tests.kafka.operating import (
    CONFIG,
    Flow,
    in_force,
    penstock,
    push,
    status,
    told_by,
    wait_until_ready,
)  # fmt: skip
from tests.kafka.puppets import make_stage
from tests.kafka.running import Job

pytestmark = pytest.mark.broker


def report(worker: str, **fields: Any) -> bytes:
    usual = {
        "kind": "worker", "worker": worker, "topology": "doubles", "host": "far", "pid": 1, "started": timestamp(), "time": timestamp(),
        "generation": 0, "wanted": 0, "ready": True, "reads": 2,
    }  # fmt: skip
    return json.dumps({**usual, **fields}).encode()


def pending(job: Job) -> list[str]:
    return operate(load({}, file=job.folder / CONFIG), parse(job.file), _pending)


async def _pending(operator: Operator) -> list[str]:
    return [one.id for one in (await operator.state()).pending]


@contextlib.contextmanager
def forging(job: Job, *made: Callable[[], Record]) -> Iterator[None]:
    """Inside, somebody writes these records ten times a second."""
    over = threading.Event()

    def forge() -> None:
        while not over.wait(0.1):
            produce(job.broker, [one() for one in made])

    thread = threading.Thread(target=forge)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_forged_reports_neither_block_nor_steer_a_deploy(job: Job) -> None:
    """Of a worker that does not exist, and of the one that does: with a failure, as too old, as ahead, ready too early, and deleted."""
    topic = job.releases.status
    with job.run() as worker, Flow(job) as flow:
        wait_until_ready(job, worker)
        real = told_by(job, worker)["worker"]
        mallory = Identity.new(real)

        def ghost() -> Record:
            return Record(topic, report("ghost", reads=1), b"worker/ghost")

        def failed() -> Record:
            told = [{"id": id, "state": "failed", "detail": "no"} for id in pending(job)]
            return Record(topic, report(real, releases=told, wanted=9), f"worker/{real}".encode())

        def signed() -> Record:
            value = report(real, wanted=9, number=1_000_000)
            return Record(topic, value, f"worker/{real}".encode(), [("penstock-signature", mallory.sign(value))])

        gone = Record(topic, None, f"worker/{real}".encode())
        with forging(job, ghost, failed, signed, lambda: gone):
            in_force(job, push(job, 3.0))
            flow.wait_for_more()
            in_force(job, push(job, 4.0))
            flow.wait_for_more()
            done = penstock(job, "rollback", "doubles")
            assert done.code == 0, done.err
            told = {one["worker"]: (one["live"], one["member"]) for one in status(job)["workers"]}
            assert told == {real: (True, True), "ghost": (False, False)}
            shown = penstock(job, "status", "doubles")
            assert shown.code == 1
            assert "ghost is no member of the consumer group, and is ignored" in " ".join(shown.out.split())
    assert flow.scored() == {(0, 2.0), (1, 3.0), (2, 4.0), (3, 3.0)}


def test_ready_that_a_worker_has_not_said_does_not_activate(job: Job) -> None:
    """A worker that refuses the release is said to be ready with it, by somebody else."""
    other = job.folder / "other.toml"
    other.write_text((job.folder / "trust.toml").read_text().replace("[keys.alice]", "[keys.anna]"))
    with job.run(trust=str(other)) as worker:
        wait_until_ready(job, worker)
        real = told_by(job, worker)["worker"]

        forged: set[str] = set()

        def ready() -> Record:
            told = [{"id": id, "state": "ready"} for id in pending(job)]
            forged.update(one["id"] for one in told)
            return Record(job.releases.status, report(real, releases=told), f"worker/{real}".encode())

        with forging(job, ready):
            done = penstock(job, "deploy", "doubles", f"double={push(job, 3.0)}", "--timeout", "1000", "--format", "json")
            assert (done.code, done.json["code"]) == (8, "not-ready")
            assert f"{real}: refused: author: anna signed as alice" in done.err
            assert done.json["release"]["id"] in forged, "deploy gave up before anybody had lied to it, so this shows nothing"
        assert status(job)["generation"] == 0


class Uncoordinated(JvmKafka):
    """A broker that cannot make the topic of the groups: so none of them has a coordinator."""

    def __init__(self) -> None:
        super().__init__(properties={"offsets.topic.replication.factor": "3"})

    def start(self) -> None:
        JvmNode.start(self)
        self.wait_until(lambda: bool(_listed(_admin(self.bootstrap))))


def test_without_a_coordinator_no_report_counts_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """While it moves, for example. A forged report would be the only worker, and ready."""
    try:
        require_java()
    except TransportUnavailable as reason:
        pytest.skip(str(reason))
    kafka = Uncoordinated()
    try:
        stage = make_stage(ExternalBroker(kafka.bootstrap), tmp_path)
        produce(ExternalBroker(kafka.bootstrap), [Record(stage.topics.status, report("ghost", topology="payments"), b"worker/ghost")])
        topology = str(tmp_path / "payments.yaml")
        shared = ("--trust", str(tmp_path / "trust.toml"), "--broker-timeout", "2")
        for command in (["status", topology], ["deploy", topology, "score=score@2", "--timeout", "1"], ["rollback", topology]):
            speaks = stage.flags if command[0] != "status" else (*stage.flags[:4], "--unsigned-control")
            code, told = main([*command, *speaks, *shared]), capsys.readouterr()
            assert code == 4, told.err
            assert "it is not known whose reports count" in told.err
        assert end_offsets(ExternalBroker(kafka.bootstrap), stage.topics.control) == {0: 0}
    finally:
        kafka.stop()


def test_boundary_that_no_worker_has_signed_is_marked(job: Job) -> None:
    with job.run() as worker, Flow(job) as flow:
        wait_until_ready(job, worker)
        flow.wait_for_more()
        name = told_by(job, worker)["worker"]
        boundary = {
            "kind": "boundary", "topic": job.source, "partition": 0, "offset": 7, "generation": 3, "worker": name, "time": timestamp(),
        }  # fmt: skip
        produce(job.broker, [Record(job.releases.status, json.dumps(boundary).encode(), f"boundary/{job.source}/0/7".encode())])
        found = penstock(job, "history", "doubles", "--boundaries", "--format", "json").json["boundaries"]
        assert {(one["generation"], one["proven"]) for one in found} == {(0, True), (3, False)}
