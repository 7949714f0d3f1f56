"""The rules of `cases`, one by one; tests/properties/test_cases.py has them under every order of events."""

from __future__ import annotations

from typing import Any

from penstock.control.cases import AGAIN, READY_AT_ONCE, REPORTED, Cases, End, Now, Prepare, Retry, Scoring, Switch, Warn, behind, reconcile
from penstock.control.lifecycle import State
from penstock.control.log import Log
from penstock.control.messages import Message, Release, parse
from penstock.control.rights import Admitted
from penstock.control.strategy import Canary, Split
from tests.unit.control.making import abort, activate, binding, entry, id_of, promote, release


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
                case Switch(to):
                    previous = self.scoring.previous if to.live.id == self.scoring.release else self.scoring.release
                    trial = to.candidate.id if to.candidate else ""
                    self.scoring = Scoring(to.number, to.live.id, previous, trial, to.share)
                case Retry(at):
                    self.retries.append(at)
                case End():
                    self.ends.append(effect)
                case Warn(about, what):
                    self.problems[about] = what

    def well(self) -> None:
        self.cases = self.cases.ready(self.cases.preparing or "", self.now())
        self.decide()

    def badly(self, why: str = "does not load") -> None:
        self.cases = self.cases.failed(self.cases.preparing or "", why, self.now())
        self.decide()

    def state(self, number: int) -> State | None:
        case = self.cases.known.get(id_of(number))
        return case.state if case else None

    def deploy(self, number: int, **fields: Any) -> None:
        self.hear(release(number, self.log.generation, **fields))
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
        assert worker.cases.preparing is None
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
    assert (worker.state(1), worker.cases.stopped, worker.cases.preparing) == (State.ABORTED, False, None)


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
    """It is pending again, and the worker that scored with it does not wait for the next word to see that.

    The other one is still loaded, and is not prepared.
    """
    worker = Worker()
    worker.deploy(1)
    worker.deploy(2)
    worker.log = Log(lambda one: Admitted(parse(one.value or b"")))
    worker.hear(release(1), activate(1), release(2, 1))
    assert worker.scoring == Scoring(1, id_of(1), id_of(2))
    assert worker.prepared[-1] == worker.cases.preparing == id_of(2)


RAMP = Canary((0.05, 0.25))


def test_candidate_scores_beside_what_is_live_and_its_steps_load_nothing() -> None:
    worker = Worker()
    worker.deploy(1)
    worker.deploy(2, strategy=RAMP)
    assert worker.scoring == Scoring(2, id_of(1), "", id_of(2), 0.05)
    assert (worker.state(1), worker.state(2)) == (State.LIVE, State.CANDIDATE)
    worker.hear(promote(2, base=2))
    assert worker.scoring == Scoring(3, id_of(1), "", id_of(2), 0.25)
    worker.hear(promote(2, base=3))
    assert worker.scoring == Scoring(4, id_of(2), id_of(1))
    assert (worker.state(1), worker.state(2)) == (State.PREVIOUS, State.LIVE)
    assert worker.prepared == [id_of(1), id_of(2)]


def test_trial_that_is_aborted_leaves_what_was_loaded_before() -> None:
    worker = Worker()
    for number in (1, 2):
        worker.deploy(number)
    worker.deploy(3, strategy=Split(0.5))
    assert worker.scoring == Scoring(3, id_of(2), id_of(1), id_of(3), 0.5)
    worker.hear(abort(3, reason="too slow"))
    assert worker.scoring == Scoring(4, id_of(2), id_of(1))
    assert [worker.state(number) for number in (1, 2, 3)] == [State.PREVIOUS, State.LIVE, State.ABORTED]
    assert [(one.release.id, one.why) for one in worker.ends] == [(id_of(3), "by alice: too slow")]


def test_worker_that_was_away_prepares_what_is_live_before_the_candidate_and_switches_to_both_at_once() -> None:
    worker = Worker()
    worker.hear(release(1), activate(1), release(2, base=1, strategy=RAMP), activate(2))
    assert behind(worker.log, worker.cases, worker.scoring)
    worker.well()
    assert worker.scoring == Scoring(0)
    assert worker.prepared == [id_of(1), id_of(2)]
    worker.well()
    assert worker.scoring == Scoring(2, id_of(1), "", id_of(2), 0.05)
    assert not behind(worker.log, worker.cases, worker.scoring)


def test_worker_that_missed_a_whole_trial_counts_its_generations() -> None:
    worker = Worker()
    worker.deploy(1)
    worker.hear(release(2, base=1, strategy=RAMP), activate(2), abort(2))
    assert worker.scoring == Scoring(3, id_of(1))
    assert (worker.state(1), worker.prepared) == (State.LIVE, [id_of(1)])


def test_worker_that_learns_of_a_promotion_with_its_successor_retires_the_candidate() -> None:
    worker = Worker()
    worker.deploy(1)
    worker.deploy(2, strategy=RAMP)
    worker.hear(promote(2, base=2, full=True), release(3, base=3), activate(3))
    worker.well()
    assert [worker.state(number) for number in (1, 2, 3)] == [State.PREVIOUS, State.RETIRED, State.LIVE]


def test_candidate_that_fails_keeps_the_worker_at_the_generation_that_it_serves_and_is_tried_again() -> None:
    worker = Worker()
    worker.deploy(1)
    worker.hear(release(2, base=1, strategy=RAMP), activate(2))
    worker.badly()
    assert worker.scoring == Scoring(1, id_of(1))
    assert worker.problems["behind"] == "generation 2 is active, and this worker cannot serve it: does not load"
    assert not behind(worker.log, worker.cases, worker.scoring)
    worker.seconds = worker.retries[-1]
    worker.decide()
    worker.well()
    assert (worker.scoring.candidate, worker.problems["behind"]) == (id_of(2), "")


def test_trial_beside_what_the_topology_file_binds_needs_nothing_but_the_candidate() -> None:
    worker = Worker()
    worker.deploy(1, strategy=RAMP, baseline={"trees": binding(9)})
    assert worker.scoring == Scoring(1, "", "", id_of(1), 0.05)
    assert worker.prepared == [id_of(1)]
    worker.hear(abort(1))
    assert (worker.scoring, list(worker.cases.known)) == (Scoring(2), [id_of(1)])


def after_a_trial_on_the_file() -> tuple[Worker, Release]:
    """A worker on which the trial of release 1, begun on what the file binds, was promoted, and release 2 is live; and release 1."""
    worker = Worker()
    trial = release(1, strategy=RAMP, baseline={"trees": binding(9)})
    worker.deploy(1, strategy=RAMP, baseline={"trees": binding(9)})
    worker.hear(promote(1, base=1, full=True))
    worker.deploy(2)
    return worker, trial


def test_what_the_topology_file_binds_is_prepared_where_it_is_live_again() -> None:
    """As when the promotion that replaced it is not trusted any more."""
    worker, trial = after_a_trial_on_the_file()
    assert worker.scoring == Scoring(3, id_of(2), id_of(1))
    worker.log = Log(lambda one: Admitted(parse(one.value or b"")))
    worker.hear(trial, activate(1))
    assert worker.prepared[-1] == ""
    assert worker.cases.known[""].release.bindings == {"trees": binding(9)}
    worker.badly()
    assert "cannot serve it" in worker.problems["behind"]
    worker.seconds = worker.retries[-1]
    worker.decide()
    worker.well()
    assert worker.scoring == Scoring(1, "", id_of(2), id_of(1), 0.05)
    assert "" not in worker.cases.known
    assert worker.state(1) is State.CANDIDATE


def test_preparation_of_what_the_file_binds_is_stopped_like_any() -> None:
    worker, trial = after_a_trial_on_the_file()
    worker.log = Log(lambda one: Admitted(parse(one.value or b"")))
    worker.hear(trial, activate(1))
    worker.hear(promote(1, base=1, full=True))
    assert worker.ends[-1].why == "another release is live"
    assert worker.cases.stopped
    assert worker.scoring == Scoring(2, id_of(1), id_of(2))
    worker.badly("stopped")
    assert (worker.cases.preparing, "" in worker.cases.known) == (None, False)
