"""What happens to topics and partitions while a worker reads and writes them: it says so, and nothing is read from a wrong place."""

from __future__ import annotations

import asyncio
import functools
import socket
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from penstock.record import Record
from penstock.testing import Broker, committed, create_topics, produce, wait_for
from tests.kafka.running import Job, Running, delete_topic, make_job

pytestmark = [pytest.mark.broker, pytest.mark.measured]

AGE = "0.5"  # seconds; how soon a change is noticed


@functools.cache
def admin_at(bootstrap: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": bootstrap})  # kept: its answers end with it


def admin(broker: Broker) -> AdminClient:
    return admin_at(broker.bootstrap)


def exists(broker: Broker, topic: str) -> bool:
    return topic in admin(broker).list_topics(timeout=10).topics


def add_partitions(broker: Broker, count: int, *topics: str) -> None:
    for answer in admin(broker).create_partitions([NewPartitions(topic, count) for topic in topics]).values():
        answer.result(10)


def is_ready(job: Job) -> bool:
    """What /readyz answers."""
    with socket.socket(socket.AF_UNIX) as page:
        page.settimeout(5)
        page.connect(str(job.folder / "pages"))
        page.sendall(b"GET /readyz HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n")
        return page.recv(65536).startswith(b"HTTP/1.1 200")


def the_error(worker: Running) -> str:
    (line,) = worker.errors
    assert "Traceback" not in worker.log, worker.log
    return line


@pytest.mark.parametrize("which", ["source", "sink", "dead"])
def test_topic_that_is_deleted_ends_the_worker(broker: Broker, tmp_path: Path, which: str) -> None:
    job = make_job(broker, tmp_path)
    topic = getattr(job, which)
    with job.run(metadata_age=AGE) as worker:
        job.send(range(10))
        job.wait_for_answers(10)
        delete_topic(broker, topic)
        assert worker.wait(20) == 5, worker.log
        assert f"the brokers have no topic {topic} any more" in the_error(worker)
        assert "penstock topics create" in the_error(worker)
    assert not exists(broker, topic), "nobody has created it again with the brokers' defaults"


def test_input_that_is_created_again_is_read_from_its_beginning(broker: Broker, tmp_path: Path) -> None:
    """Also when it has grown longer than the position in the old topic: from there, the offset would be in range, and wrong."""
    job = make_job(broker, tmp_path)
    with job.run(metadata_age=AGE) as worker:
        job.send(range(40))
        job.wait_for_answers(40)
        delete_topic(broker, job.source)
        create_topics(broker, {job.source: job.partitions})
        job.send(range(100, 300))
        assert worker.wait(20) == 5, worker.log
        assert f"topic {job.source} was deleted and created again" in the_error(worker)
    with job.run() as worker:
        wait_for(lambda: set(job.ids()) >= set(map(str, range(100, 300))), lambda: f"every event of the new topic\n{worker.log}", 40)
        assert worker.stop() == 0, worker.log


async def commits(job: Job, late: Mapping[TopicPartition, OffsetAndMetadata] | None = None) -> dict[TopicPartition, OffsetAndMetadata]:
    """The group's commits with their texts, after it was given `late`."""
    consumer = AIOKafkaConsumer(bootstrap_servers=job.broker.bootstrap, group_id=job.group, enable_auto_commit=False)
    places = [TopicPartition(job.source, number) for number in range(job.partitions)]
    consumer.assign(places)
    await consumer.start()
    try:
        if late:
            await consumer.commit(late)
        found: dict[TopicPartition, OffsetAndMetadata] = await consumer._coordinator.fetch_committed_offsets(places)
        return found
    finally:
        await consumer.stop()


def test_commit_for_a_topic_of_that_name_that_is_gone_is_not_used(broker: Broker, tmp_path: Path) -> None:
    """A worker's last commit may come after Kafka has dropped the group's offsets together with the topic."""
    job = make_job(broker, tmp_path)
    with job.run() as worker:
        job.send(range(40))
        wait_for(lambda: sum(committed(broker, job.group, job.source).values()) == 40, "the commits")
        assert worker.stop() == 0, worker.log
    kept = asyncio.run(commits(job))
    assert len(kept) == job.partitions
    delete_topic(broker, job.source)
    create_topics(broker, {job.source: job.partitions})
    job.send(range(100, 180))
    wait_for(lambda: sum(committed(broker, job.group, job.source).values()) == 0, "Kafka to drop the offsets")
    assert asyncio.run(commits(job, kept)) == kept
    with job.run(start_from="latest") as worker:
        wait_for(lambda: set(job.ids()) >= set(map(str, range(100, 180))), lambda: f"every event of the new topic\n{worker.log}", 40)
        assert "is read from its beginning" in worker.log
        assert worker.stop() == 0, worker.log


def said(worker: Running, topic: str) -> list[str]:
    return [line for line in worker.log.splitlines() if topic in line and "WARN" in line and "was deleted" in line]


@pytest.mark.parametrize("again", [False, True], ids=["deleted", "created-again"])
@pytest.mark.parametrize("which", ["control", "status"])
def test_topics_of_releases_are_missed_but_the_worker_goes_on(broker: Broker, tmp_path: Path, which: str, again: bool) -> None:
    job = make_job(broker, tmp_path)
    topic = getattr(job.releases, which)
    with job.run(metadata_age=AGE, http="unix:pages") as worker:
        job.send(range(10))
        job.wait_for_answers(10)
        delete_topic(broker, topic)
        if again:
            create_topics(broker, {topic: 1})
        wait_for(lambda: bool(said(worker, topic)), lambda: f"a word about {topic}\n{worker.log}", 20)
        job.send(range(10, 20))
        job.wait_for_answers(20)
        assert is_ready(job) == (which == "status" and again)
        assert worker.stop() == 0, worker.log
        assert len(said(worker, topic)) == 1, worker.log
    assert exists(broker, topic) == again


def led(broker: Broker, topic: str) -> int:
    """How many partitions have a leader."""
    return sum(one.leader >= 0 for one in admin(broker).list_topics(timeout=10).topics[topic].partitions.values())


def grow(job: Job) -> None:
    """Two partitions more, and 40 events over all four."""
    add_partitions(job.broker, 4, job.source, job.sink, job.dead)
    wait_for(lambda: all(led(job.broker, topic) == 4 for topic in (job.source, job.sink, job.dead)), "the new partitions")
    produce(job.broker, [Record(job.source, job.reading(n).value, partition=n % 4) for n in range(40)])


def test_partitions_that_are_added_are_read_from_their_beginning(broker: Broker, tmp_path: Path) -> None:
    """Under `latest` as well."""
    job = make_job(broker, tmp_path, partitions=2)
    with job.run(metadata_age=AGE, start_from="latest") as worker:
        worker.wait_until_assigned()
        grow(job)
        job.wait_for_answers(40)
        assert worker.stop() == 0, worker.log
    assert job.ids() == Counter(map(str, range(40)))


def test_static_member_that_was_started_again_reads_added_partitions(broker: Broker, tmp_path: Path) -> None:
    """It leads its group, and its group does not say so."""
    job = make_job(broker, tmp_path, partitions=2)
    with job.run(group_instance_id="host", session_timeout="30") as worker:
        worker.wait_until_assigned()
        assert worker.stop() == 0, worker.log
    with job.run(group_instance_id="host", session_timeout="30", metadata_age=AGE) as worker:
        worker.wait_until_assigned()
        grow(job)
        job.wait_for_answers(40)
        assert worker.stop() == 0, worker.log
    assert job.ids() == Counter(map(str, range(40)))


def test_partitions_that_are_added_while_no_worker_runs_are_read_from_their_beginning(broker: Broker, tmp_path: Path) -> None:
    """Under `latest`, nothing of a topic that the group reads may be passed over."""
    job = make_job(broker, tmp_path, partitions=2)
    with job.run(start_from="latest") as worker:
        worker.wait_until_assigned()
        assert worker.stop() == 0, worker.log
    grow(job)
    with job.run(start_from="latest") as worker:
        job.wait_for_answers(40)
        assert worker.stop() == 0, worker.log
    assert job.ids() == Counter(map(str, range(40)))


def test_a_group_that_starts_at_the_end_does_not_move_when_its_first_worker_is_killed_at_once(broker: Broker, tmp_path: Path) -> None:
    job = make_job(broker, tmp_path)
    job.send(range(10))
    with job.run(start_from="latest", commit_interval="3600") as worker:
        worker.wait_until_assigned()
        worker.process.kill()
        worker.process.wait()
    job.send(range(10, 20))
    with job.run(start_from="latest") as worker:
        job.wait_for_answers(10)
        assert worker.stop() == 0, worker.log
    assert job.ids() == Counter(map(str, range(10, 20)))
