"""`penstock validate --live`: what a worker would meet, in one report, with nothing written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType

from penstock.testing import Broker, create_topics, end_offsets, wait_for
from tests.kafka.operating import configure, penstock
from tests.kafka.running import Job, delete_topic, make_job

pytestmark = pytest.mark.broker


@pytest.fixture
def job(broker: Broker, tmp_path: Path) -> Job:
    made = make_job(broker, tmp_path, partitions=2)
    configure(made, unsigned_control=True, broker_timeout=3.0)
    return made


def report(job: Job, *flags: str) -> tuple[int, list[dict[str, Any]]]:
    done = penstock(job, "validate", job.topology, "--live", "--format", "json", *flags)
    return done.code, json.loads(done.out)["checks"]


def states(checks: list[dict[str, Any]]) -> dict[str, str]:
    """The worst state of each check."""
    order = ["ok", "unknown", "warning", "failed"]
    worst: dict[str, str] = {}
    for one in checks:
        worst[one["check"]] = max(worst.get(one["check"], "ok"), one["state"], key=order.index)
    return worst


def set_config(job: Job, topic: str, name: str, value: str) -> None:
    admin = AdminClient({"bootstrap.servers": job.broker.bootstrap})
    resource = ConfigResource(ResourceType.TOPIC, topic)
    resource.add_incremental_config(ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET))
    for changed in admin.incremental_alter_configs([resource]).values():
        changed.result(15)


def test_report_is_complete_with_a_worker_and_without_one(job: Job) -> None:
    """Without a worker there is no stamp to compare the clock with. Nothing is written, and no group is joined."""
    code, checks = report(job)
    expected = {"file": "ok", "models": "ok", "trust": "warning", "brokers": "ok", "topics": "warning", "access": "ok", "workers": "ok"}
    assert (code, states(checks)) == (0, expected | {"clock": "unknown"}), checks
    assert [sum(end_offsets(job.broker, topic).values()) for topic in (job.source, job.sink, job.dead, *job.releases)] == [0] * 5
    with job.run("--unsigned-control", status_interval="0.5") as worker:
        wait_for(lambda: "running doubles" in worker.log, lambda: worker.log, 60)
        wait_for(lambda: states(report(job)[1])["clock"] == "ok", lambda: worker.log, 30, 0.5)
        code, checks = report(job)
        assert code == 0
        (said,) = [one["message"] for one in checks if one["check"] == "workers"]
        assert said.startswith("generation 0, 1 live: ")


def test_each_fault_is_found_with_its_exit_code(job: Job) -> None:
    """A fault hides no other check that does not need what is missing."""
    set_config(job, job.releases.control, "cleanup.policy", "compact")
    code, checks = report(job)
    assert (code, states(checks)["topics"]) == (1, "failed")
    (said,) = [one["message"] for one in checks if one["state"] == "failed"]
    assert said.startswith(f"{job.releases.control} has cleanup.policy=compact, not delete: kafka-configs --alter")
    delete_topic(job.broker, job.sink)
    code, checks = report(job)
    assert code == 5
    assert any(job.sink in one["message"] for one in checks if one["state"] == "failed")
    create_topics(job.broker, {job.sink: 1})
    code, checks = report(job)
    assert code == 2
    assert any(f"topic {job.sink} has 1 partitions, but {job.source} has 2" in one["message"] for one in checks)
    (model,) = (job.folder / "models/double/1").glob("model.onnx")
    model.chmod(0o644)
    model.write_bytes(model.read_bytes()[:-1])
    code, checks = report(job)
    assert (code, states(checks)["models"], states(checks)["brokers"]) == (3, "failed", "ok")


def test_brokers_that_do_not_answer_are_one_finding(job: Job) -> None:
    code, checks = report(job, "--brokers", "127.0.0.1:1", "--broker-timeout", "1")
    assert (code, checks[-1]["check"], checks[-1]["state"]) == (4, "brokers", "failed")


def test_report_for_people_has_a_line_per_finding(job: Job) -> None:
    done = penstock(job, "validate", str(job.file), "--live")
    assert done.code == 0
    assert [line.split()[0] for line in done.out.splitlines() if line[:1].strip()][:3] == ["ok", "ok", "warning"]
