"""Two streams that are matched, on a real Kafka: workers are killed, and a backlog of one side is no silence."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from penstock.record import Record
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import Broker, committed, create_topics, produce, read_all, wait_for
from penstock.testing.models import linear
from tests.kafka.operating import must_be_signed, penstock
from tests.kafka.running import Job, make_job
from tests.kafka.test_stages import workers_of

pytestmark = pytest.mark.broker

PARTITIONS = 2
TOPOLOGY = """\
topology: doubles
sources:
  orders: {{topic: {source}, schema: order.avsc, id: id, time: at, dead_letter: {dead}}}
  payments: {{topic: {source}.payments, schema: payment.avsc, time: at}}
  paid:
    match: {{left: orders, right: payments, by: {{orders: id, payments: order}}, within: 3s, lateness: 2s, unmatched: keep}}
nodes:
  twice: {{kind: model, model: double@1, inputs: {{x: paid.orders.x}}}}
sinks:
  doubled: {{topic: {sink}, fields: {{id: paid.orders.id, payment: paid.payments.id, y: twice}}}}
"""
AT = {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}}
ORDER = {"type": "record", "name": "Order", "fields": [{"name": "id", "type": "string"}, {"name": "x", "type": "float"}, AT]}
PAYMENT = {"type": "record", "name": "Payment", "fields": [{"name": "id", "type": "string"}, {"name": "order", "type": "string"}, AT]}

Pair = tuple[str, str | None]


@pytest.fixture
def job(broker: Broker, tmp_path: Path) -> Job:
    made = make_job(broker, tmp_path, partitions=PARTITIONS)
    for name, schema in (("order", ORDER), ("payment", PAYMENT)):
        (tmp_path / "schemas" / f"{name}.avsc").write_text(json.dumps(schema))
    must_be_signed(made)
    made.file.write_text(TOPOLOGY.format(source=made.source, sink=made.sink, dead=made.dead))
    done = penstock(made, "topics", "create", str(made.file))
    assert done.code == 0, done.err
    assert "what paid.left remembers" in done.out
    return made


def shop(count: int, begin: int, *, first: int = 0) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Orders, 2 ms apart from `begin` (ms) on, and their payments: none, one in time, two, or one that is too late."""
    chance = random.Random(first)
    orders, payments = [], []
    for number in range(first, first + count):
        at = begin + (number - first) * 2
        orders.append({"id": f"o{number}", "x": float(number), "at": at})
        kind = chance.random()
        delays = [] if kind < 0.2 else [chance.randrange(2900)] if kind < 0.8 else [10, 500] if kind < 0.9 else [3500]
        payments += [{"order": f"o{number}", "at": at + delay} for delay in delays]
    payments = [{"id": f"p{first}.{place}", **one} for place, one in enumerate(payments)]
    return orders, sorted(payments, key=lambda one: one["at"])


def expected(orders: Iterable[dict[str, Any]], payments: Sequence[dict[str, Any]]) -> set[Pair]:
    found: set[Pair] = set()
    for order in orders:
        partners = [one["id"] for one in payments if one["order"] == order["id"] and 0 <= one["at"] - order["at"] <= 3000]
        found |= {(order["id"], one) for one in partners or [None]}
    return found


def send(job: Job, topic: str, events: Iterable[dict[str, Any]], key: str) -> None:
    of = ((one, int(one[key][1:]) % PARTITIONS) for one in events)
    produce(job.broker, [Record(topic, json.dumps(one).encode(), one[key].encode(), partition=number) for one, number in of])


def answers(job: Job) -> Counter[Pair]:
    return Counter((one["id"], one["payment"]) for one in (json.loads(each.value or b"") for each in read_all(job.broker, job.sink)))


def test_a_worker_is_killed_and_every_pair_is_there(job: Job) -> None:
    """Of two partitions, with the payments of each part sent before, after or among its orders. No order that has a payment is alone."""
    orders, payments = list[dict[str, Any]](), list[dict[str, Any]]()
    for at in range(3):
        with job.run(cache=str(job.folder / f"cache-{at}"), max_batch_rows="64", chunk_rows="32", commit_interval="0.5") as worker:
            worker.wait_until_assigned()
            before = sum(answers(job).values())
            some, others = shop(1000, int(time.time() * 1000), first=at * 1000)
            orders, payments = [*orders, *some], [*payments, *others]
            sides = [(job.source, some, "id"), (f"{job.source}.payments", others, "order")]
            for topic, events, key in sides if at % 2 == 0 else sides[::-1]:
                send(job, topic, events, key)
                if at == 2:
                    os.kill(worker.process.pid, signal.SIGKILL)  # between the two sides
            if at < 2:
                wait_for(lambda before=before: sum(answers(job).values()) > before + 300, lambda: worker.log, 60, 0.1)  # type: ignore[misc]
                os.kill(worker.process.pid, signal.SIGKILL)
    wanted = expected(orders, payments)
    with job.run() as worker:
        wait_for(lambda: wanted <= answers(job).keys(), lambda: f"{len(wanted - answers(job).keys())} are missing\n{worker.log}", 60, 0.3)
        assert worker.stop() == 0, worker.log
    assert answers(job).keys() == wanted
    assert not read_all(job.broker, job.dead)


def test_a_backlog_is_no_silence_and_a_quiet_topic_delays_nothing_for_ever(job: Job) -> None:
    """Orders are read first, and by the clock their time is over: none is alone whose payment waits in its topic."""
    begin = int(time.time() * 1000) - 600_000
    orders, payments = shop(2000, begin)
    send(job, job.source, orders, "id")
    send(job, f"{job.source}.payments", payments, "order")
    wanted = expected(orders, payments)
    with job.run(max_batch_rows="64", chunk_rows="32") as worker:
        wait_for(lambda: wanted <= answers(job).keys(), lambda: f"{len(wanted - answers(job).keys())} are missing\n{worker.log}", 60, 0.3)
        assert worker.stop() == 0, worker.log
    assert answers(job) == dict.fromkeys(wanted, 1)
    for alone in (False, True):  # both are explained from the records that they were made from
        one = next(each for each in read_all(job.broker, job.sink) if (json.loads(each.value or b"")["payment"] is None) == alone)
        done = penstock(job, "explain", str(job.file), str(one.position), "--format", "json")
        assert done.code == 0, done.err
        found = json.loads(done.out)
        assert (found["verdict"], found["same_bytes"]) == ("equal", True)
        assert found["input"]["partner" if not alone else "source"].startswith(f"{job.source}.payments:" if not alone else "orders")
    with job.run() as worker:  # what was answered is not answered again
        worker.wait_until_assigned()
        send(job, job.source, [{"id": "o4000", "x": 1.0, "at": begin}], "id")
        wait_for(lambda: ("o4000", None) in answers(job), lambda: worker.log, 30, 0.3)
        assert worker.stop() == 0, worker.log
    assert sum(answers(job).values()) == len(wanted) + 1


def test_two_workers_share_what_waits_and_hand_it_on(job: Job) -> None:
    """Orders are read by one owner of their partition, and their payments by the next: after a stop, and after a kill."""
    orders, payments = list[dict[str, Any]](), list[dict[str, Any]]()

    def more(first: int) -> list[dict[str, Any]]:
        some, others = shop(500, int(time.time() * 1000) + 12_000, first=first)  # nothing is alone before the next owner has its payments
        orders.extend(some)
        payments.extend(others)
        send(job, job.source, some, "id")
        return others

    with job.run() as first:
        first.wait_until_assigned()
        paid = more(0)
        job_committed(job, 500)
        with job.run(client_id="second", cache=str(job.folder / "second")) as second:
            second.wait_until_assigned()
            send(job, f"{job.source}.payments", paid, "order")
            paid = more(500)
            job_committed(job, 1000)
            assert second.stop() == 0, second.log
        send(job, f"{job.source}.payments", paid, "order")
        paid = more(1000)
        job_committed(job, 1500)
        os.kill(first.process.pid, signal.SIGKILL)
    send(job, f"{job.source}.payments", paid, "order")
    wanted = expected(orders, payments)
    with job.run(cache=str(job.folder / "third")) as third:
        wait_for(lambda: wanted <= answers(job).keys(), lambda: f"{len(wanted - answers(job).keys())} are missing\n{third.log}", 60, 0.3)
        assert third.stop() == 0, third.log
    assert answers(job).keys() == wanted


def job_committed(job: Job, count: int) -> None:
    group = f"{job.group}.paid"
    wait_for(lambda: sum(committed(job.broker, group, job.source).values()) == count, f"{count} orders committed", 40, 0.3)


def test_a_release_runs_what_waits(job: Job) -> None:
    """It is proven on pairs that were made before, and then runs orders that came before it, with their payments and without."""
    DirectoryRegistry(job.folder / "models").publish("double", linear([3.0]), version="2")
    with job.run() as worker:
        worker.wait_until_assigned()
        orders, payments = shop(300, int(time.time() * 1000) - 2_000)
        send(job, job.source, orders, "id")
        send(job, f"{job.source}.payments", payments, "order")
        wait_for(lambda: expected(orders, payments) <= answers(job).keys(), lambda: worker.log, 60, 0.3)
        later, paid = shop(200, int(time.time() * 1000) + 12_000, first=1000)
        send(job, job.source, later, "id")
        job_committed(job, 500)
        done = penstock(job, "deploy", str(job.file), "twice=double@2", "--reason", "three times", "--yes")
        assert done.code == 0, done.err
        assert re.search(r"proven on [0-9]+ real rows: 0 of", done.err), "pairs run again with the columns that they had"
        send(job, f"{job.source}.payments", paid, "order")
        wait_for(lambda: expected(later, paid) <= answers(job).keys(), lambda: worker.log, 60, 0.3)
        assert worker.stop() == 0, worker.log
    assert answers(job) == dict.fromkeys(expected([*orders, *later], [*payments, *paid]), 1)
    for record in read_all(job.broker, job.sink):
        answer, headers = json.loads(record.value or b""), dict(record.headers)
        number = int(answer["id"][1:])
        assert answer["y"] == number * (3 if number >= 1000 else 2)
        assert headers["penstock-generation"] == (b"1" if number >= 1000 else b"0")


def test_the_sides_have_as_many_partitions_or_no_worker_starts(job: Job) -> None:
    other = f"{job.source}.more"
    create_topics(job.broker, {other: PARTITIONS + 1, f"{other}.dead-letter": PARTITIONS + 1})
    job.file.write_text(job.file.read_text().replace(f"{job.source}.payments", other))
    assert penstock(job, "topics", "create", str(job.file)).code == 0
    with job.run() as worker:
        assert worker.wait() == 2, worker.log
    assert f"kafka-topics --alter --topic {job.source} --partitions {PARTITIONS + 1}" in worker.errors[0]


def test_a_source_may_feed_a_match_and_sinks(job: Job) -> None:
    """Each in a process of its own, with a group of its own; a file without nodes is a topology as well."""
    text = re.sub(r"nodes:\n  twice: .*\n", "", job.file.read_text()).replace(", y: twice", "")
    job.file.write_text(text + f"  seen: {{topic: {job.sink}.seen, fields: {{id: orders.id}}}}\n")
    assert penstock(job, "topics", "create", str(job.file)).code == 0
    orders, payments = shop(200, int(time.time() * 1000))
    with job.run() as parent:
        wait_for(lambda: len(workers_of(parent)) == 2 or parent.process.poll() is not None, lambda: parent.log, 60)
        assert workers_of(parent).keys() == {"", "paid"}
        send(job, job.source, orders, "id")
        send(job, f"{job.source}.payments", payments, "order")
        wanted = expected(orders, payments)
        wait_for(lambda: wanted <= answers(job).keys(), lambda: parent.log, 60, 0.3)
        wait_for(lambda: len(read_all(job.broker, f"{job.sink}.seen")) == 200, lambda: parent.log, 30, 0.3)
        assert parent.stop(60) == 0, parent.log
