"""Workers come, go, freeze and thaw while events flow."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka import ConsumerGroupState
from confluent_kafka.admin import AdminClient

from penstock.record import Record
from penstock.testing import Broker, committed, end_offsets, wait_for
from tests.kafka.running import Job, make_job

pytestmark = pytest.mark.broker

TOTAL = 20_000


@contextmanager
def load(job: Job) -> Iterator[None]:
    """TOTAL events in the background, in bursts that wait for the answers to catch up, so that the load lasts as long as the test."""
    stop = threading.Event()

    def send() -> None:
        for at in range(0, TOTAL, 1000):
            job.send(range(at, at + 1000))
            wait_for(partial(caught_up, at - 4000), "answers", 60)

    def caught_up(count: int) -> bool:
        return stop.is_set() or sum(end_offsets(job.broker, job.sink).values()) > count

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_workers_that_join_and_leave_in_order_lose_and_double_nothing(broker: Broker, tmp_path: Path) -> None:
    """1 → 2 → 3 → 2 → 1 workers under load: what is under way is finished and committed before partitions move."""
    job = make_job(broker, tmp_path, partitions=6)
    with job.run() as first, job.run(client_id="second") as second:
        first.wait_until_assigned()
        with load(job):
            second.wait_until_assigned()
            with job.run(client_id="third") as third:
                third.wait_until_assigned()
                assert second.stop() == 0, second.log
                assert third.stop() == 0, third.log
        job.wait_until_committed(TOTAL, first)
        assert first.stop() == 0, first.log
    assert job.ids() == Counter(map(str, range(TOTAL)))


def test_a_frozen_worker_loses_its_partitions_and_what_it_wakes_up_with_is_not_committed(broker: Broker, tmp_path: Path) -> None:
    """SIGSTOP for twice the session timeout: the other worker takes over; the thawed one comes back as a member among others."""
    job = make_job(broker, tmp_path)
    with job.run(drain_timeout="5") as steady, job.run(client_id="frozen", drain_timeout="5") as frozen:
        steady.wait_until_assigned()
        frozen.wait_until_assigned()
        with load(job):
            wait_for(lambda: sum(end_offsets(broker, job.sink).values()) > 2000, "the first answers", 30)
            os.kill(frozen.process.pid, signal.SIGSTOP)
            held, sent = committed(broker, job.group, job.source), end_offsets(broker, job.source)
            wait_for(
                lambda: all(at > sent[one] for one, at in committed(broker, job.group, job.source).items()),
                "the steady worker to go on",
                60,
            )
            upto = committed(broker, job.group, job.source)
            os.kill(frozen.process.pid, signal.SIGCONT)
        job.wait_until_committed(TOTAL, steady, frozen)
        assert steady.stop() == 0, steady.log
        assert frozen.stop() == 0, frozen.log
    assert set(job.ids()) == set(map(str, range(TOTAL)))
    # What the frozen worker had answered and not committed is answered twice. It lies at or after its last commit, and before the end
    # that the worker can have seen.
    again = [at for at, times in Counter(map(position, job.answers())).items() if times > 1]
    wrong = [(partition, offset) for partition, offset in again if offset < held[partition] or sent[partition] <= offset < upto[partition]]
    assert not wrong, f"committed, and yet scored again: {wrong[:5]}"


def test_spares_take_over_what_waits_when_the_owner_dies(broker: Broker, tmp_path: Path) -> None:
    """Four workers and one partition: three owners die, one after the other, with events waiting for the next."""
    job = make_job(broker, tmp_path, partitions=1)
    names = ["a", "b", "c", "d"]
    with ExitStack() as stack:
        workers = {name: stack.enter_context(job.run(client_id=name)) for name in names}
        for sent in range(0, 40, 10):
            job.send(range(sent, sent + 10))
            job.wait_until_committed(sent + 10, *workers.values())
            if sent < 30:
                workers.pop(owner(job, set(workers))).process.kill()
        (last,) = workers.values()
        assert last.stop() == 0, last.log
    assert set(job.ids()) == set(map(str, range(40)))


def owner(job: Job, names: set[str]) -> str:
    """The client id of the member with the partition, once these, and no others, are the members of a group at rest."""
    admin = AdminClient({"bootstrap.servers": job.broker.bootstrap})

    def members() -> dict[str, bool]:
        group = admin.describe_consumer_groups([job.group])[job.group].result(10)
        found = {one.client_id: bool(one.assignment.topic_partitions) for one in group.members}
        return found if group.state == ConsumerGroupState.STABLE and set(found) == names else {}

    wait_for(lambda: any(members().values()), "the group at rest", 30, 0.1)
    return next(name for name, owns in members().items() if owns)


def position(answer: Record) -> tuple[int, int]:
    """The partition and offset of the event that this answers."""
    _, partition, offset = (dict(answer.headers)["penstock-source"] or b"").decode().rsplit("/", 2)
    return int(partition), int(offset)
