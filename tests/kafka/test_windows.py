"""What a topology remembers, on a real Kafka: workers are killed, stopped, and share partitions, and every feature is as without that."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka.admin import AdminClient

from penstock.record import Record
from penstock.testing import Broker, create_topics, end_offsets, produce, read_all, wait_for
from tests.kafka.operating import must_be_signed, penstock
from tests.kafka.running import Job, delete_topic, make_job
from tests.kafka.test_stages import workers_of

pytestmark = pytest.mark.broker

SCHEMA = {
    "type": "record",
    "name": "Payment",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "card", "type": "string"},
        {"name": "x", "type": ["null", "double"]},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    ],
}
WINDOWS = """\
topology: doubles
sources:
  readings: {{topic: {source}, schema: payment.avsc, id: id, time: at, dead_letter: {dead}}}
nodes:
  lately:
    kind: window
    by: card
    over: [10s, 60s]
    hops: 10
    features: {{n: count, total: sum(x), last: last(x), kinds: distinct(x), high: "quantile(x, 0.9)"}}
sinks:
  doubled:
    topic: {sink}
    fields: {{id: id, n: lately.n_10s, total: lately.total_60s, last: lately.last_60s, kinds: lately.kinds_60s, high: lately.high_60s}}
"""
REKEYED = """\
topology: doubles
sources:
  readings: {{topic: {source}, schema: payment.avsc, id: id, time: at, dead_letter: {dead}}}
nodes:
  known: {{kind: rule, outputs: {{large: "coalesce(x, 0.0) > 50"}}, materialize: {{key: card}}}}
  lately:
    kind: window
    by: card
    over: [10s, 60s]
    hops: 10
    lateness: 1h
    features: {{n: count, total: sum(x), large: count where known.large}}
sinks:
  doubled: {{topic: {sink}, fields: {{id: id, n: lately.n_10s, total: lately.total_60s, large: lately.large_60s}}}}
"""
BEGIN = 1_700_000_000_000


@pytest.fixture
def job(broker: Broker, tmp_path: Path) -> Job:
    made = make_job(broker, tmp_path, partitions=2, source_config={"message.timestamp.after.max.ms": str(1 << 50)})
    (tmp_path / "schemas" / "payment.avsc").write_text(json.dumps(SCHEMA))
    must_be_signed(made)
    made.file.write_text(WINDOWS.format(source=made.source, sink=made.sink, dead=made.dead))
    done = penstock(made, "topics", "create", str(made.file))
    assert done.code == 0, done.err
    assert "what lately remembers" in done.out
    return made


def payments(count: int, *, begin: int = 0) -> list[dict[str, Any]]:
    """Payments of 40 cards, most of them in order; some amounts are null."""
    chance = random.Random(begin)
    return [
        {
            "id": str(number),
            "card": f"c{chance.randrange(40)}",
            "x": None if chance.random() < 0.1 else float(chance.randrange(100)),
            "at": BEGIN + number * 50 - chance.choice([0, 0, 0, 700]),
        }
        for number in range(begin, begin + count)
    ]


def partition_of(card: str) -> int:
    return int(card[1:]) % 2


def send(job: Job, events: Iterable[dict[str, Any]]) -> None:
    records = [Record(job.source, json.dumps(one).encode(), one["card"].encode(), partition=partition_of(one["card"])) for one in events]
    produce(job.broker, records)


def expected(events: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The features by their definition, from the list of all events."""
    seen: dict[str, list[dict[str, Any]]] = defaultdict(list)
    found = {}
    for one in events:
        before = seen[one["card"]]
        newest = max((each["at"] for each in before), default=0)

        def within(seconds: int, one: dict[str, Any] = one, before: list[dict[str, Any]] = before, newest: int = newest) -> list[Any]:
            hop = seconds * 100
            begin = (one["at"] // hop - 10) * hop
            # An event that came after a later one of its card sees whole hops only, those before its own.
            end = one["at"] if one["at"] >= newest else one["at"] // hop * hop - 1
            return [each for each in before if begin <= each["at"] <= end]

        values = [each["x"] for each in within(60) if each["x"] is not None]
        by_time = [each for each in within(60) if each["x"] is not None]
        last = max(enumerate(by_time), key=lambda at: (at[1]["at"], at[0]))[1]["x"] if by_time else None
        high = float(np.quantile(values, 0.9)) if values else None
        answer = {"n": len(within(10)), "total": sum(values), "last": last, "kinds": len({*values}), "high": high}
        found[one["id"]] = {"id": one["id"], **answer}
        before.append(one)
    return found


def first_answers(job: Job) -> dict[str, dict[str, Any]]:
    """The first answer to each event: one that is answered again may have been counted already."""
    found: dict[str, dict[str, Any]] = {}
    for record in sorted(read_all(job.broker, job.sink), key=lambda one: (one.partition, one.offset)):
        answer = json.loads(record.value or b"")
        found.setdefault(answer["id"], answer)
    return found


def wait_for_all(job: Job, count: int, log: object = "") -> None:
    wait_for(lambda: len(job.ids()) >= count, lambda: f"{count} answers\n{log}", 90, 0.3)


def test_workers_are_killed_and_the_features_are_as_without_it(job: Job) -> None:
    events = payments(6000)
    for at in range(0, 6000, 1500):
        with job.run(cache=str(job.folder / f"cache-{at}"), max_batch_rows="64", chunk_rows="32", commit_interval="0.5") as worker:
            worker.wait_until_assigned()
            send(job, events[at : at + 1500])
            wait_for_all(job, at + 400, worker.log_file)
            os.kill(worker.process.pid, signal.SIGKILL)
    with job.run() as worker:
        wait_for_all(job, 6000, worker.log_file)
        assert worker.stop() == 0, worker.log
    assert first_answers(job) == expected(events)


def test_a_stage_counts_once_what_the_stage_before_writes_again(job: Job) -> None:
    """The first stage gives each event the partition of its card, and is killed again and again, as is the second."""
    job.file.write_text(REKEYED.format(source=job.source, sink=job.sink, dead=job.dead))
    assert penstock(job, "topics", "create", str(job.file)).code == 0
    events = payments(6000)
    with job.run(max_batch_rows="64", chunk_rows="32", commit_interval="2") as parent:
        for at in range(0, 6000, 1500):
            wait_for(lambda: len(workers_of(parent)) == 2 or parent.process.poll() is not None, lambda: parent.log, 60)
            produce(
                job.broker, [Record(job.source, json.dumps(one).encode(), partition=int(one["id"]) % 2) for one in events[at : at + 1500]]
            )
            wait_for_all(job, at + 300, parent.log_file)
            stage = "known" if at != 3000 else "doubled"
            os.kill(workers_of(parent)[stage].pid, signal.SIGKILL)
        wait_for_all(job, 6000, parent.log_file)
        assert parent.stop(60) == 0, parent.log
    between = read_all(job.broker, f"{job.application}.doubles.known")
    assert len(between) > 6000, "the first stage has written events again"
    assert len({(one.partition, one.key) for one in between}) == 40, "each card has one partition"
    # The order in which the second stage reads them is that of the topic, without what is there again.
    by_id = {one["id"]: one for one in events}
    order = dict.fromkeys(
        (dict(one.headers)["penstock-id"] or b"").decode() for one in sorted(between, key=lambda one: (one.partition, one.offset))
    )
    wanted = expected(by_id[id] for id in order)
    for id, answer in first_answers(job).items():
        assert (answer["n"], answer["total"]) == (wanted[id]["n"], wanted[id]["total"]), id


def test_two_workers_share_what_is_remembered_and_hand_it_on(job: Job) -> None:
    """The second joins and is stopped under load, and the first is killed: partitions go back and forth with their states."""
    events = payments(8000)
    with job.run() as first:
        first.wait_until_assigned()
        send(job, events[:2000])
        wait_for_all(job, 1000, first.log_file)
        with job.run(client_id="second") as second:
            second.wait_until_assigned()
            send(job, events[2000:4000])
            wait_for_all(job, 3000, first.log_file)
            assert second.stop() == 0, second.log
        send(job, events[4000:6000])
        wait_for_all(job, 5000, first.log_file)
        with job.run(client_id="third") as third:
            third.wait_until_assigned()
            os.kill(first.process.pid, signal.SIGKILL)
            send(job, events[6000:])
            wait_for_all(job, 8000, third.log_file)
            assert third.stop() == 0, third.log
    assert first_answers(job) == expected(events)


def test_a_restart_on_the_same_host_reads_the_snapshot(job: Job) -> None:
    events = payments(1500)
    with job.run() as worker:
        send(job, events[:1000])
        job.wait_until_committed(1000, worker)
        assert worker.stop() == 0, worker.log
    kept = list((job.folder / "cache" / "state").rglob("*.state"))
    assert len(kept) == 2, "one of each partition"
    with job.run() as worker:
        send(job, events[1000:])
        job.wait_until_committed(1500, worker)
        assert "restored the state of lately/0, lately/1: 0 records" in worker.log
        assert worker.stop() == 0, worker.log
    for file in kept:
        file.write_bytes(file.read_bytes()[:-9])  # damaged: the changelog is read
    with job.run() as worker:
        worker.wait_until_assigned()
        assert "restored the state of lately/0, lately/1: 0 records" not in worker.log
        assert worker.stop() == 0, worker.log
    assert first_answers(job) == expected(events)


def test_a_source_that_was_created_again_begins_with_nothing(job: Job) -> None:
    events = payments(600)
    with job.run() as worker:
        send(job, events)
        job.wait_until_committed(600, worker)
        assert worker.stop() == 0, worker.log
    delete_topic(job.broker, job.source)
    create_topics(job.broker, {job.source: 2})
    again = [{**one, "id": f"again {one['id']}"} for one in payments(800)]
    for at, part in ((0, again[:400]), (1, again[400:])):
        with job.run(cache=str(job.folder / f"other-{at}")) as worker:
            send(job, part)
            wait_for_all(job, 600 + 400 * (at + 1), worker.log_file)
            assert worker.stop() == 0, worker.log
            assert ("was created again" in worker.log) == (at == 0)
    assert {id: one for id, one in first_answers(job).items() if id.startswith("again")} == expected(again)


def test_another_definition_is_another_state(job: Job) -> None:
    """Its changelog has to be made first, and begins with nothing."""
    events = payments(400)
    with job.run() as worker:
        send(job, events[:200])
        job.wait_until_committed(200, worker)
        assert worker.stop() == 0, worker.log
    job.file.write_text(job.file.read_text().replace("sum(x)", "max(x)"))
    with job.run() as worker:
        assert worker.process.wait(30) == 5
        assert "penstock topics create" in worker.log
    done = penstock(job, "topics", "create", str(job.file))
    assert done.out.count("created with") == 1, done.out
    with job.run() as worker:
        send(job, events[200:])
        job.wait_until_committed(400, worker)
        assert worker.stop() == 0, worker.log
    after = {id: one["n"] for id, one in expected(events[200:]).items()}
    assert {id: one["n"] for id, one in first_answers(job).items() if int(id) >= 200} == after


def test_a_broken_changelog_ends_the_worker(job: Job) -> None:
    """Nothing is scored with half of a memory."""
    topic = changelog(job)
    produce(job.broker, [Record(topic, b"no state", b"\x01c1", partition=0)])
    with job.run() as worker:
        send(job, payments(10))
        assert worker.process.wait(60) != 0
        assert f"{topic}/0 does not hold what nodes.lately remembers" in worker.errors[0]
    assert not sum(end_offsets(job.broker, job.sink).values())


def changelog(job: Job) -> str:
    topics = AdminClient({"bootstrap.servers": job.broker.bootstrap}).list_topics(timeout=10).topics
    (found,) = [name for name in topics if name.startswith(f"{job.application}.doubles.lately.")]
    return found


def test_an_event_from_the_future_is_a_dead_letter(job: Job) -> None:
    events = payments(30)
    far = {**events[10], "id": "far", "at": 4_000_000_000_000}
    with job.run() as worker:
        send(job, [*events[:10], far, *events[10:]])
        job.wait_until_committed(31, worker)
        assert worker.stop() == 0, worker.log
    (letter,) = read_all(job.broker, job.dead)
    assert b"ahead of the clock" in (dict(letter.headers)["__streams.errors.message"] or b"")
    assert first_answers(job) == expected(events)


def test_a_changelog_that_was_created_again_begins_with_nothing(job: Job) -> None:
    """The snapshot of this host is of the topic before, also when the new one has grown past it."""
    events = payments(900)
    with job.run() as worker:
        send(job, events[:300])
        job.wait_until_committed(300, worker)
        assert worker.stop() == 0, worker.log
    delete_topic(job.broker, changelog(job))
    assert penstock(job, "topics", "create", str(job.file)).code == 0
    for cache, part in (("elsewhere", events[300:700]), ("cache", events[700:])):
        with job.run(cache=str(job.folder / cache)) as worker:
            send(job, part)
            job.wait_until_committed(int(part[-1]["id"]) + 1, worker)
            assert worker.stop() == 0, worker.log
    after = expected(events[300:])
    assert {id: one for id, one in first_answers(job).items() if int(id) >= 300} == after


def test_a_source_that_was_created_again_is_forgotten_before_its_first_event(job: Job) -> None:
    """The worker that notices it is killed, or stopped, before anything comes."""
    events = payments(600)
    with job.run() as worker:
        send(job, events)
        job.wait_until_committed(600, worker)
        assert worker.stop() == 0, worker.log
    delete_topic(job.broker, job.source)
    create_topics(job.broker, {job.source: 2})
    with job.run() as worker:
        worker.wait_until_assigned()
        assert worker.log.count("is forgotten") >= 1
        os.kill(worker.process.pid, signal.SIGKILL)
    again = [{**one, "id": f"again {one['id']}"} for one in payments(200)]
    with job.run() as worker:
        send(job, again)
        wait_for_all(job, 800, worker.log_file)
        assert worker.stop() == 0, worker.log
    assert {id: one for id, one in first_answers(job).items() if id.startswith("again")} == expected(again)


def test_a_timestamp_that_the_changelog_would_refuse_is_no_matter(job: Job) -> None:
    """The topic of the events takes what is two hours ahead; the changelog has the brokers' bound of one hour."""
    events = payments(20)
    with job.run() as worker:
        later = int(time.time() * 1000) + 7_200_000
        produce(
            job.broker, [Record(job.source, json.dumps(events[0]).encode(), timestamp=later, partition=partition_of(events[0]["card"]))]
        )
        send(job, events[1:])
        job.wait_until_committed(20, worker)
        assert worker.stop() == 0, worker.log
