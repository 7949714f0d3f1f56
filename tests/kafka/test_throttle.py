"""A flood of records that fail, with `dead_letter_rate`: its partition is slowed, and nothing else."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from penstock.record import Record
from penstock.testing import Broker, produce, read_all, wait_for
from tests.kafka.operating import configure, penstock, status, wait_until, wait_until_ready
from tests.kafka.running import Job, make_job
from tests.raw import batch, inner, now_ms, produce_raw

pytestmark = [pytest.mark.broker, pytest.mark.measured]

RATE, GROUP, FLOOD = 20.0, 50, 3000
SLOW = {
    "dead_letter_rate": str(RATE),
    "max_batch_rows": str(GROUP),
    "chunk_rows": str(GROUP),
    "unsigned_control": "true",
    "status_interval": "0.5",
}


@pytest.fixture
def job(broker: Broker, tmp_path: Path) -> Job:
    made = make_job(broker, tmp_path, partitions=2)
    configure(made, unsigned_control=True)
    return made


def letters(job: Job) -> list[Record]:
    return read_all(job.broker, job.dead)


def places(job: Job) -> Mapping[str, Any]:
    return {name: place for one in status(job)["workers"] for name, place in one.get("partitions", {}).items()}


def test_backlog_of_a_slowed_partition_grows_with_what_is_sent(job: Job) -> None:
    """Also while it waits for minutes, in which nothing of it is fetched."""
    sent = 0

    def send(count: int) -> None:
        nonlocal sent
        produce(job.broker, [Record(job.source, b"{", partition=0) for _ in range(count)])
        sent += count

    def known(told: Mapping[str, Any]) -> bool:
        place = told.get("partitions", {}).get(f"{job.source}/0")
        return bool(place) and place["slowed"] and place["position"] + place["lag"] == sent

    send(200)
    with job.run(**{**SLOW, "dead_letter_rate": "0.1", "broker_timeout": "8"}) as worker:
        for _ in range(3):
            wait_until(job, worker, f"the end of the slowed partition, {sent}", known)
            send(100)
        assert len(letters(job)) <= 4 * GROUP, "it was slowed all the time"


def test_flood_is_slowed_to_the_rate_and_the_neighbours_keep_their_pace(job: Job) -> None:
    """Counted against the time since the worker started: at most the rate, a burst of a second, and the group under way."""
    produce(job.broker, [Record(job.source, b"{", partition=0) for _ in range(FLOOD)])
    began = time.monotonic()
    with job.run(**SLOW) as worker:

        def within_the_rate() -> int:
            count = len(letters(job))
            assert count <= RATE * (time.monotonic() - began) + RATE + GROUP, worker.log
            return count

        job.send(range(1, 2001, 2))
        job.wait_for_answers(1000)
        assert within_the_rate() < FLOOD, "the neighbour did not wait for the end of the flood"
        wait_until(job, worker, "a partition that is slowed", lambda told: told["partitions"].get(f"{job.source}/0", {}).get("slowed"))
        done = penstock(job, "status", job.topology)
        assert done.code == 1
        assert f"{job.source}/0 slowed to dead_letter_rate" in done.out
        assert places(job)[f"{job.source}/1"]["slowed"] is False
        seen = within_the_rate()
        wait_for(lambda: within_the_rate() >= seen + 2 * RATE, "more dead letters: slowed is not stopped", 30, 0.2)
        with job.run(**SLOW) as other:  # a rebalance is not held up
            wait_until_ready(job, worker, other)
            job.send(range(2001, 2201, 2))
            job.wait_for_answers(1100)
            assert other.stop() == 0
        job.send(range(2201, 2401, 2))
        job.wait_for_answers(1200)
        assert len(letters(job)) < FLOOD
        assert worker.stop() == 0
        assert "no progress" not in worker.log
    offsets = [int(dict(one.headers)["__streams.errors.offset"] or b"") for one in letters(job)]
    assert offsets == sorted(offsets)
    assert set(offsets) == set(range(len(set(offsets))))
    assert len(offsets) - len(set(offsets)) <= 2 * GROUP, "doubled where a partition moved"
    assert sorted(int(json.loads(one.value or b"")["id"]) for one in job.answers()) == [*range(1, 2401, 2)]


def test_of_many_small_batches_no_more_records_are_taken_than_the_budget_lasts_for(job: Job) -> None:
    """Each compressed batch is a piece of its own to the reader. After the first group, which nothing was known before, lumps are small."""
    rate, group, each = 50, 400, 5
    for _ in range(1000 // each):
        assert produce_raw(job.broker, job.source, batch([inner(at, None, b"{") for at in range(each)], 4, first=now_ms())) == 0
    with job.run(**{**SLOW, "dead_letter_rate": str(rate), "max_batch_rows": str(group), "chunk_rows": str(group)}) as worker:
        wait_for(lambda: len(letters(job)) > group + 2 * rate, lambda: f"letters after the first group\n{worker.log}", 40, 0.2)
        assert worker.stop() == 0
    found = re.search(r"records_in=(\d+) .* batches=(\d+) ", worker.log)
    assert found, worker.log
    records, batches = map(int, found.groups())
    assert records - group <= (batches - 1) * rate, worker.log[-500:]
