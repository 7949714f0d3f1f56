"""Commits fail while everything else works: what is not committed is limited, said, and costs no double when commits succeed again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType

from penstock.settings import Settings
from penstock.telemetry import Metrics
from penstock.testing import Broker, committed, create_topics, unique, wait_for
from penstock.transports.kafka.source import KafkaSource
from tests.kafka.running import Job, Running, make_job
from tests.kafka.test_pages import ask, scrape, wait_until_ready
from tests.kafka.test_transport import Placing

pytestmark = pytest.mark.broker


@contextmanager
def no_commits(broker: Broker) -> Iterator[None]:
    """The topic of the groups wants more replicas than there are: the coordinator answers heartbeats and stores no offset."""
    try:
        replicas_wanted(broker, 2)
        yield
    finally:
        replicas_wanted(broker, 1)


def replicas_wanted(broker: Broker, count: int) -> None:
    wanted = ConfigEntry("min.insync.replicas", str(count), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, "__consumer_offsets", incremental_configs=[wanted])
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    for answer in admin.incremental_alter_configs([resource]).values():
        answer.result()


def reason(worker: Running) -> str:
    return str(ask(worker, "/readyz")[1].get("conditions", {}).get("partitions", ""))


@pytest.mark.broker("restart")  # ours, so that its configuration may be changed
@pytest.mark.parametrize("limit", ["rows", "seconds"])
def test_without_commits_a_worker_takes_no_more_than_its_limit_and_goes_on_afterwards(broker: Broker, tmp_path: Path, limit: str) -> None:
    """The watchdog, whose bound is short here, knows the reason; `/readyz` gives it."""
    job = make_job(broker, tmp_path)
    settings = {"http": "127.0.0.1:0", "stall_timeout": "2", **({"max_uncommitted_rows": "100"} if limit == "rows" else {})}
    with job.run(**settings) as worker:
        wait_until_ready(worker)
        job.send(range(8))
        wait_for(lambda: stored(job) == 8, "the first commit", 30)
        with no_commits(broker):
            job.send(range(8, 208))
            wait_for(lambda: "no commit has succeeded" in reason(worker), f"the reason\n{worker.log}", 60, 0.2)
            job.send(range(208, 408))
            looks = scrape(worker)["penstock_watchdog_looks_total{}"]
            wait_for(lambda: scrape(worker)["penstock_watchdog_looks_total{}"] > looks + 30, "looks", 60)
            assert worker.process.poll() is None, worker.log
            assert len(job.answers()) <= 208
            assert stored(job) == 8
        job.wait_for_answers(408)
        wait_for(lambda: stored(job) == 408, "all committed", 60)
        wait_until_ready(worker)
        assert worker.stop() == 0, worker.log
    assert len(job.answers()) == 408


def stored(job: Job) -> int:
    return sum(committed(job.broker, job.group, job.source).values())


@pytest.mark.broker("pause")
def test_a_commit_that_hangs_ends_with_its_assignment(broker: Broker) -> None:
    """Else it would be repeated under the next generation, and could set back what the next owner has committed."""
    topic = unique("uncommitted")
    create_topics(broker, {topic: 1})

    async def main() -> None:
        source = KafkaSource(Settings(brokers=broker.bootstrap), unique("group"), metrics=Metrics())
        await source.start(RoundRobinPartitionAssignor)
        listener = Placing(source)
        source.subscribe([topic], listener)
        await asyncio.wait_for(listener.placed.wait(), 30)
        assert await source.store({(topic, 0): 0})
        broker.pause()
        try:
            storing = asyncio.ensure_future(source.store({(topic, 0): 0}))
            await asyncio.sleep(0.1)
            assert not storing.done()
            source.revoke()
            assert not await asyncio.wait_for(storing, 5)
        finally:
            broker.resume()
        await source.stop()

    asyncio.run(main())
