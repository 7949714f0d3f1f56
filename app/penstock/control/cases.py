"""What a worker has to do about the control log: a pure function of the log, the worker's cases and the plan that scores.

A case is one release on this worker. `reconcile` compares the log with the cases and with what scores, and nothing else decides. So the
result does not depend on the slices in which the log was read, or on a new fold after the trusted keys have changed. Its rules:

1. The newest generation, while it is not what scores here, is **wanted**. Those of its releases (what is live, and the candidate) that are
   not loaded here are prepared first, and the worker switches as soon as both can score. Until then the current plans score. Where
   both are loaded, as at another step of a trial, it switches at once.
2. Pending releases are prepared in the order of their announcements, each once, while fewer than `READY_AT_ONCE` wait for activation.
3. A release that is neither wanted nor pending any more, and does not score, ends: aborted, or stale. Its preparation is stopped, and its
   plan dropped.
4. There is one preparation at a time. A stopped one still occupies the slot until it has ended; its result is ignored.
5. A wanted release that failed is tried again after a pause: `AGAIN[0]` seconds at first, then twice as long each time, at most `AGAIN[1]`.
6. The last `REPORTED` releases that have ended are kept, so that the status can report them. Pending releases are kept in every state:
   without its case, a release would be prepared again.
7. What the topology file binds is a release as well, with the id "", where it is live in the newest generation and not loaded here.
   Its case is kept until it scores, and no longer.

`Scoring` describes what scores. This module never changes it: an effect names what the worker has to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from penstock.control.lifecycle import ENDS, MOVES, State, move
from penstock.control.log import Generation, Log, Standing
from penstock.control.messages import Release

__all__ = [
    "AGAIN",
    "READY_AT_ONCE",
    "REPORTED",
    "Case",
    "Cases",
    "Decision",
    "Effect",
    "End",
    "Now",
    "Prepare",
    "Retry",
    "Scoring",
    "Switch",
    "Warn",
    "behind",
    "reconcile",
]

READY_AT_ONCE: Final = 4  # releases that may be loaded and wait for activation; further ones stay announced
REPORTED: Final = 20  # ended releases that the status still reports
AGAIN: Final = (5.0, 60.0)  # seconds before a failed release that is wanted is tried again: the first pause, and the longest

# A release in one of these states returns only when the log is folded anew with other keys. It is a new case then.
_OVER: Final = frozenset({State.PREVIOUS, State.RETIRED, State.ABORTED, State.STALE})
_LOADED: Final = frozenset({State.CANDIDATE, State.LIVE, State.PREVIOUS})


class Now(NamedTuple):
    """The time, twice: in seconds of a monotonic clock, and as text for the status."""

    seconds: float
    stamp: str


class Scoring(NamedTuple):
    """What scores here, each by the id of its release: what is live ("": the topology file's), and the candidate with its share.

    `previous` is kept loaded for a rollback. "" means none, except of `release`.
    """

    generation: int
    release: str = ""
    previous: str = ""
    candidate: str = ""
    share: float = 0.0

    def has(self, id: str) -> bool:
        """Returns whether the release of this id is loaded."""
        return id == self.release or (id != "" and id in (self.candidate, self.previous))


@dataclass(frozen=True, slots=True)
class Case:
    """One release on this worker. `failure` is the last reason ("": it did not fail), `again` when it is tried again, in `Now.seconds`."""

    release: Release
    state: State = State.ANNOUNCED
    detail: str = ""
    since: str = ""
    failure: str = ""
    failures: int = 0
    again: float = 0.0

    def moved(self, there: State, now: Now, detail: str = "") -> Case:
        return replace(self, state=move(self.state, there), detail=detail, since=now.stamp)


@dataclass(frozen=True, slots=True)
class Cases:
    """The cases of a worker by release id, the oldest case first.

    `preparing` is the release that is being prepared. `stopped` is true once this preparation has been ordered to stop.
    """

    known: Mapping[str, Case] = field(default_factory=dict)
    preparing: str | None = None
    stopped: bool = False

    def progress(self, id: str, state: State, detail: str, now: Now) -> Cases:
        """Returns the cases after the preparation of the release has reached this step."""
        case = self._under_way(id)
        if case is None:
            return self
        return self._with(replace(case, detail=detail) if case.state is state else case.moved(state, now, detail))

    def ready(self, id: str, now: Now, detail: str = "") -> Cases:
        """Returns the cases after the preparation has succeeded; `detail` is what it has shown."""
        case = self._under_way(id)
        return (self._with(case.moved(State.READY, now, detail)) if case else self)._idle(id)

    def failed(self, id: str, why: str, now: Now) -> Cases:
        """Returns the cases after the preparation has failed; `why` is the reason."""
        case = self._under_way(id)
        if case is not None:
            pause = min(AGAIN[0] * 2**case.failures, AGAIN[1])
            case = replace(case.moved(State.FAILED, now, why), failure=why, failures=case.failures + 1, again=now.seconds + pause)
        return (self._with(case) if case else self)._idle(id)

    def _under_way(self, id: str) -> Case | None:
        """Returns the case in preparation, or None when the reports of this preparation no longer count."""
        return self.known.get(id) if id == self.preparing and not self.stopped else None

    def _with(self, case: Case) -> Cases:
        return replace(self, known={**self.known, case.release.id: case})

    def _idle(self, id: str) -> Cases:
        return replace(self, preparing=None, stopped=False) if id == self.preparing else self


class Prepare(NamedTuple):
    """Prepare this release beside the plan that scores, and report its progress to `Cases`. No other preparation runs now."""

    release: Release


class Switch(NamedTuple):
    """Make this generation what scores: its live release, and its candidate at its share. Both are ready, or loaded."""

    generation: Generation


class End(NamedTuple):
    """The release has ended here: stop its preparation, drop its plan."""

    release: Release
    state: State
    why: str


class Warn(NamedTuple):
    """Report `what` as a problem that a person should look at. An empty `what` clears the problem about this."""

    about: str
    what: str


class Retry(NamedTuple):
    """Reconcile again at this time, in `Now.seconds`, unless something happens earlier."""

    at: float


Effect = Prepare | Switch | End | Warn | Retry


class Decision(NamedTuple):
    """The new cases, which assume that the effects are carried out; and the effects, in the order of execution."""

    cases: Cases
    effects: tuple[Effect, ...]


def reconcile(log: Log, cases: Cases, scoring: Scoring, now: Now) -> Decision:
    """Returns what has to be done, by the rules above. The log must be complete, not in the middle of a new fold."""
    work = _Reconciling(log, cases, scoring, now)
    work.align()
    work.take_up()
    work.end()
    work.switch()
    work.report()
    work.forget()
    work.prepare()
    return Decision(Cases(work.known, work.preparing, work.stopped), tuple(work.effects))


def behind(log: Log, cases: Cases, scoring: Scoring) -> bool:
    """Returns whether a newer generation is active than scores here, and this worker may still switch to it."""
    wanted = _wanted(log, scoring)
    if wanted is None:
        return False
    known = [cases.known.get(id) for id in _missing(wanted, scoring, cases.known)]
    return all(case is None or case.state is not State.FAILED for case in known)


def _wanted(log: Log, scoring: Scoring) -> Generation | None:
    """Returns the newest generation, or None when it scores here. What scores goes on where the log has none."""
    newest = log.generations[-1] if log.generations else None
    return None if newest is None or _as_scoring(newest, scoring) == scoring else newest


def _as_scoring(generation: Generation, before: Scoring) -> Scoring:
    """Returns what scores after the switch to a generation."""
    live, trial = generation.live.id, generation.candidate
    previous = before.previous if live == before.release else before.release
    return Scoring(generation.number, live, previous, trial.id if trial else "", generation.share)


def _missing(wanted: Generation, scoring: Scoring, known: Mapping[str, Case]) -> dict[str, Release]:
    """Returns the releases of a generation that cannot score yet here, or are loaded and made ready once more; what is live first."""
    both = [one for one in (wanted.live, wanted.candidate) if one is not None]
    return {one.id: one for one in both if not scoring.has(one.id) or ((case := known.get(one.id)) and case.state not in _LOADED)}


class _Reconciling:
    """One pass of `reconcile`, a method for each rule; `known`, `preparing` and `stopped` become the next `Cases`.

    `missing` are the releases of the generation that is wanted, without those that are loaded; `due` are those to be made ready.
    """

    def __init__(self, log: Log, cases: Cases, scoring: Scoring, now: Now) -> None:
        self.log, self.scoring, self.now = log, scoring, now
        self.known = dict(cases.known)
        self.preparing, self.stopped = cases.preparing, cases.stopped
        self.effects: list[Effect] = []
        self.pending = {release.id: release for release in log.pending}
        self.wanted = _wanted(log, scoring)
        self.missing = _missing(self.wanted, scoring, self.known) if self.wanted else {}
        self.due = {**self.pending, **self.missing}

    def align(self) -> None:
        """Gives what scores its state, live or candidate, and the one that stays loaded is previous; ends those that score no longer."""
        scores = {self.scoring.candidate: State.CANDIDATE, self.scoring.release: State.LIVE}
        for id, state in scores.items():
            if id and (id in self.known or id in self.log.releases):
                self._scores(id, state)
        for id, case in self.known.items():
            if id in scores:
                continue
            if case.state is State.CANDIDATE:
                self._tried(case)
            if case.state is State.LIVE:
                case = self.known[id] = case.moved(State.PREVIOUS, self.now)
            if case.state is State.PREVIOUS and id != self.scoring.previous:
                self.known[id] = case.moved(State.RETIRED, self.now)

    def _scores(self, id: str, state: State) -> None:
        case = self.known.get(id)
        if case is not None and case.state is state:
            return
        if case is not None and state in MOVES[case.state]:
            self.known[id] = case.moved(state, self.now)
        else:  # at a start, and where the log is folded anew with other keys
            self.known[id] = Case(case.release if case else self.log.releases[id].release, state, since=self.now.stamp)

    def _tried(self, case: Case) -> None:
        """Ends a candidate that scores no longer: its trial was aborted, or it has been live and has a successor already."""
        said = self.log.releases.get(case.release.id)
        if said is None or said.standing in (Standing.ABORTED, Standing.REJECTED):
            self._ended(case)
        else:
            self.known[case.release.id] = case.moved(State.RETIRED, self.now)

    def _ended(self, case: Case) -> None:
        id = case.release.id
        said = self.log.releases.get(id)
        if said is not None:
            state, why = State.ABORTED if said.standing is Standing.ABORTED else State.STALE, said.why
        else:
            state, why = State.STALE, "no key that is trusted now has announced it" if id else "another release is live"
        self.known[id] = case.moved(state, self.now, why)
        self.effects.append(End(case.release, state, why))
        self.stopped = self.stopped or id == self.preparing

    def take_up(self) -> None:
        """Makes a case for each release that is pending or missing."""
        for release in self.due.values():
            case = self.known.get(release.id)
            if case is None or case.state in _OVER:
                self.known[release.id] = Case(release, since=self.now.stamp)

    def end(self) -> None:
        """Applies rule 3."""
        for id, case in self.known.items():
            if id not in self.due and case.state not in ENDS and case.state not in _LOADED:
                self._ended(case)

    def switch(self) -> None:
        """Applies rule 1."""
        if self.wanted is None or any(self.known[id].state is not State.READY for id in self.missing):
            return
        self.effects.append(Switch(self.wanted))
        self.scoring = _as_scoring(self.wanted, self.scoring)
        self.known.pop("", None)
        self.wanted, self.missing, self.due = None, {}, self.pending
        self.align()
        self.take_up()  # what scored until now may be pending again: its activation is not trusted any more

    def report(self) -> None:
        newest, current = self.log.generation, self.scoring.generation
        why = next((failure for id in self.missing if (failure := self.known[id].failure)), "")
        failed = f"generation {newest} is active, and this worker cannot serve it: {why}" if why else ""
        by_keys = f"generation {newest} is the newest" if newest else "there is no release"
        lost = f"with the keys that are trusted now, {by_keys}; generation {current} still scores here" if current > newest else ""
        self.effects += [Warn("behind", failed), Warn("trust-lost", lost)]

    def forget(self) -> None:
        """Applies rule 6."""
        over = [id for id, case in self.known.items() if case.state in ENDS and id not in self.due]
        for id in over[:-REPORTED]:
            del self.known[id]
        if "" in over:
            self.known.pop("", None)

    def prepare(self) -> None:
        """Chooses the release to prepare next, by rules 1, 2, 4 and 5."""
        again = []
        for id in self.missing:
            case = self.known[id]
            if case.state is State.FAILED and self.now.seconds < case.again:
                again.append(case.again)
            elif case.state is State.FAILED:
                self.known[id] = case.moved(State.ANNOUNCED, self.now, "tried again")
        if again:
            self.effects.append(Retry(min(again)))
        if self.preparing is not None:
            return
        waiting = [case for case in self.known.values() if case.state is State.ANNOUNCED]
        first = [case for id in self.missing if (case := self.known[id]).state is State.ANNOUNCED]
        if first:
            chosen = first[0]
        elif not waiting:
            return
        elif sum(case.state is State.READY for case in self.known.values()) >= READY_AT_ONCE:
            detail = f"waits until one of the {READY_AT_ONCE} ready releases is activated or aborted"
            self.known |= {case.release.id: replace(case, detail=detail) for case in waiting}
            return
        else:
            chosen = waiting[0]
        self.preparing, self.stopped = chosen.release.id, False
        self.known[chosen.release.id] = replace(chosen, detail="")
        self.effects.append(Prepare(chosen.release))
