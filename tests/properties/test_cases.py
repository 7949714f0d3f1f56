"""What a worker makes of a control log, under every order of entries, slices, keys, preparations and restarts: a state machine, no broker.

`Machine` is a worker without its sockets and models: it folds the log that it is given by the real judge, asks `reconcile`, and carries out
the effects as a worker does. Preparations end when a rule says so, well or not, or late: after they were told to stop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from penstock.control import cases as rules
from penstock.control.cases import (
    AGAIN,
    READY_AT_ONCE,
    REPORTED,
    Cases,
    Decision,
    Effect,
    End,
    Now,
    Prepare,
    Retry,
    Scoring,
    Switch,
    Warn,
    behind,
    reconcile,
)
from penstock.control.lifecycle import ENDS, PREPARING, State
from penstock.control.log import Generation, Log, Standing
from penstock.control.messages import Message, Release
from penstock.control.rights import Admitted
from penstock.control.strategy import SINGLE, Canary, Split, Strategy
from penstock.control.trust import Judge, SigningKey
from penstock.errors import ControlError
from penstock.transports.kafka.journal import Entry
from tests.unit.control.making import CONTROL, abort, activate, binding, entry, id_of, pause, promote, release, trusting

ALICE, BOB = SigningKey.new("alice"), SigningKey.new("bob")
KEYS = {"alice": ALICE, "bob": BOB}
JUDGES: dict[tuple[str, ...], Judge] = {
    names: Judge("flights", "cluster-1", CONTROL, trusting(*(KEYS[name] for name in names)))
    for names in ((), ("alice",), ("bob",), ("alice", "bob"))
}


@lru_cache(100_000)
def _verdict(names: tuple[str, ...], one: Entry) -> Admitted | ControlError:
    try:
        return JUDGES[names](one)
    except ControlError as error:
        return error


def judged(names: tuple[str, ...], one: Entry) -> Admitted:
    """What the real judge says, asked once per entry: the machine folds its topic again and again."""
    found = _verdict(names, one)
    if isinstance(found, ControlError):
        raise found
    return found


who = st.sampled_from(["alice", "alice", "alice", "bob"])
how: st.SearchStrategy[Strategy] = st.sampled_from([SINGLE, SINGLE, Canary((0.1, 0.5)), Split(0.5)])


@dataclass
class Preparing:
    """A preparation in a thread: it may have been told to stop, and have come some steps far."""

    release: Release
    stopped: bool = False
    step: int = 0


class Machine(RuleBasedStateMachine):
    """See the module. `topic` is the control log, `folded` how far the worker has folded it."""

    def __init__(self) -> None:
        super().__init__()
        self.topic: list[Entry] = []
        self.numbers = 0
        self.seconds = 1000.0
        self.names: tuple[str, ...] = ("alice", "bob")  # who is trusted
        self.restart_with(Log(self.judge()))

    # -- the worker --------------------------------------------------------------------------------------------------

    def judge(self) -> Callable[[Entry], Admitted]:
        return partial(judged, self.names)

    def restart_with(self, log: Log) -> None:
        self.log, self.anew_until = log, 0
        self.cases, self.scoring = Cases(), Scoring(0)
        self.plans: set[str] = set()
        self.thread: Preparing | None = None
        self.failed_at: dict[str, list[float]] = {}  # since the case came up
        self.warned: dict[str, str] = {}

    def now(self) -> Now:
        return Now(self.seconds, f"at {self.seconds:g}")

    @property
    def whole(self) -> bool:
        return self.log.position >= self.anew_until

    def decide(self) -> None:
        if not self.whole:
            return
        self.cases, effects = reconcile(self.log, self.cases, self.scoring, self.now())
        for effect in effects:
            self.carry_out(effect)
        again = reconcile(self.log, self.cases, self.scoring, self.now())
        assert again.cases == self.cases, "to decide twice is to decide once"
        assert not [one for one in again.effects if not isinstance(one, Warn | Retry)]

    def carry_out(self, effect: Effect) -> None:
        match effect:
            case Prepare(release):
                assert self.thread is None, "one preparation at a time"
                wanted = release.id in self.newest()
                assert wanted or not self.cases.known[release.id].failures, "one that failed is not tried again while it is pending"
                self.thread = Preparing(release)
                self.check_pause(release.id)
            case Switch(to):
                assert to == self.log.generations[-1], "only the newest generation of the log is switched to"
                assert not to.live.id or self.log.releases[to.live.id].standing is Standing.ACTIVE
                assert to.candidate is None or self.log.releases[to.candidate.id].standing is Standing.CANDIDATE
                assert all(id in self.plans or self.scoring.has(id) for id in self.newest()), "nothing scores that is not loaded"
                self.plans -= self.newest()
                self.scoring = scoring_of(to, self.scoring)
            case End(release, state, _):
                assert state in (State.ABORTED, State.STALE)
                scores = (self.scoring.release, self.scoring.candidate or None)
                assert release.id not in scores, "what scores is untouched by what comes to nothing"
                self.plans.discard(release.id)
                if self.thread is not None and self.thread.release.id == release.id:
                    self.thread.stopped = True
            case Warn(about, what):
                self.warned[about] = what
            case Retry(at):
                assert at > self.seconds

    def check_pause(self, id: str) -> None:
        """A release that has failed here is tried again only while it is wanted, and after a pause that grows."""
        if not self.cases.known[id].failures:
            self.failed_at[id] = []  # its first try, or the first since it came back: the log was folded anew
        if failures := self.failed_at[id]:
            assert id in self.newest()
            assert self.seconds - failures[-1] >= min(AGAIN[0] * 2 ** (len(failures) - 1), AGAIN[1])

    def newest(self) -> set[str]:
        """The releases of the newest generation."""
        return {one.id for made in self.log.generations[-1:] for one in (made.live, made.candidate) if one is not None}

    def fold(self, count: int) -> None:
        for one in self.topic[self.log.position : self.log.position + count]:
            self.log.apply(one)
        self.decide()

    def end_preparation(self, *, well: bool) -> None:
        assert self.thread is not None
        while well and 0 < self.thread.step < len(PREPARING) - 1:  # 0: it was found loaded already
            self.come_a_step_further()
        prepared, self.thread = self.thread, None
        id, counts = prepared.release.id, not self.cases.stopped
        if counts and not well:
            self.failed_at[id].append(self.seconds)
        if well and counts:
            self.plans.add(id)
        self.cases = self.cases.ready(id, self.now()) if well else self.cases.failed(id, "did not load", self.now())
        self.decide()

    # -- what may happen ---------------------------------------------------------------------------------------------

    def write(self, message: Message, author: str) -> None:
        self.topic.append(entry(len(self.topic), message, KEYS[author]))

    def truth(self) -> Log:
        log = Log(self.judge())
        for one in self.topic:
            log.apply(one)
        return log

    @rule(author=who, off=st.sampled_from([0, 0, 0, 0, -1, 1]), strategy=how)
    def announce(self, author: str, off: int, strategy: Strategy) -> None:
        self.numbers += 1
        base = max(0, self.truth().generation + off)
        baseline = {} if base else {"trees": binding(999)}
        self.write(release(self.numbers, base, author=author, strategy=strategy, baseline=baseline), author)

    @rule(author=who, count=st.integers(1, 6))
    def announce_several(self, author: str, count: int) -> None:
        for _ in range(count):
            self.announce(author, 0, SINGLE)

    @rule(author=who, fails=st.booleans(), strategy=how)
    def deploy(self, author: str, fails: bool, strategy: Strategy) -> None:
        """What an operator does, in its order; with `fails` it is activated though it failed here (`--min-ready`)."""
        self.announce(author, 0, strategy)
        self.fold(len(self.topic))
        for _ in range(3 * READY_AT_ONCE):
            if self.thread is not None:
                self.end_preparation(well=not (fails and self.thread.release.id == id_of(self.numbers)))
        self.write(activate(self.numbers, author=author), author)
        self.fold(len(self.topic))

    @rule(author=who, late=st.integers(0, 3))
    def activate_pending(self, author: str, late: int) -> None:
        pending = self.truth().pending
        if pending:
            self.write(activate(number_of(pending[-1 - late % len(pending)]), author=author), author)

    @rule(author=who, what=st.sampled_from(["promote", "promote", "full", "pause", "abort"]), read=st.booleans())
    def trial(self, author: str, what: str, read: bool) -> None:
        """What is said of the candidate, and read at once or later."""
        truth = self.truth()
        if truth.candidate is None:
            return
        number = number_of(truth.candidate)
        if what == "pause":
            self.write(pause(number, author=author), author)
        elif what == "abort":
            self.write(abort(number, author=author), author)
        else:
            self.write(promote(number, base=truth.generation, author=author, resume=truth.paused, full=what == "full"), author)
        self.fold(len(self.topic) if read else 0)

    @rule(author=who, number=st.integers(1, 12), ends=st.booleans())
    def any_word(self, author: str, number: int, ends: bool) -> None:
        """Also of a release that is announced later, or was long ago."""
        self.write(abort(number, author=author) if ends else activate(number, author=author), author)

    @precondition(lambda self: self.topic)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        again = data.draw(st.sampled_from(self.topic))
        self.topic.append(again._replace(offset=len(self.topic)))

    @rule(count=st.integers(1, 8))
    def read(self, count: int) -> None:
        self.fold(count)

    @rule()
    def read_to_the_end(self) -> None:
        self.fold(len(self.topic))

    @precondition(lambda self: self.thread is not None)
    @rule()
    def come_a_step_further(self) -> None:
        assert self.thread is not None
        self.thread.step = min(self.thread.step + 1, len(PREPARING) - 1)
        self.cases = self.cases.progress(self.thread.release.id, PREPARING[self.thread.step], "a step", self.now())

    @precondition(lambda self: self.thread is not None and not self.thread.stopped)
    @rule(well=st.sampled_from([True, True, False]))
    def finish(self, well: bool) -> None:
        self.end_preparation(well=well)

    @precondition(lambda self: self.thread is not None and self.thread.stopped)
    @rule(well=st.booleans())
    def finish_late(self, well: bool) -> None:
        self.end_preparation(well=well)

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.seconds += seconds
        self.decide()

    @precondition(lambda self: len(self.topic) > 6)
    @rule(names=st.sampled_from([("alice",), ("alice", "bob"), ("alice", "bob"), ("bob",), ()]))
    def trust_others(self, names: tuple[str, ...]) -> None:
        if names != self.names:
            self.names, self.anew_until = names, len(self.topic)
            self.log = Log(self.judge())

    @rule()
    def restart(self) -> None:
        """A worker comes up with the generation that the log has in force, or not at all: here it does."""
        log = self.truth()
        self.restart_with(log)
        if log.generations:
            self.scoring = scoring_of(log.generations[-1], Scoring(0))._replace(previous="")
        self.decide()

    # -- what holds at any time --------------------------------------------------------------------------------------

    @invariant()
    def ready_are_few_and_have_a_plan(self) -> None:
        ready = {id for id, case in self.cases.known.items() if case.state is State.READY}
        assert ready == self.plans
        assert len(ready) <= READY_AT_ONCE

    @invariant()
    def one_is_live_and_one_previous(self) -> None:
        live = [id for id, case in self.cases.known.items() if case.state is State.LIVE]
        assert live in ([], [self.scoring.release])
        trial = [id for id, case in self.cases.known.items() if case.state is State.CANDIDATE]
        assert trial in ([], [self.scoring.candidate])
        previous = [id for id, case in self.cases.known.items() if case.state is State.PREVIOUS]
        assert previous in ([], [self.scoring.previous])

    @invariant()
    def what_is_prepared_is_known_to_be(self) -> None:
        assert (self.thread.release.id if self.thread else None) == self.cases.preparing
        assert self.cases.stopped == (self.thread is not None and self.thread.stopped)

    @invariant()
    def what_is_kept_is_bounded(self) -> None:
        ended = [id for id, case in self.cases.known.items() if case.state in ENDS]
        pending = {one.id for one in self.log.pending}
        if self.whole:
            assert len([id for id in ended if id not in pending]) <= REPORTED + 1

    # -- where it comes to -------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Nothing more is said, everything is prepared in the end: then the worker serves what the log has in force."""
        self.fold(len(self.topic))
        for _ in range(200):
            if self.thread is not None:
                self.end_preparation(well=not self.thread.stopped)
            elif behind(self.log, self.cases, self.scoring) or self.wanted_failed():
                self.wait(61.0)
            else:
                break
        truth = self.truth()
        assert self.log.generation == truth.generation
        if truth.generations:
            assert self.scoring == scoring_of(truth.generations[-1], self.scoring)
            assert "" not in self.cases.known
            assert (self.warned["behind"], self.warned["trust-lost"]) == ("", "")
        states = Counter(self.cases.known[one.id].state for one in truth.pending)
        assert states.keys() <= {State.READY, State.FAILED, State.ANNOUNCED, State.LIVE, State.CANDIDATE}
        assert not states[State.ANNOUNCED] or states[State.READY] == READY_AT_ONCE, "whoever waits, waits for those that are ready"

    def wanted_failed(self) -> bool:
        known = [case for id in self.newest() if (case := self.cases.known.get(id))]
        return any(case.state is State.FAILED for case in known)


def scoring_of(generation: Generation, before: Scoring) -> Scoring:
    """What scores with this generation, after something else."""
    previous = before.previous if generation.live.id == before.release else before.release
    trial = generation.candidate.id if generation.candidate else ""
    return Scoring(generation.number, generation.live.id, previous, trial, generation.share)


def number_of(release: Release) -> int:
    return next(number for number in range(1, 1000) if id_of(number) == release.id)


LOOK = settings(stateful_step_count=50)
TestCases = Machine.TestCase
TestCases.settings = LOOK


@pytest.mark.parametrize("broken", ["switches to the oldest", "forgets to end", "prepares many"])
def test_the_machine_finds_what_is_broken(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise it could not fail."""
    real = rules.reconcile

    def wrong(log: Log, cases: Cases, scoring: Scoring, now: Now) -> Decision:
        found = real(log, cases, scoring, now)
        if broken == "switches to the oldest":
            effects: Any = tuple(
                Switch(log.generations[0]) if isinstance(one, Switch) and log.generation > 1 else one for one in found.effects
            )
        elif broken == "forgets to end":
            effects = tuple(one for one in found.effects if not isinstance(one, End))
        else:
            effects = tuple(two for one in found.effects for two in ((one, one) if isinstance(one, Prepare) else (one,)))
        return Decision(found.cases, effects)

    monkeypatch.setattr(f"{__name__}.reconcile", wrong)
    with pytest.raises(Exception, match=r"(?s).*"):
        run_state_machine_as_test(Machine, settings=settings(LOOK, max_examples=200, database=None, phases=[Phase.generate]))
