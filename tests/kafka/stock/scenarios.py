"""What goes wrong in production, as short plays for one or two workers, and the account of each at its end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import ConsumerGroupState, Producer
from confluent_kafka.admin import AdminClient

from penstock.record import Record
from penstock.testing.broker import Broker
from penstock.testing.topics import committed, end_offsets, produce, read_all, wait_for
from tests.kafka.stock.workers import Implementation, Lane, Worker, make_lane

__all__ = ["SCENARIOS", "Outcome", "Play", "Stage", "staged"]

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the events. All empty and false: as it should be."""

    lost: tuple[int, ...] = ()  # ids before the committed offset that are neither answered nor dead letters
    aborted: tuple[int, ...] = ()  # ids answered though their producer had taken them back
    doubled: tuple[int, ...] = ()  # ids answered twice without a mark by which a reader could tell
    stalled: bool = False  # work was there, a worker was there, and nothing happened
    swollen: bool = False  # took in far more than it could work on
    gone: tuple[str, ...] = ()  # workers that ended of their own accord


class Stage:
    """A lane with its workers, for one play."""

    def __init__(self, implementation: Implementation, lane: Lane) -> None:
        self.implementation = implementation
        self.lane = lane
        self.workers: dict[str, Worker] = {}
        self._ids = 0
        self._admin = AdminClient({"bootstrap.servers": lane.broker.bootstrap})

    # -- acts ---------------------------------------------------------------------------------------------------

    def start(self, name: str = "a", **options: Any) -> Worker:
        """A worker, ready: it is in the group, and the group has settled."""
        self.workers[name] = worker = self.implementation.start(self.lane, name, **options)
        self._until(lambda: not worker.running or (name in self.members() and self._stable()), f"worker {name} in the group", 30)
        assert worker.running, f"worker {name} ended at once:\n{worker.log[-3000:]}"
        return worker

    def send(self, *fates: str, partition: int = 0, text: str = "") -> list[int]:
        """One event a fate; their ids."""
        ids = [*range(self._ids, self._ids + len(fates))]
        self._ids += len(fates)
        produce(self.lane.broker, [self.event(number, fate, partition, text) for number, fate in zip(ids, fates, strict=True)])
        return ids

    def event(self, number: int, fate: str = "ok", partition: int = 0, text: str = "") -> Record:
        value = json.dumps({"id": number, "fate": fate, "text": text}).encode()
        return Record(self.lane.name, value, str(number).encode(), partition=partition)

    def send_slow(self, worker: str, partition: int = 0) -> int:
        """An event of the fate `slow`; returns when the worker is at it."""
        since = self.workers[worker].computed
        (number,) = self.send("slow", partition=partition)
        self._until(lambda: self.implementation.is_busy(self.workers[worker], since), f"{worker} at work on the slow event", 15)
        return number

    def close(self) -> None:
        for worker in self.workers.values():
            worker.kill()

    # -- what can be seen ---------------------------------------------------------------------------------------

    def answers(self) -> list[int]:
        return [json.loads(record.value or b"")["id"] for record in read_all(self.lane.broker, self.lane.sink)]

    def committed(self) -> dict[int, int]:
        return committed(self.lane.broker, self.implementation.group(self.lane), self.lane.name)

    def all_committed(self) -> bool:
        return self.committed() == end_offsets(self.lane.broker, self.lane.name)

    def members(self) -> dict[str, set[int]]:
        """The group's members by name, with their partitions of the source."""
        return {member.client_id: _partitions(member, self.lane.name) for member in self._describe().members}

    def wait_answered(self, ids: Iterable[int], timeout: float = 20) -> None:
        wanted = set(ids)
        self._until(lambda: wanted <= set(self.answers()), f"answers to {len(wanted)} events", timeout)

    def comes_about(self, condition: Callable[[], bool], within: float) -> bool:
        """Whether it happens in time; a play goes on either way."""
        try:
            wait_for(condition, "it", within, 0.1)
        except AssertionError:
            return False
        return True

    def account(self, **seen: bool) -> Outcome:
        """Compares what was sent with what was answered, dead, and committed."""
        upto = self.committed()  # first: a worker may still be at work, and what it commits from now on is not judged
        answers = read_all(self.lane.broker, self.lane.sink)
        answered = Counter(_id(record) for record in answers)
        done = {*answered, *(_id(record) for record in read_all(self.lane.broker, self.lane.dead))}
        sent = read_all(self.lane.broker, self.lane.name)
        gone = {_id(record) for record in sent if record.offset < upto[record.partition]} - done
        marked = {_id(record) for record in answers if "penstock-source" in dict(record.headers)}
        return Outcome(
            lost=tuple(sorted(gone)),
            aborted=tuple(sorted(done - {_id(record) for record in sent})),
            doubled=tuple(sorted(number for number, times in answered.items() if times > 1 and number not in marked)),
            gone=tuple(name for name, worker in self.workers.items() if not worker.running and not worker.dismissed),
            **seen,
        )

    def _describe(self) -> Any:
        group = self.implementation.group(self.lane)
        return self._admin.describe_consumer_groups([group])[group].result(10)

    def _stable(self) -> bool:
        return bool(self._describe().state == ConsumerGroupState.STABLE)

    def _until(self, condition: Callable[[], bool], what: str, timeout: float) -> None:
        try:
            wait_for(condition, what, timeout, 0.1)
        except AssertionError as late:
            logs = "\n".join(f"--- {name}\n{worker.log[-3000:]}" for name, worker in self.workers.items())
            raise AssertionError(f"{late}\n{logs}") from None


def _id(record: Record) -> int:
    return int(json.loads(record.value or b"")["id"])


def _partitions(member: Any, topic: str) -> set[int]:
    return {at.partition for at in member.assignment.topic_partitions if at.topic == topic}


@contextmanager
def staged(implementation: Implementation, broker: Broker, folder: Path, partitions: int = 1, **lane: Any) -> Iterator[Stage]:
    """A stage on a lane of its own; its workers are killed at the end."""
    stage = Stage(implementation, make_lane(broker, folder, partitions, **lane))
    try:
        yield stage
    finally:
        stage.close()


def slow_head_and_kill(implementation: Implementation, broker: Broker, folder: Path) -> Outcome:
    """L1: an event takes long, others behind it are done, the worker dies, and another goes on from the committed offset."""
    with staged(implementation, broker, folder) as stage:
        stage.start("a", slow="for ever", concurrency=4)
        stage.wait_answered(stage.send(*["ok"] * 20))
        stage.comes_about(stage.all_committed, 5)
        stage.send_slow("a")
        stage.send(*["ok"] * 20)
        stage.comes_about(stage.all_committed, 1.5)
        stage.workers["a"].kill()
        stage.start("b")
        return stage.account(stalled=not stage.comes_about(stage.all_committed, 10))


def refused_answers(implementation: Implementation, broker: Broker, folder: Path) -> Outcome:
    """L4: the broker refuses one answer of ten, for its size."""
    with staged(implementation, broker, folder, answer_bytes=1000) as stage:
        worker = stage.start()
        produce(broker, [stage.event(number, text="x" * 5000 if number % 10 == 9 else "") for number in range(100)])
        over = stage.comes_about(lambda: stage.all_committed() or not worker.running, 15)  # to stop is right, too
        return stage.account(stalled=not over)


def poison(implementation: Implementation, broker: Broker, folder: Path) -> Outcome:
    """L5: the model raises for one event among others."""
    with staged(implementation, broker, folder) as stage:
        stage.start()
        stage.send(*["ok"] * 20, "poison", *["ok"] * 20)
        return stage.account(stalled=not stage.comes_about(stage.all_committed, 20))


def stopped_at_work(implementation: Implementation, broker: Broker, folder: Path) -> Outcome:
    """L6: SIGTERM arrives while an event is under work."""
    with staged(implementation, broker, folder) as stage:
        worker = stage.start(slow="some seconds", drains=False)
        stage.wait_answered(stage.send(*["ok"] * 10))
        stage.send_slow("a")
        worker.stop(60)
        return stage.account()


def answers_to_foreign_partitions(implementation: Implementation, broker: Broker, folder: Path) -> Outcome:
    """L7: an answer goes to a partition that another worker owns; for stock Faust, under exactly_once."""
    with staged(implementation, broker, folder, 2) as stage:
        settings = {"guarantee": "exactly_once", "reads_its_output": True, "rekeyed": True}
        stage.start("a", **settings)
        stage.start("b", **settings)
        stage.send(*["ok"] * 5, "cross", *["ok"] * 5, text="some key")
        stage.send(*["ok"] * 5, partition=1, text="some other key")
        over = stage.comes_about(lambda: sum(stage.committed().values()) >= 16, 20)  # transaction markers stay behind the last event
        return stage.account(stalled=not over)


def upstream_takes_back(implementation: Implementation, broker: Broker, folder: Path) -> Outcome:
    """D7: the producer's first transaction has one event, the second is aborted, the third has fifty. Commits must pass the markers."""
    with staged(implementation, broker, folder) as stage:
        stage.start()
        producer = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": stage.lane.name})
        producer.init_transactions()
        keep = producer.commit_transaction
        for ids, end in (([0], keep), ([1000, 1001, 1002], producer.abort_transaction), ([*range(1, 51)], keep)):
            producer.begin_transaction()
            for number in ids:
                sent = stage.event(number)
                producer.produce(sent.topic, sent.value, sent.key, sent.partition)
            producer.flush()
            end()
        stage.wait_answered(range(51))
        last = max(record.offset for record in read_all(broker, stage.lane.name))
        moved_on = stage.comes_about(lambda: stage.committed()[0] > last, 4)
        return stage.account(stalled=not moved_on)


def killed_between_commits(implementation: Implementation, broker: Broker, folder: Path) -> Outcome:
    """D9: one of two workers dies when it has answered events that it has not committed."""
    with staged(implementation, broker, folder, 2) as stage:
        stage.start("a", commit_interval=2.8)
        stage.start("b", commit_interval=2.8)
        ids = stage.send(*["ok"] * 500, partition=0) + stage.send(*["ok"] * 500, partition=1)
        victim = next(name for name, partitions in stage.members().items() if 1 in partitions)
        stage.comes_about(lambda: len(stage.answers()) > 700, 15)
        stage.workers[victim].kill()
        stage.wait_answered(ids, 30)
        return stage.account(stalled=not stage.comes_about(stage.all_committed, 10))


def spare_takes_over(implementation: Implementation, broker: Broker, folder: Path) -> Outcome:
    """S2: a worker without partitions idles beyond the poll interval; then the owner dies."""
    with staged(implementation, broker, folder) as stage:
        stage.start("a", max_poll_interval=4.0)
        stage.start("b", max_poll_interval=4.0)
        stage.wait_answered(stage.send(*["ok"] * 10))
        owner = next(name for name, partitions in stage.members().items() if partitions)
        stage.comes_about(lambda: len(stage.members()) == 1, 6)
        stage.workers[owner].kill()
        ids = stage.send(*["ok"] * 10)
        taken_over = stage.comes_about(lambda: set(ids) <= set(stage.answers()), 20)
        return stage.account(stalled=not taken_over)


def newcomer_beside_a_slow_event(implementation: Implementation, broker: Broker, folder: Path) -> Outcome:
    """S5: a second worker joins while the first is at a slow event; the other partition must not wait for that."""
    with staged(implementation, broker, folder, 2) as stage:
        stage.start("a", slow="for ever")
        stage.send_slow("a", partition=0)
        (quick,) = stage.send("ok", partition=1)
        stage.workers["b"] = implementation.start(stage.lane, "b", slow="at once")
        served = stage.comes_about(lambda: quick in stage.answers(), 8)
        return stage.account(stalled=not served)


def backlog_behind_a_stuck_model(implementation: Implementation, broker: Broker, folder: Path) -> Outcome:
    """S13: 160 MiB wait behind events that take long."""
    with staged(implementation, broker, folder) as stage:
        worker = stage.start("a", slow="for ever")
        stage.send_slow("a")
        before = worker.memory
        stage.send(*["slow"] * 8)  # where a run has a deadline, one slow event would not hold it up for long
        stage.send(*["ok"] * 1600, text="x" * (MIB // 10))
        swollen = stage.comes_about(lambda: worker.memory > before + 100 * MIB, 5)
        return stage.account(swollen=swollen)


Play = Callable[[Implementation, Broker, Path], Outcome]

# Each play, and in what the account of stock Faust differs from an empty one.
SCENARIOS: Sequence[tuple[Play, frozenset[str]]] = (
    (slow_head_and_kill, frozenset({"lost"})),
    (refused_answers, frozenset({"lost"})),
    (poison, frozenset({"lost"})),
    (stopped_at_work, frozenset({"lost"})),
    (answers_to_foreign_partitions, frozenset({"lost"})),
    (upstream_takes_back, frozenset({"aborted"})),
    (killed_between_commits, frozenset({"doubled"})),
    (spare_takes_over, frozenset({"stalled"})),
    (newcomer_beside_a_slow_event, frozenset({"stalled"})),
    (backlog_behind_a_stuck_model, frozenset({"swollen"})),
)
