"""Services that follow releases on a real Kafka: `penstock deploy` waits for each as for a worker, by its membership of their group."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal

import pytest

from penstock import settings
from penstock.control.log import Standing
from penstock.errors import TransportUnavailable
from penstock.operate.requests import Requests
from penstock.testing import models as onnx_models
from penstock.testing import wait_for
from penstock.topology.parse import parse
from tests.kafka.operating import CONFIG, in_force, penstock, push, push_bad, status, wait_until_ready
from tests.kafka.running import Job
from tests.kafka.services import Service

pytestmark = pytest.mark.broker


def test_deploy_waits_for_each_service_and_for_the_workers(job: Job) -> None:
    with job.run() as worker, Service(job) as one, Service(job) as other:
        wait_until_ready(job, worker)
        for service in (one, other):
            service.wait_until_ready()
        done = penstock(job, "deploy", "doubles", f"double={push(job, 3.0)}", "--format", "json")
        assert done.code == 0, done.err
        told = {one["worker"]: one for one in done.json["workers"]}
        assert len(told) == 3
        assert {one["state"] for one in told.values()} == {"live"}
        shown = status(job)
        assert shown["wrong"] == []
        assert sorted(one.get("role", "") for one in shown["workers"]) == ["", "service", "service"]
        assert {one["generation"] for one in shown["workers"]} == {1}
        assert one.stop() == 0, one.log
        assert len(status(job)["workers"]) == 2  # it has said farewell
        in_force(job, push(job, 4.0))
        assert other.stop() == 0, other.log


def test_a_service_that_cannot_load_a_release_ends_it_with_the_reason(job: Job) -> None:
    elsewhere = job.folder / "elsewhere"
    shutil.copytree(job.folder / "models", elsewhere)  # a registry that lacks what is pushed later
    with job.run() as worker, Service(job, models=str(elsewhere), cache=str(job.folder / "cold")) as service:
        wait_until_ready(job, worker)
        service.wait_until_ready()
        done = penstock(job, "deploy", "doubles", f"double={push(job, 3.0)}", "--format", "json")
        assert (done.code, done.json["code"]) == (8, "not-ready"), done.err
        assert "is in no registry root" in done.json["error"]
        assert str(service.told["worker"]) in done.json["error"]
        assert {one["generation"] for one in status(job)["workers"]} == {0}
        bad = push_bad(job, onnx_models.crashing())
        done = penstock(job, "deploy", "doubles", f"double={bad}", "--timeout", "30", "--format", "json")
        assert done.code == 8


def test_a_service_that_was_killed_is_waited_for_no_longer_than_it_is_silent(job: Job) -> None:
    with Service(job) as stays, Service(job) as killed:
        for service in (stays, killed):
            service.wait_until_ready()
        name = killed.told["worker"]
        killed.process.kill()
        killed.process.wait()
        done = penstock(job, "deploy", "doubles", f"double={push(job, 3.0)}", "--format", "json")
        assert done.code == 0, done.err
        told = {one["worker"]: one["live"] for one in done.json["workers"]}
        assert told.pop(name, False) is False
        assert [*told.values()] == [True]


def test_a_service_that_was_paused_catches_up_and_counts_again(job: Job) -> None:
    """Longer than its session: the group has removed it meanwhile."""
    with Service(job, session_timeout="6") as stays, Service(job, session_timeout="6") as paused:
        for service in (stays, paused):
            service.wait_until_ready()
        paused.process.send_signal(signal.SIGSTOP)
        wait_for(lambda: not paused.told.get("live", False), "a service that is lost", 60.0, 0.25)
        in_force(job, push(job, 3.0))
        paused.process.send_signal(signal.SIGCONT)
        wait_for(lambda: (paused.told.get("live"), paused.told.get("generation")) == (True, 1), lambda: paused.log, 60.0, 0.25)
        in_force(job, push(job, 4.0))
        assert {one["generation"] for one in status(job)["workers"]} == {2}


@pytest.mark.broker("restart")
def test_a_requested_release_whose_brokers_go_away_is_continued_when_they_are_back(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    """Its time is over while nobody answers, so that it cannot even be aborted: it must not stay pending."""
    version = push(job, 3.0)
    topology, chosen = parse(job.file), settings.load({"broker_timeout": 2.0}, file=job.folder / CONFIG)

    async def act() -> Standing:
        async with Requests(chosen) as requests, asyncio.timeout(120):
            begun = await requests.deploy(topology, {"double": version}, requested_by="alice", timeout=3.0)
            await asyncio.to_thread(job.broker.kill)
            try:
                while "is continued in" not in caplog.text:  # noqa: ASYNC110  a log has no event
                    await asyncio.sleep(0.1)
            finally:
                await asyncio.to_thread(job.broker.restart)
            while True:
                with contextlib.suppress(TransportUnavailable):
                    if (found := (await requests.get(topology, begun.release.id)).past).standing is not Standing.PENDING:
                        return found.standing
                await asyncio.sleep(0.2)

    with Service(job) as service:
        service.wait_until_ready()
        service.process.send_signal(signal.SIGSTOP)  # so that it is not ready in time
        assert asyncio.run(act()) in {Standing.ACTIVE, Standing.ABORTED}
