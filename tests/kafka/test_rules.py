"""Rules on a real Kafka: alone, and beside a model whose releases change what they read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from penstock.registry.directory import DirectoryRegistry
from penstock.testing import Broker, read_all
from penstock.testing.models import linear
from tests.kafka.running import Job, make_job
from tests.kafka.test_explain import release

pytestmark = [pytest.mark.broker, pytest.mark.measured]


def made(broker: Broker, folder: Path) -> Job:
    if "create_topics" in broker.lacks:
        pytest.skip(f"{broker.kind} broker: {broker.lacks['create_topics']}")
    return make_job(broker, folder, partitions=1)


def test_rules_alone_are_a_job(broker: Broker, tmp_path: Path) -> None:
    """Without model nodes a release has nothing to bind; the worker is ready, and its outputs name the graph."""
    job = made(broker, tmp_path)
    text = job.file.read_text()
    node = next(line for line in text.splitlines() if line.startswith("  double:"))
    job.file.write_text(text.replace(node, "  double: {kind: rule, outputs: {y: x * 2}}"))
    with job.run("--unsigned-control") as worker:
        job.send([1, 2, 3])
        job.wait_for_answers(3)
        assert worker.stop() == 0, worker.log
    records = job.answers()
    assert [json.loads(one.value or b"")["y"] for one in records] == [1.0, 2.0, 3.0]
    assert (dict(records[0].headers)["penstock-models"] or b"").startswith(b"double=rule:")
    assert not worker.errors


def test_release_of_a_model_changes_what_a_rule_reads(broker: Broker, tmp_path: Path) -> None:
    """The rule stays as it is: the release binds the model alone, is tried with the rule on real rows, and becomes active."""
    job = made(broker, tmp_path)
    text = job.file.read_text().replace("sinks:", "  desk: {kind: rule, outputs: {high: double > 3}}\nsinks:")
    job.file.write_text(text.replace("id, y: double", "id, y: double, high: desk.high"))
    DirectoryRegistry(job.folder / "models").publish("double", linear([4.0]))
    with job.run("--unsigned-control") as worker:
        job.send([2, 3])
        job.wait_for_answers(2)
        release(job, {"double": "double@2"})
        job.send([2, 3])
        job.wait_for_answers(4)
        assert worker.stop() == 0, worker.log
    records = job.answers()
    events = [json.loads(one.value or b"") for one in records]
    assert [(one["y"], one["high"]) for one in events] == [(2.0, False), (3.0, False), (4.0, True), (6.0, True)]
    versions = [(dict(one.headers)["penstock-models"] or b"").decode().split(",") for one in (records[0], records[3])]
    assert [one[0] for one in versions] == ["double=double@1", "double=double@2"]
    assert versions[0][1] == versions[1][1]
    assert versions[0][1].startswith("desk=rule:")


def test_release_of_a_model_changes_which_events_are_written(broker: Broker, tmp_path: Path) -> None:
    """Events that a condition leaves out are finished and committed like the others, and a dead letter is one row's alone."""
    job = made(broker, tmp_path)
    text = job.file.read_text().replace("sinks:", "  desk: {kind: rule, when: double > 3, outputs: {z: 12 / (double - 8)}}\nsinks:")
    job.file.write_text(text.replace("id, y: double}", "id, y: double, z: desk.z}, when: desk"))
    DirectoryRegistry(job.folder / "models").publish("double", linear([4.0]))
    with job.run("--unsigned-control") as worker:
        job.send([2, 3])
        job.wait_until_committed(2, worker)
        assert job.answers() == []
        release(job, {"double": "double@2"})
        job.send([2, 4, 1, 3])
        job.wait_until_committed(6, worker)
        assert worker.stop() == 0, worker.log
    events = [json.loads(one.value or b"") for one in job.answers()]
    assert [(one["y"], one["z"]) for one in events] == [(4.0, -3.0), (6.0, -6.0)]
    (letter,) = read_all(broker, job.dead)
    assert dict(letter.headers)["penstock-node"] == b"desk"
