"""One round: workers score a load while something fails; then everything heals, the rest is scored, and the account is drawn up.

A round is made from its scenario and its seed alone: which worker, which broker, how long and when. The number of doubles that it may
have is computed from what failed: an ended or expelled worker repeats what it had not committed, which is
`rate x (commit interval + time without a coordinator)`, and the batches under way, one per partition, which at a steady load are what
arrives in a turn (`TURN_S`, which allows for a busy host). docs/decisions/0001 has the guarantee.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from signal import SIGCONT, SIGSTOP
from types import TracebackType
from typing import NamedTuple, Self

from confluent_kafka import ConsumerGroupState, KafkaException
from confluent_kafka.admin import AdminClient

from penstock.testing import committed, end_offsets, wait_for
from tests.faults.checker import Verdict, judge
from tests.faults.cluster import Cluster
from tests.faults.ledger import Ledger, outputs, source_events
from tests.kafka.operating import configure
from tests.kafka.running import Job, Running, make_job

__all__ = ["Account", "Round", "Scenario", "play"]

WORKERS = 2
RATE = 1000  # events per second
COMMIT_S = 0.5
SESSION_S = 6.0
TURN_S = 1.0
DRAINED_S = 120.0
SHOWN = 5


class Scenario(NamedTuple):
    """What fails, on how many brokers, with which settings of the workers."""

    name: str
    brokers: int
    act: Callable[[Round], None]
    settings: Mapping[str, str] = {}


@dataclass
class Account:
    """What became of a round."""

    scenario: str
    seed: int
    sent: int = 0
    answers: int = 0
    letters: int = 0
    verdict: Verdict = field(default_factory=Verdict)
    bound: int = 0
    acts: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)  # what else was not as it should be, such as exit codes
    seconds: float = 0.0

    @property
    def problems(self) -> list[str]:
        found = [f"{len(ids)} {kind}, the first: {', '.join(map(str, ids[:SHOWN]))}" for kind, ids in self.verdict.wrong.items()]
        if len(doubled := self.verdict.doubled) > self.bound:
            found.append(f"{len(doubled)} doubled of at most {self.bound}, the first: {', '.join(map(str, doubled[:SHOWN]))}")
        return [*found, *self.complaints]

    def __str__(self) -> str:
        counts = f"{self.sent} events, {self.answers} answers, {self.letters} dead letters"
        return (
            f"{self.scenario}, seed {self.seed}: {counts}, {len(self.verdict.lost)} lost, "
            f"{len(self.verdict.doubled)} doubled of at most {self.bound}, {self.seconds:.0f} s; " + "; ".join(self.acts)
        )


class Round:
    """A job with its workers and its load, and everything that can be done to them. Workers end on leaving the `with` block."""

    def __init__(self, scenario: Scenario, cluster: Cluster, folder: Path, seed: int) -> None:
        self.cluster, self.chance = cluster, Random(f"{scenario.name} {seed}")
        self.job: Job = make_job(cluster, folder)
        configure(self.job, unsigned_control=True)
        self.factors = {"double@1": 2.0}  # what each version computes
        self.account = Account(scenario.name, seed)
        self.ledger = Ledger(self.job, cluster, RATE, seed)
        self._settings = {
            "commit_interval": str(COMMIT_S), "session_timeout": str(SESSION_S), "drain_timeout": "10", "unsigned_control": "true",
            **scenario.settings,
        }  # fmt: skip
        self._workers: list[Running | None] = [None] * WORKERS
        self._logs: list[str] = []
        self._stack = ExitStack()
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    # -- acts ------------------------------------------------------------------------------------------------------

    def flow(self, low: float, high: float | None = None) -> None:
        """Lets events flow for so many seconds; with `high`, a random time between the two."""
        self.ledger.wait_for(low if high is None else self.chance.uniform(low, high))

    def note(self, act: str) -> None:
        self.account.acts.append(f"{time.monotonic() - self._began:.1f} s {act}")

    def exposes(self, seconds: float = 0.0) -> None:
        """A worker may have to repeat what it has not committed, after `seconds` in which no commit was possible."""
        self.account.bound += int(RATE * (seconds + COMMIT_S + TURN_S))

    @contextmanager
    def without_coordinator(self) -> Iterator[None]:
        """Inside, brokers fail. Until one of them answers for the group again, workers can commit nothing."""
        began = time.monotonic()
        yield
        self.cluster.wait_until_coordinated(self.job.group, self.job.source)
        self.exposes(time.monotonic() - began)

    def any_worker(self) -> int:
        return self.chance.randrange(WORKERS)

    def worker(self, slot: int) -> Running:
        found = self._workers[slot]
        assert found is not None, f"worker {slot + 1} does not run"
        return found

    def start(self, *slots: int) -> None:
        for slot in slots:
            worker = self.job.run(client_id=f"worker-{slot + 1}", **self._settings)
            self._logs.append(f"worker {slot + 1}: {worker.log_file}")
            self._workers[slot] = self._stack.enter_context(worker)
        for slot in slots:
            self.worker(slot).wait_until_assigned(60)

    def kill(self, slot: int) -> None:
        self.note(f"worker {slot + 1} killed")
        self._forget(slot).process.kill()
        self.exposes()

    def stop(self, slot: int) -> None:
        """SIGTERM; it ends with 0, and leaves nothing to repeat."""
        if code := self._forget(slot).stop(60):
            self.complain(f"worker {slot + 1} ended with {code} on SIGTERM")

    def pause(self, slot: int) -> None:
        self.note(f"worker {slot + 1} paused")
        self.worker(slot).process.send_signal(SIGSTOP)

    def resume(self, slot: int) -> None:
        self.note(f"worker {slot + 1} resumed")
        self.worker(slot).process.send_signal(SIGCONT)
        self.exposes()

    def lose_workers(self, code: int, within: float) -> None:
        """Waits until every worker has ended by itself, with this code and within so many seconds."""
        deadline = time.monotonic() + within
        for slot in range(WORKERS):
            worker = self._forget(slot)
            found = worker.wait(60 + within)
            self.note(f"worker {slot + 1} ended with {found}")
            if (late := time.monotonic() - deadline) > 0:
                self.complain(f"worker {slot + 1} ended {late:.1f} s later than {within:g} s after the fault")
            if found != code:
                self.complain(f"worker {slot + 1} ended with {found} instead of {code}")

    def down(self, *ids: int) -> None:
        """Kill -9 of brokers."""
        for id in ids:
            self.note(f"broker {id} killed")
            self.cluster.down(id)

    def up(self, *ids: int) -> None:
        """Returns when they answer and all copies are in sync."""
        for id in ids:
            self.cluster.up(id)
            self.note(f"broker {id} up")
        self.cluster.heal()

    def complain(self, complaint: str) -> None:
        self.account.complaints.append(complaint)

    def settle(self) -> None:
        """Until all workers are in the group and have caught up, so that what fails next is counted for itself."""
        wait_for(
            lambda: self._members() == WORKERS and self._lag() < 2 * RATE,
            lambda: f"the group to settle, {self._members()} stable members, lag {self._lag()}",
            DRAINED_S,
            0.2,
        )

    # -- the end ---------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Everything runs again; a worker that ended by itself is one complaint."""
        self.cluster.heal()
        for slot, worker in enumerate(self._workers):
            if worker is None or worker.process.poll() is not None:
                if worker is not None:
                    self.complain(f"worker {slot + 1} ended by itself with {worker.process.returncode}")
                self.start(slot)

    def drain(self) -> None:
        self.ledger.settle()
        wait_for(lambda: self._lag() == 0, lambda: f"everything committed, {self._lag()} are not", DRAINED_S, 0.2)
        for slot in range(WORKERS):
            self.stop(slot)

    def close(self) -> Account:
        events = source_events(self.ledger)
        found = outputs(self.job)
        account = self.account
        account.verdict = judge(events, found, self.factors)
        account.sent, account.letters = len(events), sum(one.letter for one in found)
        account.answers = len(found) - account.letters
        account.seconds = time.monotonic() - self._began
        return account

    @property
    def logs(self) -> str:
        return "\n".join(self._logs)

    def _forget(self, slot: int) -> Running:
        worker, self._workers[slot] = self.worker(slot), None
        return worker

    def _lag(self) -> int:
        ends = end_offsets(self.cluster, self.job.source)
        done = committed(self.cluster, self.job.group, self.job.source)
        return sum(end - done[partition] for partition, end in ends.items())

    def _members(self) -> int:
        """The members of the group; 0 while it rebalances. A new client: one that has seen a broker fail may not find it again."""
        groups = AdminClient({"bootstrap.servers": self.cluster.bootstrap, "log_level": 2})
        try:
            found = groups.describe_consumer_groups([self.job.group], request_timeout=5)[self.job.group].result()
        except KafkaException:
            return 0
        return len(found.members) if found.state is ConsumerGroupState.STABLE else 0


def play(scenario: Scenario, cluster: Cluster, folder: Path, seed: int) -> Account:
    """Plays a round. Raises AssertionError, with what was done and where the logs are, when it does not come to its end."""
    cluster.heal()
    with Round(scenario, cluster, folder, seed) as it:
        try:
            it.start(*range(WORKERS))
            with it.ledger.flowing():
                it.flow(1, 3)
                scenario.act(it)
                it.flow(1)
            it.heal()
            it.drain()
            return it.close()
        except (AssertionError, KafkaException) as error:
            raise AssertionError(f"{it.account}\n{error}\n{it.logs}") from error
