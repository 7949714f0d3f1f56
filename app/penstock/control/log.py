"""The fold: from the entries of the control topic to the active generation. Every reader of the same entries gets the same result.

The state is a function of the entries, in the order of their offsets, and of the `judge`. It uses neither a clock nor chance.

1. **Admission.** An entry that the judge refuses (`trust`) changes nothing. It is counted by the code of the refusal, and the last
   refusals are kept with their reasons. An offset that was folded before is ignored, so entries may be passed in again.
   The version of the entries never falls: once an entry of version 2 was admitted, one of version 1 is refused (`old-version`).
   So a message signed before an upgrade cannot be used after it. The first entry of version 2 must itself be admitted:
   a forged one cannot lock out writers of version 1.
2. **Generation 0** is what the topology file binds. A generation says which release is live, which one is a candidate beside it, if any,
   and the share of the units that the candidate answers. Whatever changes one of the three makes the next generation.
3. **A release** becomes pending when its base is the active generation and fewer than `MAX_PENDING` are pending, else it is rejected.
   An id is used once: a second release with the same id is ignored in every case, so a repeated message cannot revive a release.
4. The table has the legal moves: what a message does to the release that it names, with the newest generation as it is.

   | message | without a candidate | with a candidate C |
   |---|---|---|
   | release | pending | rejected |
   | activate | a pending one: live, or a candidate at its first step | - |
   | promote | - | C: its next step, or live after the last one and with `full` |
   | pause | - | C: paused; the generation stays |
   | abort | a pending one: ended | C: ended, and what is live stays |

5. **An activation** rejects the other pending releases: they were made for the generation that has just ended, and the reason names the
   winner. So at most one of the releases made for a generation ever becomes active or a candidate: the one with the first activation on
   the topic.
6. **A promotion** counts only directly after the generation that it was decided on, and while the trial is paused only with `resume`. It
   ends the pause. So two that were decided on the same step lead one step further.
7. A live release cannot be aborted; it is replaced by another release, a rollback. Every other message about a release is ignored, with
   the reason. Rules 3 and 7 count what they ignore: `repeated`, `moot`.
8. A message whose key lacks the right to it is refused (`not-allowed`), as is a false claim to restore a generation (`not-restored`):
   see `rights`. What a message needs depends only on the entries before it.

Releases that were aborted or rejected are kept with their bindings while they are among the last `MAX_ENDED`; only the ids of earlier
ones are kept. An unchanged binding is stored once. The time per entry does not depend on the length of the log.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from penstock.binding import Binding, same
from penstock.control.messages import Abort, Activate, Message, Pause, Promote, Release
from penstock.control.rights import Admitted, check_right
from penstock.control.strategy import SINGLE, shares_of
from penstock.errors import ControlError
from penstock.tame import UNPRINTABLE

if TYPE_CHECKING:  # the client of Kafka is not needed to fold
    from penstock.transports.kafka.journal import Entry

__all__ = ["MAX_ENDED", "MAX_PENDING", "MAX_REFUSED", "Generation", "Kind", "Known", "Log", "Outcome", "Refusal", "Standing"]

MAX_PENDING: Final = 32
MAX_ENDED: Final = 256
MAX_REFUSED: Final = 20
_WHY: Final = 300  # characters of a reason that are kept: it may quote any text that was sent


class Standing(StrEnum):
    """The result of a release so far."""

    PENDING = "pending"
    CANDIDATE = "candidate"
    ACTIVE = "active"
    SUPERSEDED = "superseded"
    ABORTED = "aborted"
    REJECTED = "rejected"


class Kind(StrEnum):
    """What an entry did to the state."""

    RELEASED = "released"
    ACTIVATED = "activated"
    PROMOTED = "promoted"
    PAUSED = "paused"
    ABORTED = "aborted"
    REJECTED = "rejected"  # a release that is known from then on, but was never pending
    IGNORED = "ignored"
    REFUSED = "refused"


class Outcome(NamedTuple):
    """The result of an entry: its release (None when refused), why it had no effect ("": it had), and the releases that lost by it."""

    kind: Kind
    id: str | None = None
    why: str = ""
    lost: tuple[str, ...] = ()


class Known(NamedTuple):
    """A release, the entry that announced it, and its standing. `at_ms` is the broker's stamp, Unix time in ms."""

    release: Release
    offset: int
    at_ms: int
    standing: Standing
    why: str = ""


class Generation(NamedTuple):
    """What answers from an entry on: `release` is the one that the entry names. `at_ms` is the broker's stamp, Unix time in ms.

    `live` is the release that answers, but for the `share` of the units that the `candidate` answers, at this `step` of its trial. A trial
    that begins at generation 0 leaves live what the topology file binds: then `live` has the id "" and binds the trial's baseline.
    """

    number: int
    release: Release
    activated_by: str
    at_ms: int
    offset: int
    live: Release
    candidate: Release | None = None
    share: float = 0.0
    step: int = 0


class Refusal(NamedTuple):
    """An entry that was refused. `at_ms` is the broker's stamp, Unix time in ms."""

    offset: int
    at_ms: int
    code: str
    why: str


class Log:
    """The state after the entries that were applied so far. Read its attributes; only `apply` changes them.

    `generations` begin with number 1, the newest last. `refused` and `ignored` count by code the entries that changed nothing. `position`
    is the offset after the last entry. `version` is the newest version of an admitted entry. `paused` is whether the
    trial that is under way is paused.
    """

    def __init__(self, judge: Callable[[Entry], Admitted]) -> None:
        self._judge = judge
        self._pending: dict[str, None] = {}  # in the order of their announcements
        self._ended: deque[str] = deque()
        self._spent: set[str] = set()
        self.generations: list[Generation] = []
        self.releases: dict[str, Known] = {}
        self.refused: Counter[str] = Counter()
        self.ignored: Counter[str] = Counter()
        self.last_refused: deque[Refusal] = deque(maxlen=MAX_REFUSED)
        self.last_rejected: deque[Refusal] = deque(maxlen=MAX_REFUSED)  # releases that never became pending
        self.position = 0
        self.version = 1
        self.paused = False

    @property
    def generation(self) -> int:
        """The number of the active generation."""
        return len(self.generations)

    @property
    def bindings(self) -> Mapping[str, Binding] | None:
        """What the active generation binds, by node; None for generation 0, which the topology file binds."""
        return self.generations[-1].live.bindings if self.generations else None

    @property
    def candidate(self) -> Release | None:
        """The release on trial beside the active bindings; None without one."""
        return self.generations[-1].candidate if self.generations else None

    @property
    def pending(self) -> list[Release]:
        """The releases that may be activated, the oldest first."""
        return [self.releases[id].release for id in self._pending]

    def awaits(self, id: str) -> bool:
        """Returns whether the release of this id is pending."""
        return id in self._pending

    def tries(self, id: str) -> bool:
        """Returns whether the release of this id is on trial."""
        return self.candidate is not None and self.candidate.id == id

    def leads_to(self, message: Message) -> float:
        """Returns the share of the units that a release would answer by this message, 1 where it would be live; 0 where it changes none."""
        if isinstance(message, Activate) and message.id in self._pending:
            return (*shares_of(self.releases[message.id].release.strategy), 1.0)[0]
        if isinstance(message, Promote) and (trial := self.candidate) is not None and trial.id == message.id:
            return 1.0 if message.full else (*shares_of(trial.strategy), 1.0)[self.generations[-1].step + 1]
        return 0.0

    def bound(self, generation: int) -> Mapping[str, Binding] | None:
        """Returns what answers in a generation, by node. The release after generation 0 records what 0 bound. None when it is not known."""
        if generation == 0:
            return (self.generations[0].release.baseline or None) if self.generations else None
        return self.generations[generation - 1].live.bindings if 0 < generation <= len(self.generations) else None

    def apply(self, entry: Entry) -> Outcome:
        """Folds the next entry. Every content gives an outcome, never an exception."""
        if entry.offset < self.position:
            return Outcome(Kind.IGNORED, why="folded before")
        self.position = entry.offset + 1
        try:
            message = self.judge(entry)
        except ControlError as error:
            return self._refuse(entry, error)
        self.version = message.version
        match message:
            case Release():
                return self._release(entry, message)
            case Activate():
                return self._activate(entry, message)
            case Promote():
                return self._promote(entry, message)
            case Pause():
                return self._pause(message)
            case Abort():
                return self._abort(entry, message)

    def judge(self, entry: Entry) -> Message:
        """Returns the message of an entry that would be admitted next. Raises ControlError with the reason otherwise. Folds nothing."""
        admitted = self._judge(entry)
        message = admitted.message
        if message.version < self.version:
            raise ControlError(f"a message of version {message.version}, after one of version {self.version}", code="old-version")
        check_right(self, admitted)
        return message

    def _refuse(self, entry: Entry, error: ControlError) -> Outcome:
        why = _tame(str(error))
        self.refused[error.code] += 1
        self.last_refused.append(Refusal(entry.offset, entry.timestamp, error.code, why))
        return Outcome(Kind.REFUSED, why=why)

    def _release(self, entry: Entry, release: Release) -> Outcome:
        if release.id in self.releases or release.id in self._spent:
            return self._ignore("repeated", release.id, "this id was used before")
        why = self._objection(release)
        standing = Standing.REJECTED if why else Standing.PENDING
        self.releases[release.id] = Known(self._sharing(release), entry.offset, entry.timestamp, standing, why)
        if why:
            self.last_rejected.append(Refusal(entry.offset, entry.timestamp, Standing.REJECTED, why))
            self._forget(release.id)
            return Outcome(Kind.REJECTED, release.id, why)
        self._pending[release.id] = None
        return Outcome(Kind.RELEASED, release.id)

    def _sharing(self, release: Release) -> Release:
        """Returns an equal release that shares unchanged bindings with the active one. This saves memory: all active ones are kept."""
        bindings = dict(release.bindings)
        for node, before in (self.bindings or {}).items():
            binding = bindings.get(node)
            if binding is not None and before.uri == binding.uri and same({node: before}, {node: binding}):
                bindings[node] = before
        return msgspec.structs.replace(release, bindings=bindings)

    def _objection(self, release: Release) -> str:
        """Returns why the release cannot become pending; "" when it can."""
        if trial := self.candidate:
            return f"release {trial.id} by {trial.author} is on trial: promote or abort it first"
        if release.base != self.generation:
            return f"made for generation {release.base}, but {self._active()}"
        if shares_of(release.strategy) and not (release.baseline or self.generations):
            return "it is to be tried beside what the topology file binds, and has no baseline that says what that is"
        if len(self._pending) >= MAX_PENDING:
            return f"{MAX_PENDING} releases are pending: abort some, then release again"
        return ""

    def _active(self) -> str:
        if not self.generations:
            return "generation 0 is active: what the topology file binds"
        newest = self.generations[-1]
        if trial := newest.candidate:
            return f"generation {newest.number} is active, with release {trial.id} by {trial.author} on trial"
        live = f"release {newest.live.id} by {newest.live.author}" if newest.live.id else "what the topology file binds"
        return f"generation {newest.number} is active: {live}"

    def _activate(self, entry: Entry, message: Activate) -> Outcome:
        if message.id not in self._pending:
            return self._moot(message)
        del self._pending[message.id]
        release = self.releases[message.id].release
        if shares := shares_of(release.strategy):
            self._settle(message.id, Standing.CANDIDATE, f"by {message.author}")
            self._next(entry, message, self._live() or _of_the_file(release), release, shares[0])
        else:
            self._replace(entry, message, release)
        lost = tuple(self._pending)
        self._pending.clear()
        for id in lost:
            self._settle(id, Standing.REJECTED, f"lost: {self._active()}")
            self._forget(id)
        return Outcome(Kind.ACTIVATED, message.id, lost=lost)

    def _promote(self, entry: Entry, message: Promote) -> Outcome:
        trial = self.candidate
        if trial is None or trial.id != message.id:
            return self._moot(message)
        now = self.generations[-1]
        if message.base != now.number:
            return self._ignore("moot", message.id, f"decided on generation {message.base}, but {self._active()}")
        if self.paused and not message.resume:
            why = f"the trial is {self.releases[trial.id].why}; a promotion has to say that it resumes it"
            return self._ignore("moot", message.id, why)
        self.paused = False
        if (share := self.leads_to(message)) == 1:
            self._replace(entry, message, trial)
        else:
            self._settle(trial.id, Standing.CANDIDATE, f"by {message.author}")
            self._next(entry, message, now.live, trial, share, now.step + 1)
        return Outcome(Kind.PROMOTED, message.id)

    def _pause(self, message: Pause) -> Outcome:
        if not self.tries(message.id) or self.paused:
            return self._moot(message)
        self.paused = True
        known = self._settle(message.id, Standing.CANDIDATE, f"paused {_by(message)}")
        return Outcome(Kind.PAUSED, message.id, known.why)

    def _abort(self, entry: Entry, message: Abort) -> Outcome:
        if self.tries(message.id):
            self.paused = False
            self._next(entry, message, self.generations[-1].live)
        elif message.id in self._pending:
            del self._pending[message.id]
        else:
            return self._moot(message)
        known = self._settle(message.id, Standing.ABORTED, _by(message))
        self._forget(message.id)
        return Outcome(Kind.ABORTED, message.id, known.why)

    def _live(self) -> Release | None:
        return self.generations[-1].live if self.generations else None

    def _replace(self, entry: Entry, message: Activate | Promote, release: Release) -> None:
        """Makes the next generation, in which the release is live; the one that was is superseded."""
        if (before := self._live()) and before.id:
            self._settle(before.id, Standing.SUPERSEDED, f"by release {release.id}")
        self._settle(release.id, Standing.ACTIVE, f"by {message.author}")
        self._next(entry, message, release)

    def _next(
        self, entry: Entry, message: Message, live: Release, candidate: Release | None = None, share: float = 0.0, step: int = 0
    ) -> None:
        named = self.releases[message.id].release
        made = (named, message.author, entry.timestamp, entry.offset, live, candidate, share, step)
        self.generations.append(Generation(self.generation + 1, *made))

    def _moot(self, message: Activate | Promote | Pause | Abort) -> Outcome:
        """Ignores a message about a release that is neither pending nor on trial, or that does not apply to it."""
        if known := self.releases.get(message.id):
            standing = "on trial" if known.standing is Standing.CANDIDATE else known.standing
            why = f"the release is {standing}" + (f" ({known.why})" if known.why else "")
            if isinstance(message, Abort) and known.standing is Standing.ACTIVE:
                why += ": roll back instead"
        else:
            why = "the release has ended" if message.id in self._spent else "there is no such release"
        return self._ignore("moot", message.id, why)

    def _ignore(self, code: str, id: str, why: str) -> Outcome:
        self.ignored[code] += 1
        return Outcome(Kind.IGNORED, id, why)

    def _settle(self, id: str, standing: Standing, why: str) -> Known:
        known = self.releases[id] = self.releases[id]._replace(standing=standing, why=_tame(why))
        return known

    def _forget(self, id: str) -> None:
        """Makes room for a release that has just ended: only the id of the oldest one is kept."""
        self._ended.append(id)
        if len(self._ended) > MAX_ENDED:
            oldest = self._ended.popleft()
            del self.releases[oldest]
            self._spent.add(oldest)


def _of_the_file(trial: Release) -> Release:
    """Returns what the topology file binds, as a release: of it, a trial that begins at generation 0 says only the bindings."""
    return msgspec.structs.replace(
        trial, id="", base=0, bindings=trial.baseline, strategy=SINGLE, baseline={}, aliases={}, restores=None, reason="", requested_by=""
    )


def _by(message: Message) -> str:
    return f"by {message.author}" + (f": {message.reason}" if message.reason else "")


def _tame(text: str) -> str:
    """Returns the text without control characters, cut to `_WHY` characters, so that it may be kept and printed on a terminal."""
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text[:_WHY])
