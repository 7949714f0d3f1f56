"""What fails in the rounds. Every load has bad records among its events, so these meet every fault."""

from __future__ import annotations

from collections.abc import Sequence

from tests.faults.rounds import SESSION_S, WORKERS, Round, Scenario
from tests.kafka.operating import Command, push

__all__ = ["ALONE", "SEVERAL"]

BROKER_TIMEOUT_S = 6.0
GIVING_UP_S = 2.0  # a worker ends within this time of `broker_timeout`


def worker_killed(it: Round) -> None:
    slot = it.any_worker()
    it.kill(slot)
    it.flow(0.5, 3)
    it.start(slot)


def worker_stopped(it: Round) -> None:
    slot = it.any_worker()
    it.note(f"worker {slot + 1} stopped")
    it.stop(slot)
    it.flow(0.5, 2)
    it.start(slot)


def worker_paused(it: Round) -> None:
    """For longer than the session timeout, so that the other one takes its partitions over; then it wakes up with old work in its hands."""
    slot = it.any_worker()
    it.pause(slot)
    it.flow(SESSION_S * 1.3, SESSION_S * 2)
    it.resume(slot)
    it.flow(2)


def broker_killed(it: Round) -> None:
    with it.without_coordinator():
        it.down(1)
        it.flow(1, 5)
        it.up(1)
    it.flow(2)


def broker_paused(it: Round) -> None:
    with it.without_coordinator():
        it.note("broker 1 paused")
        it.cluster.freeze(1)
        it.flow(2, 8)
        it.cluster.thaw(1)
        it.note("broker 1 resumed")
    it.cluster.heal()
    it.flow(2)


def broker_away(it: Round) -> None:
    """For longer than the workers wait: they end, and those that are started afterwards lose nothing."""
    with it.without_coordinator():
        it.down(1)
        it.lose_workers(4, BROKER_TIMEOUT_S + GIVING_UP_S)
        it.up(1)
    it.start(*range(WORKERS))


def model_swapped(it: Round) -> None:
    """A worker dies somewhere between the release and the switch. A release that fails for it is made once more."""
    slot = it.any_worker()
    factor = 2.0 + len(it.factors)
    version = push(it.job, factor)
    it.factors[version.removeprefix("models:/").replace("/", "@")] = factor
    with Command(it.job, "deploy", it.job.topology, f"double={version}") as deploy:
        it.flow(0.2, 2.5)
        it.kill(slot)
        it.flow(0.5, 1)
        it.start(slot)
        code = deploy.process.wait(150)
        it.note(f"deploy of {version} ended with {code}")
        if code:
            it.settle()
            with Command(it.job, "deploy", it.job.topology, f"double={version}") as again:
                if again.process.wait(150):
                    it.complain(f"deploy failed with every worker up: {again.said}")
    it.flow(1)


def leader_killed(it: Round) -> None:
    topic = it.chance.choice([it.job.source, it.job.sink])
    _one_down(it, it.cluster.leader(topic, it.chance.randrange(it.job.partitions)))


def coordinator_killed(it: Round) -> None:
    _one_down(it, it.cluster.coordinator(it.job.group))


def brokers_rolled(it: Round) -> None:
    """Each is killed and comes back, one after the other."""
    for id in it.chance.sample(range(1, it.cluster.size + 1), it.cluster.size):
        _one_down(it, id)


def bootstrap_forgotten(it: Round) -> None:
    """Two of three are killed and come back; then the third one, which is all that a client knew of in between."""
    last, *others = it.chance.sample(range(1, it.cluster.size + 1), it.cluster.size)
    with it.without_coordinator():
        it.down(*others)
        it.flow(4, 7)
        it.up(*others)
    _one_down(it, last)


def broker_and_worker(it: Round) -> None:
    """A broker is killed and a worker paused at once."""
    slot = it.any_worker()
    it.pause(slot)
    id = it.cluster.leader(it.job.sink, it.chance.randrange(it.job.partitions))
    with it.without_coordinator():
        it.down(id)
    it.flow(SESSION_S * 1.3, SESSION_S * 2)
    it.up(id)
    it.resume(slot)
    it.flow(2)


def _one_down(it: Round, id: int) -> None:
    with it.without_coordinator():
        it.down(id)
    it.flow(2, 4)
    it.up(id)
    it.flow(1)


def _in_turn(name: str, *acts: Scenario) -> Scenario:
    """All of them, in a random order."""

    def act(it: Round) -> None:
        for one in it.chance.sample(acts, len(acts)):
            it.note(f"- {one.name} -")
            one.act(it)
            it.settle()

    return Scenario(name, acts[0].brokers, act)


_ONE = (
    Scenario("worker killed", 1, worker_killed),
    Scenario("worker stopped", 1, worker_stopped),
    Scenario("worker paused", 1, worker_paused),
    Scenario("broker killed", 1, broker_killed),
    Scenario("broker paused", 1, broker_paused),
    Scenario("model swapped", 1, model_swapped),
)
_AWAY = Scenario("broker away", 1, broker_away, {"broker_timeout": str(BROKER_TIMEOUT_S)})
_THREE = (
    Scenario("leader killed", 3, leader_killed),
    Scenario("coordinator killed", 3, coordinator_killed),
    Scenario("brokers rolled", 3, brokers_rolled),
    Scenario("bootstrap forgotten", 3, bootstrap_forgotten),
    Scenario("broker and worker", 3, broker_and_worker),
)

ALONE: Sequence[Scenario] = (*_ONE, _AWAY, *_THREE)
SEVERAL: Sequence[Scenario] = (
    _in_turn("several on one broker", *_ONE),
    _in_turn("several on three", *_THREE[2:]),  # to roll the brokers kills a leader and the coordinator, too
)
