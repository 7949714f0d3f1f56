"""What follows for a worker from the control log: a pure function of the log, of what the worker has made of it, and of what scores.

A case is one release on this worker. `reconcile` compares the log with the cases and with what scores, and nothing else decides: so it
does not matter in which slices the log came, or whether it was folded anew because the trusted keys have changed. Its rules:

1. The newest generation's release, while it does not score here, is **wanted**: it is prepared first, and the worker switches to it as soon
   as it is ready. What scores goes on until then.
2. A pending release is prepared in the order of the announcements, once, as long as fewer than `READY_AT_ONCE` wait for their activation.
3. A release that is neither wanted nor pending any more ends: aborted, or stale. Its preparation is stopped, and its plan dropped.
4. There is one preparation at a time. One that was stopped counts until it has ended, and its result does not count.
5. A wanted release that failed is tried again after a pause: `AGAIN[0]` seconds at first, then twice as long each time, at most `AGAIN[1]`.
6. Of the releases that have ended the last `TOLD` are kept, so that the status can report them; and those that are pending, whatever became
   of them here: forgotten, they would be prepared again.

What scores is given as `Scoring` and never changed here: an effect says what the worker has to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from penstock.control.lifecycle import ENDS, State, move
from penstock.control.log import Log, Standing
from penstock.control.messages import Release

__all__ = [
    "AGAIN",
    "READY_AT_ONCE",
    "TOLD",
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

READY_AT_ONCE: Final = 4  # releases that may wait, loaded, to be activated; more are only announced
TOLD: Final = 20  # ended releases that the status still reports
AGAIN: Final = (5.0, 60.0)  # seconds before a failed release that is wanted is tried again: first, and at the most

# A release in one of these states may come back only where the log was folded anew by other keys: it is another case then.
_OVER: Final = frozenset({State.PREVIOUS, State.RETIRED, State.ABORTED, State.STALE})


class Now(NamedTuple):
    """The time, twice: in seconds of a clock that only goes forward, and as a status reports it."""

    seconds: float
    stamp: str


class Scoring(NamedTuple):
    """What scores here: its generation and release ("": the topology file's own), and the release that is kept loaded for a rollback."""

    generation: int
    release: str = ""
    previous: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """One release on this worker. `failure` is why it failed last ("": it did not), `again` when it is tried again, in `Now.seconds`."""

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
    """The cases of a worker by release id, in the order in which they came up.

    `preparing` is the release that is being prepared ("": none), `stopped` that this preparation was told to stop.
    """

    known: Mapping[str, Case] = field(default_factory=dict)
    preparing: str = ""
    stopped: bool = False

    def progress(self, id: str, state: State, detail: str, now: Now) -> Cases:
        """The preparation of the release has come to this step."""
        case = self._under_way(id)
        if case is None:
            return self
        return self._with(replace(case, detail=detail) if case.state is state else case.moved(state, now, detail))

    def ready(self, id: str, now: Now) -> Cases:
        """The preparation has ended well."""
        case = self._under_way(id)
        return (self._with(case.moved(State.READY, now)) if case else self)._idle(id)

    def failed(self, id: str, why: str, now: Now) -> Cases:
        """The preparation has ended otherwise."""
        case = self._under_way(id)
        if case is not None:
            pause = min(AGAIN[0] * 2**case.failures, AGAIN[1])
            case = replace(case.moved(State.FAILED, now, why), failure=why, failures=case.failures + 1, again=now.seconds + pause)
        return (self._with(case) if case else self)._idle(id)

    def _under_way(self, id: str) -> Case | None:
        """The case that is being prepared, when what its preparation reports still counts."""
        return self.known.get(id) if id == self.preparing and not self.stopped else None

    def _with(self, case: Case) -> Cases:
        return replace(self, known={**self.known, case.release.id: case})

    def _idle(self, id: str) -> Cases:
        return replace(self, preparing="", stopped=False) if id == self.preparing else self


class Prepare(NamedTuple):
    """Prepare this release, beside what scores; report to `Cases` how it goes. There is no other preparation now."""

    release: Release


class Switch(NamedTuple):
    """Put the release, which is ready, in force as this generation."""

    release: Release
    generation: int


class End(NamedTuple):
    """Nothing comes of the release here: stop its preparation, drop its plan."""

    release: Release
    state: State
    why: str


class Warn(NamedTuple):
    """Report `what` as a problem that a person should look at; empty: there is no problem about this (any more)."""

    about: str
    what: str


class Retry(NamedTuple):
    """Reconcile again at this time, in `Now.seconds`, if nothing has happened until then."""

    at: float


Effect = Prepare | Switch | End | Warn | Retry


class Decision(NamedTuple):
    """The cases from now on, as if the effects were carried out; and the effects, to be carried out in this order."""

    cases: Cases
    effects: tuple[Effect, ...]


def reconcile(log: Log, cases: Cases, scoring: Scoring, now: Now) -> Decision:
    """What has to be done, by the rules above. The log is whole: it is not being folded anew."""
    work = _Reconciling(log, cases, scoring, now)
    work.take_up()
    work.align()
    work.end()
    work.switch()
    work.report()
    work.forget()
    work.prepare()
    return Decision(Cases(work.known, work.preparing, work.stopped), tuple(work.effects))


def behind(log: Log, cases: Cases, scoring: Scoring) -> bool:
    """Whether a newer generation is in force than scores here, and this worker may still come to serve it."""
    wanted = _wanted(log, scoring)
    if wanted is None:
        return False
    case = cases.known.get(wanted.id)
    return case is None or case.state is not State.FAILED


def _wanted(log: Log, scoring: Scoring) -> Release | None:
    """The release of the newest generation, while it does not score here."""
    newest = log.generations[-1].release if log.generations else None
    return None if newest is None or newest.id == scoring.release else newest


class _Reconciling:
    """One pass of `reconcile`, a method for each rule; `known`, `preparing` and `stopped` become the next `Cases`."""

    def __init__(self, log: Log, cases: Cases, scoring: Scoring, now: Now) -> None:
        self.log, self.scoring, self.now = log, scoring, now
        self.known = dict(cases.known)
        self.preparing, self.stopped = cases.preparing, cases.stopped
        self.effects: list[Effect] = []
        self.pending = {release.id: release for release in log.pending}
        wanted = _wanted(log, scoring)
        self.wanted = wanted.id if wanted else ""
        self.due = {**self.pending, **({wanted.id: wanted} if wanted else {})}

    def take_up(self) -> None:
        """A case for each release that is pending or wanted."""
        for release in self.due.values():
            case = self.known.get(release.id)
            if case is None or case.state in _OVER:
                self.known[release.id] = Case(release, since=self.now.stamp)

    def align(self) -> None:
        """What scores is live, what is kept loaded is previous, and what was either before is retired."""
        scores = self.log.releases.get(self.scoring.release)
        if scores is not None and self.scoring.release not in self.known:
            self.known[self.scoring.release] = Case(scores.release, State.LIVE, since=self.now.stamp)
        for id, case in self.known.items():
            if case.state is State.LIVE and id != self.scoring.release:
                case = self.known[id] = case.moved(State.PREVIOUS, self.now)
            if case.state is State.PREVIOUS and id != self.scoring.previous:
                self.known[id] = case.moved(State.RETIRED, self.now)

    def end(self) -> None:
        """Rule 3."""
        for id, case in self.known.items():
            if id in self.due or case.state in ENDS or case.state in (State.LIVE, State.PREVIOUS):
                continue
            said = self.log.releases.get(id)
            if said is not None and said.standing is Standing.ABORTED:
                state, why = State.ABORTED, said.why
            else:
                state, why = State.STALE, said.why if said else "by the keys trusted now nobody has announced it"
            self.known[id] = case.moved(state, self.now, why)
            self.effects.append(End(case.release, state, why))
            self.stopped = self.stopped or id == self.preparing

    def switch(self) -> None:
        """Rule 1."""
        case = self.known.get(self.wanted)
        if case is None or case.state is not State.READY:
            return
        self.effects.append(Switch(case.release, self.log.generation))
        self.known[self.wanted] = case.moved(State.LIVE, self.now)
        self.scoring = Scoring(self.log.generation, self.wanted, self.scoring.release)
        self.wanted = ""
        self.align()

    def report(self) -> None:
        case, newest, current = self.known.get(self.wanted), self.log.generation, self.scoring.generation
        failed = f"generation {newest} is in force, and this worker cannot serve it: {case.failure}" if case and case.failure else ""
        by_keys = f"generation {newest} is the newest" if newest else "nothing was released"
        lost = f"by the keys trusted now {by_keys}; generation {current} goes on" if current > newest else ""
        self.effects += [Warn("behind", failed), Warn("trust-lost", lost)]

    def forget(self) -> None:
        """Rule 6."""
        over = [id for id, case in self.known.items() if case.state in ENDS and id != self.wanted and id not in self.pending]
        for id in over[:-TOLD]:
            del self.known[id]

    def prepare(self) -> None:
        """Rules 1, 2, 4 and 5: which release is prepared next."""
        wanted = self.known.get(self.wanted)
        if wanted is not None and wanted.state is State.FAILED:
            if self.now.seconds < wanted.again:
                self.effects.append(Retry(wanted.again))
            else:
                wanted = self.known[self.wanted] = wanted.moved(State.ANNOUNCED, self.now, "tried again")
        if self.preparing:
            return
        waiting = [case for case in self.known.values() if case.state is State.ANNOUNCED]
        if wanted is not None and wanted.state is State.ANNOUNCED:
            chosen = wanted
        elif not waiting:
            return
        elif sum(case.state is State.READY for case in self.known.values()) >= READY_AT_ONCE:
            detail = f"waits until one of the {READY_AT_ONCE} releases that are ready is activated or aborted"
            self.known |= {case.release.id: replace(case, detail=detail) for case in waiting}
            return
        else:
            chosen = waiting[0]
        self.preparing, self.stopped = chosen.release.id, False
        self.known[chosen.release.id] = replace(chosen, detail="")
        self.effects.append(Prepare(chosen.release))
