"""A worker that was paused for longer than its session, and goes on as if nothing had happened: it sends nothing of its old partitions.

More rounds by hand: `pytest -s tests/kafka/test_paused.py --rounds 20`; `--code DIR` lets the workers of another version, whose
package is in that folder, play them.
"""

from __future__ import annotations

import random
import re
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from penstock.testing import Broker, committed, end_offsets, wait_for
from penstock.testing import models as onnx_models
from tests.kafka.running import Job, Running, make_job

pytestmark = pytest.mark.broker

BACKLOG = 8_000  # events, so that the worker is busy when it is stopped
EVERY = 0.05  # seconds
EACH = 25  # events, so that 500 come per second
COMMIT = 0.3  # seconds
TURNS = 60_000  # of the slow model's loop: 0.2 s per chunk, so that the worker is stopped in the middle of one


@contextmanager
def steady_input(job: Job) -> Iterator[list[int]]:
    """A backlog, and events at a fixed rate, whatever becomes of the answers. Yields the number of those that were sent, in a list."""
    job.send(range(BACKLOG))
    stop, sent = threading.Event(), [BACKLOG]

    def send() -> None:
        while not stop.wait(EVERY):
            job.send(range(sent[0], sent[0] + EACH))
            sent[0] += EACH

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield sent
    finally:
        stop.set()
        thread.join()


def owned(worker: Running) -> set[int]:
    """The partitions of the worker's last assignment."""
    last = [line for line in worker.log.splitlines() if "assigned " in line][-1]
    return {int(partition) for partition in re.findall(r"/(\d+)@", last)}


def offsets(job: Job) -> dict[int, list[int]]:
    """The events that were answered, by partition, in the order of their answers."""
    found: dict[int, list[int]] = {partition: [] for partition in range(job.partitions)}
    for answer in job.answers():
        _, partition, offset = (dict(answer.headers)["penstock-source"] or b"").decode().rsplit("/", 2)
        found[int(partition)].append(int(offset))
    return found


def settled_ends(job: Job, partitions: set[int]) -> dict[int, int]:
    """The ends of these partitions of the output, once nothing is added to them any more."""
    seen: list[dict[int, int]] = [{}]

    def still() -> bool:
        ends = end_offsets(job.broker, job.sink)
        seen.append({partition: ends[partition] for partition in partitions})
        return seen[-1] == seen[-2]

    wait_for(still, "what the kernel had accepted", 10, 0.1)
    return seen[-1]


def behind(answers: list[int]) -> int:
    """How many answers lie behind a newer one although the first owner's successor had begun: all that follow a second step back."""
    steps, highest, late = 0, -1, 0
    for before, offset in zip([-1, *answers], answers, strict=False):
        if offset <= before:
            steps += 1
        late += steps > 1 and offset <= highest
        highest = max(highest, offset)
    return late


def pause_round(broker: Broker, folder: Path, seed: int, slow: bool, code: Path | None = None) -> dict[str, int]:
    """One worker of two is stopped, replaced and continued. Returns the counts."""
    dice = random.Random(seed)
    job = make_job(broker, folder, model=onnx_models.endless(TURNS) if slow else None)
    # Row by row, so that the worker is in the middle of a group when it is stopped, and would finish and send it when it goes on.
    settings = {"commit_interval": str(COMMIT), "drain_timeout": "5", "chunk_rows": "2048" if slow else "1", "offload_after_ms": "1000"}
    with (
        Running(job, (), settings, code=code) as steady,
        Running(job, (), {**settings, "client_id": "paused"}, code=code) as paused,
    ):
        wait_for(lambda: owned_by(steady, paused) == set(range(job.partitions)), lambda: f"both\n{steady.log}\n{paused.log}", 40)
        with steady_input(job) as sent:
            start = dice.randrange(2000, BACKLOG // 2)
            wait_for(lambda: sum(end_offsets(broker, job.sink).values()) > start, lambda: f"the first answers\n{paused.log}", 40, 0.01)
            lost = owned(paused)
            paused.process.send_signal(signal.SIGSTOP)
            ends = settled_ends(job, lost)
            stored = committed(broker, job.group, job.source)
            taken_over = steady.log.count("assigned ")
            wait_for(lambda: steady.log.count("assigned ") > taken_over, "the steady worker to take over", 40)
            more = BACKLOG + dice.randrange(500, 2000)
            wait_for(lambda: sum(end_offsets(broker, job.sink).values()) > more, "the pause to last", 90)
            again = paused.log.count("assigned ")
            paused.process.send_signal(signal.SIGCONT)
            wait_for(lambda: paused.log.count("assigned ") > again, lambda: f"the paused worker to come back\n{paused.log}", 40)
        total = sent[0]
        job.wait_until_committed(total, steady, paused)
        assert steady.stop() == 0, steady.log
        assert paused.stop() == 0, paused.log
    answers = offsets(job)
    first = {partition: answers[partition][: ends[partition]] for partition in lost}
    return {
        "seed": seed,
        "sent": total,
        "lost": total - sum(len(set(those)) for those in answers.values()),
        "doubled": sum(times - 1 for those in answers.values() for times in Counter(those).values()),
        "bound": sum(offset >= stored[partition] for partition, those in first.items() for offset in those),
        "behind": sum(map(behind, answers.values())),
    }


def owned_by(*workers: Running) -> set[int]:
    if not all("assigned " in worker.log for worker in workers):
        return set()
    first, second = map(owned, workers)
    return first | second if first and second and not first & second else set()


@pytest.mark.parametrize("slow", [False, True])
def test_a_paused_worker_doubles_no_more_than_it_had_not_committed(
    broker: Broker, tmp_path: Path, seed: int, slow: bool, request: pytest.FixtureRequest
) -> None:
    """What it had answered and not committed when it was stopped is answered again; nothing else, and never behind a newer answer."""
    counts = pause_round(broker, tmp_path, seed, slow, request.config.getoption("--code"))
    print("\n" + "  ".join(f"{name} {value}" for name, value in counts.items()))
    assert not counts["lost"]
    assert counts["doubled"] <= counts["bound"]
    assert not counts["behind"]
