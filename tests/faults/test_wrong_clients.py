"""Clients that are known to be wrong, judged as workers are: the checker sees on a real broker what it is there for."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Message, TopicPartition

from penstock.record import Record
from penstock.testing import committed, produce
from tests.faults.checker import Verdict, judge
from tests.faults.cluster import Cluster
from tests.faults.ledger import Ledger, outputs, records, source_events
from tests.kafka.running import Job, make_job

CHUNK = 100
DIES_AT = 4  # chunks

Chunk = Sequence[Message]
Step = Callable[[Job, Chunk, bool], None]  # with `dies`, it ends between the two things that it does


class Killed(Exception):
    """What comes after it is not done."""


@pytest.fixture
def ledger(clusters: Callable[[int], Cluster], tmp_path: Path) -> Ledger:
    """A source that holds its events already."""
    cluster = clusters(1)
    cluster.heal()
    made = Ledger(make_job(cluster, tmp_path), cluster, rate=2000, seed=1)
    with made.flowing():
        made.wait_for(0.6)
    made.settle()
    return made


def write(job: Job, chunk: Chunk) -> None:
    produce(job.broker, [_output(job, message) for message in chunk])


def _output(job: Job, message: Message) -> Record:
    value = message.value() or b""
    headers = [("penstock-generation", b"0"), ("penstock-models", b"double=double@1")]
    try:
        event = json.loads(value)
        doubled = json.dumps({"id": event["id"], "y": 2 * float(event["x"])}).encode()
    except ValueError:
        return Record(job.dead, value, message.key(), partition=message.partition() or 0)
    if doubled.endswith(b"Infinity}"):
        return Record(job.dead, value, message.key(), partition=message.partition() or 0)
    return Record(job.sink, doubled, message.key(), headers, partition=message.partition() or 0)


def commit(job: Job, chunk: Chunk) -> None:
    ends = {message.partition() or 0: (message.offset() or 0) + 1 for message in chunk}
    consumer = Consumer({"bootstrap.servers": job.broker.bootstrap, "group.id": job.group})
    consumer.commit(offsets=[TopicPartition(job.source, *end) for end in ends.items()], asynchronous=False)
    consumer.close()


def right(job: Job, chunk: Chunk, dies: bool) -> None:
    write(job, chunk)
    if dies:
        raise Killed
    commit(job, chunk)


def commits_first(job: Job, chunk: Chunk, dies: bool) -> None:
    commit(job, chunk)
    if dies:
        raise Killed
    write(job, chunk)


def commits_at_its_end(job: Job, chunk: Chunk, dies: bool) -> None:
    write(job, chunk)
    if dies:
        raise Killed
    if len(chunk) < CHUNK:
        commit(job, list(records(job.broker, job.source)))


def run(ledger: Ledger, step: Step) -> Verdict:
    """The client reads to the end of the source; it dies once on the way, and goes on from what is committed."""
    job, count = ledger.job, 0
    done: dict[int, int] = {}
    source = list(records(job.broker, job.source))

    def one_life() -> None:
        nonlocal count
        rest = [one for one in source if (one.offset() or 0) >= done[one.partition() or 0]]
        for at in range(0, len(rest), CHUNK):
            count += 1
            step(job, rest[at : at + CHUNK], count == DIES_AT)

    for _ in range(2):
        done.update(committed(job.broker, job.group, job.source))
        try:
            one_life()
        except Killed:
            continue
    return judge(source_events(ledger), outputs(job), {"double@1": 2.0})


def test_client_that_writes_and_then_commits_doubles_what_it_had_not_committed(ledger: Ledger) -> None:
    verdict = run(ledger, right)
    assert not verdict.wrong
    assert len(verdict.doubled) == CHUNK


def test_client_that_commits_before_it_writes_loses(ledger: Ledger) -> None:
    verdict = run(ledger, commits_first)
    assert list(verdict.wrong) == ["lost"]
    assert len(verdict.lost) == CHUNK


def test_client_that_commits_at_its_end_doubles_all(ledger: Ledger) -> None:
    verdict = run(ledger, commits_at_its_end)
    assert not verdict.wrong
    assert len(verdict.doubled) == DIES_AT * CHUNK


def test_client_that_wakes_up_with_old_work_puts_old_answers_behind_new_ones(ledger: Ledger) -> None:
    """What a paused worker does that is not fenced."""
    job = ledger.job
    late = [one for one in records(job.broker, job.source) if one.partition() == 0][:CHUNK]
    run(ledger, right)
    write(job, late)
    verdict = judge(source_events(ledger), outputs(job), {"double@1": 2.0})
    assert list(verdict.wrong) == ["reordered"]
