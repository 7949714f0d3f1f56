"""The rules of `cases`, one by one; tests/properties/test_cases.py has them under every order of events."""

from __future__ import annotations

from penstock.control.cases import AGAIN, READY_AT_ONCE, REPORTED, Cases, End, Now, Prepare, Retry, Scoring, Switch, Warn, behind, reconcile
from penstock.control.lifecycle import State
from penstock.control.log import Log
from penstock.control.messages import Message, parse
from penstock.control.rights import Admitted
from tests.unit.control.making import abort, activate, entry, id_of, release


class Worker:
    """Folds what is said, and carries out what follows; preparations end when the test says so."""

    def __init__(self) -> None:
        self.log = Log(lambda one: Admitted(parse(one.value or b"")))
        self.cases, self.scoring, self.seconds = Cases(), Scoring(0), 0.0
        self.prepared: list[str] = []  # in the order in which preparations were begun
        self.retries: list[float] = []
        self.ends: list[End] = []
        self.problems: dict[str, str] = {}

    def now(self) -> Now:
        return Now(self.seconds, f"{self.seconds:g} s")

    def hear(self, *messages: Message) -> None:
        for message in messages:
            self.log.apply(entry(self.log.position, message))
        self.decide()

    def decide(self) -> None:
        self.cases, effects = reconcile(self.log, self.cases, self.scoring, self.now())
        for effect in effects:
            match effect:
                case Prepare(release):
                    self.prepared.append(release.id)
                case Switch(release, generation):
                    self.scoring = Scoring(generation, release.id, self.scoring.release)
                case Retry(at):
                    self.retries.append(at)
                case End():
                    self.ends.append(effect)
                case Warn(about, what):
                    self.problems[about] = what

    def well(self) -> None:
        self.cases = self.cases.ready(self.cases.preparing, self.now())
        self.decide()

    def badly(self, why: str = "does not load") -> None:
        self.cases = self.cases.failed(self.cases.preparing, why, self.now())
        self.decide()

    def state(self, number: int) -> State | None:
        case = self.cases.known.get(id_of(number))
        return case.state if case else None

    def deploy(self, number: int) -> None:
        self.hear(release(number, self.log.generation))
        self.well()
        self.hear(activate(number))


def test_a_release_is_prepared_when_it_is_announced_and_serves_when_it_is_activated() -> None:
    worker = Worker()
    worker.hear(release(1))
    worker.well()
    assert (worker.state(1), worker.scoring) == (State.READY, Scoring(0))
    worker.hear(activate(1))
    assert (worker.state(1), worker.scoring) == (State.LIVE, Scoring(1, id_of(1)))


def test_what_is_activated_before_it_is_ready_serves_as_soon_as_it_is() -> None:
    worker = Worker()
    worker.hear(release(1), activate(1))
    assert behind(worker.log, worker.cases, worker.scoring)
    worker.well()
    assert worker.scoring.generation == 1
    assert not behind(worker.log, worker.cases, worker.scoring)


def test_one_generation_is_kept_for_a_rollback_and_the_one_before_it_is_retired() -> None:
    worker = Worker()
    for number in (1, 2, 3):
        worker.deploy(number)
    assert [worker.state(number) for number in (1, 2, 3)] == [State.RETIRED, State.PREVIOUS, State.LIVE]


def test_few_releases_wait_loaded_and_the_others_say_why_they_do_not() -> None:
    worker = Worker()
    worker.hear(*(release(number) for number in range(1, READY_AT_ONCE + 3)))
    for _ in range(READY_AT_ONCE):
        worker.well()
    assert len(worker.prepared) == READY_AT_ONCE
    assert "waits until one of the 4 ready releases" in worker.cases.known[id_of(READY_AT_ONCE + 1)].detail
    worker.hear(abort(2))
    assert worker.prepared[-1] == id_of(READY_AT_ONCE + 1)
    assert worker.cases.known[id_of(READY_AT_ONCE + 1)].detail == ""


def test_a_pending_release_that_failed_is_not_tried_again_until_it_is_activated() -> None:
    worker = Worker()
    worker.hear(release(1))
    worker.badly()
    worker.seconds = 1000.0
    worker.decide()
    assert (worker.prepared, worker.retries) == ([id_of(1)], [])
    worker.hear(activate(1))
    assert worker.prepared == [id_of(1), id_of(1)]


def test_what_is_in_force_and_failed_is_tried_again_with_growing_pauses_and_reported() -> None:
    worker = Worker()
    worker.hear(release(1), activate(1))
    pauses = []
    for _ in range(6):
        worker.badly()
        assert "cannot serve it: does not load" in worker.problems["behind"]
        assert not behind(worker.log, worker.cases, worker.scoring), "partitions move on meanwhile"
        pauses.append(worker.retries[-1] - worker.seconds)
        worker.seconds = worker.retries[-1] - 0.01
        worker.decide()
        assert worker.cases.preparing == ""
        worker.seconds = worker.retries[-1]
        worker.decide()
        assert worker.cases.preparing == id_of(1)
    assert pauses == [AGAIN[0], 10.0, 20.0, 40.0, AGAIN[1], AGAIN[1]]
    worker.well()
    assert (worker.scoring.generation, worker.problems["behind"]) == (1, "")


def test_what_is_in_force_comes_before_what_was_announced() -> None:
    worker = Worker()
    worker.hear(release(1), release(2))
    worker.well()
    worker.hear(release(3), activate(3))
    assert worker.cases.preparing == id_of(2), "one at a time: it was stopped, and has not ended"
    worker.hear(release(4, 1))
    worker.badly("stopped")
    assert worker.prepared == [id_of(1), id_of(2), id_of(3)]


def test_a_preparation_that_was_stopped_ends_without_a_trace() -> None:
    """Also when it comes late with a plan: the release was aborted."""
    worker = Worker()
    worker.hear(release(1))
    worker.hear(abort(1, reason="on second thoughts"))
    assert worker.cases.stopped
    assert [(one.state, one.why) for one in worker.ends] == [(State.ABORTED, "by alice: on second thoughts")]
    worker.cases = worker.cases.progress(id_of(1), State.FETCHING, "late", worker.now())
    worker.well()
    assert (worker.state(1), worker.cases.stopped, worker.cases.preparing) == (State.ABORTED, False, "")


def test_the_last_that_ended_are_told_and_those_that_are_pending_are_never_forgotten() -> None:
    worker = Worker()
    worker.hear(release(1))
    worker.badly()
    for number in range(2, REPORTED + 10):
        worker.hear(release(number))
        worker.hear(abort(number))
        worker.badly("stopped")
    assert worker.state(1) is State.FAILED
    assert [id for id in worker.cases.known if id != id_of(1)] == [id_of(number) for number in range(10, REPORTED + 10)]
    assert worker.prepared.count(id_of(1)) == 1


def test_what_nobody_has_announced_by_the_keys_of_now_ends_and_what_scores_goes_on() -> None:
    worker = Worker()
    worker.deploy(1)
    worker.hear(release(2, 1))
    worker.log = Log(lambda one: Admitted(parse(one.value or b"")))
    worker.decide()
    assert worker.scoring.generation == 1
    assert (worker.state(1), worker.state(2)) == (State.LIVE, State.STALE)
    assert worker.problems["trust-lost"] == "with the keys that are trusted now, there is no release; generation 1 still scores here"


def test_release_whose_activation_is_no_longer_trusted_is_prepared_again_once_another_scores() -> None:
    """It is pending again, and the worker that scored with it does not wait for the next word to see that."""
    worker = Worker()
    worker.deploy(1)
    worker.deploy(2)
    worker.log = Log(lambda one: Admitted(parse(one.value or b"")))
    worker.hear(release(1), activate(1), release(2, 1))
    worker.well()
    assert worker.scoring == Scoring(1, id_of(1), id_of(2))
    assert worker.prepared[-1] == worker.cases.preparing == id_of(2)
