"""The fold: from the entries of the control topic to the generation in force, the same for whoever folds the same entries.

The state is a function of the entries, in the order of their offsets, and of the `judge`; no clock and no chance is asked.

1. **Admission.** An entry that the judge refuses (`trust`) changes nothing. It is counted by the code of the refusal, and the last
   ones are kept with their reasons. An offset that was folded before is ignored, so entries may be handed over again.
   The version of the entries never falls: once an entry of version 2 was admitted, one of version 1 is refused (`old-version`).
   So a message signed before an upgrade cannot be used after it, and the first entry of version 2 must itself be admitted:
   one that is forged locks no writer of version 1 out.
2. **Generation 0** is what the topology file binds. Each activation makes the next generation, and nothing else does.
3. **A release** is pending when its base is the generation in force and fewer than `MAX_PENDING` are pending, else it is rejected.
   An id is used once: another release with it is ignored, whatever became of the first, so that nothing comes back by repetition.
4. **An activation** of a pending release puts it in force. The other pending ones were made for the generation that has just ended:
   they are rejected, and told what won. So of the releases made for one generation at most one is ever in force, the one whose
   activation the topic holds first.
5. **An abort** ends a pending release. What is in force is not aborted but followed by another release: a rollback.
6. An activation or an abort of anything else is ignored, with the reason. What is ignored by rule 3 or 6 is counted: `repeated`, `moot`.

Releases that were aborted or rejected are kept with their bindings while they are among the last `MAX_ENDED`; of earlier ones only the
id is remembered. A binding that goes on unchanged is held once. An entry costs the same time at any length of the log.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from penstock.binding import Binding, same
from penstock.control.messages import UNPRINTABLE, Abort, Activate, Message, Release
from penstock.errors import ControlError

if TYPE_CHECKING:  # the client of Kafka is not needed to fold
    from penstock.transports.kafka.journal import Entry

__all__ = ["MAX_ENDED", "MAX_PENDING", "MAX_REFUSED", "Generation", "Kind", "Known", "Log", "Outcome", "Refusal", "Standing"]

MAX_PENDING: Final = 32
MAX_ENDED: Final = 256
MAX_REFUSED: Final = 20
_WHY: Final = 300  # characters of a reason that are kept: it may quote whatever was sent


class Standing(StrEnum):
    """What became of a release."""

    PENDING = "pending"
    ACTIVE = "active"
    SUPERSEDED = "superseded"
    ABORTED = "aborted"
    REJECTED = "rejected"


class Kind(StrEnum):
    """What an entry did to the state."""

    RELEASED = "released"
    ACTIVATED = "activated"
    ABORTED = "aborted"
    REJECTED = "rejected"  # a release that is known from now on, but was never pending
    IGNORED = "ignored"
    REFUSED = "refused"


class Outcome(NamedTuple):
    """What became of an entry: the release that it speaks of (None when it was refused), why nothing came of it, who lost by it."""

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
    """What was put in force, and by which entry."""

    number: int
    release: Release
    activated_by: str
    at_ms: int
    offset: int


class Refusal(NamedTuple):
    """An entry that meant nothing here."""

    offset: int
    at_ms: int
    code: str
    why: str


class Log:
    """The state after the entries that were applied so far. Read its attributes; only `apply` changes them.

    `generations` begin with number 1, the newest last. `refused` and `ignored` count by code what changed nothing; `position` is the
    offset behind the last entry; `version` is the newest version of an admitted entry.
    """

    def __init__(self, judge: Callable[[Entry], Message]) -> None:
        self._judge = judge
        self._pending: dict[str, None] = {}  # in the order of their announcements
        self._ended: deque[str] = deque()
        self._spent: set[str] = set()
        self.generations: list[Generation] = []
        self.releases: dict[str, Known] = {}
        self.refused: Counter[str] = Counter()
        self.ignored: Counter[str] = Counter()
        self.last_refused: deque[Refusal] = deque(maxlen=MAX_REFUSED)
        self.position = 0
        self.version = 1

    @property
    def generation(self) -> int:
        """The generation in force."""
        return len(self.generations)

    @property
    def bindings(self) -> Mapping[str, Binding] | None:
        """What is bound in force, by node; None while that is the topology file's own."""
        return self.generations[-1].release.bindings if self.generations else None

    @property
    def pending(self) -> list[Release]:
        """The releases that may be activated, the oldest first."""
        return [self.releases[id].release for id in self._pending]

    def bound(self, generation: int) -> Mapping[str, Binding] | None:
        """What a generation binds, by node. Of generation 0 what the release after it says; None when nobody said."""
        if generation == 0:
            return (self.generations[0].release.baseline or None) if self.generations else None
        return self.generations[generation - 1].release.bindings if 0 < generation <= len(self.generations) else None

    def apply(self, entry: Entry) -> Outcome:
        """Folds the next entry. Whatever was sent is an outcome, never an exception."""
        if entry.offset < self.position:
            return Outcome(Kind.IGNORED, why="folded before")
        self.position = entry.offset + 1
        try:
            message = self._judge(entry)
            if message.version < self.version:
                raise ControlError(f"a message of version {message.version}, after one of version {self.version}", code="old-version")
        except ControlError as error:
            return self._refuse(entry, error)
        self.version = message.version
        if isinstance(message, Release):
            return self._release(entry, message)
        return self._activate(entry, message) if isinstance(message, Activate) else self._abort(message)

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
            self._forget(release.id)
            return Outcome(Kind.REJECTED, release.id, why)
        self._pending[release.id] = None
        return Outcome(Kind.RELEASED, release.id)

    def _sharing(self, release: Release) -> Release:
        """The same, of which what stays as it is in force is not held a second time: most of a release, and the log is kept for ever."""
        bindings = dict(release.bindings)
        for node, before in (self.bindings or {}).items():
            binding = bindings.get(node)
            if binding is not None and before.uri == binding.uri and same({node: before}, {node: binding}):
                bindings[node] = before
        return msgspec.structs.replace(release, bindings=bindings)

    def _objection(self, release: Release) -> str:
        """Why the release cannot be pending, "" when it can."""
        if release.base != self.generation:
            return f"made for generation {release.base}, but {self._in_force()}"
        if len(self._pending) >= MAX_PENDING:
            return f"{MAX_PENDING} releases are pending: abort some, then release again"
        return ""

    def _in_force(self) -> str:
        if not self.generations:
            return "generation 0 is in force: what the topology file binds"
        newest = self.generations[-1]
        return f"generation {newest.number} is in force: release {newest.release.id} by {newest.release.author}"

    def _activate(self, entry: Entry, message: Activate) -> Outcome:
        if message.id not in self._pending:
            return self._moot(message)
        del self._pending[message.id]
        if self.generations:
            self._settle(self.generations[-1].release.id, Standing.SUPERSEDED, f"by release {message.id}")
        known = self._settle(message.id, Standing.ACTIVE, f"by {message.author}")
        self.generations.append(Generation(self.generation + 1, known.release, message.author, entry.timestamp, entry.offset))
        lost = tuple(self._pending)
        self._pending.clear()
        for id in lost:
            self._settle(id, Standing.REJECTED, f"lost: {self._in_force()}")
            self._forget(id)
        return Outcome(Kind.ACTIVATED, message.id, lost=lost)

    def _abort(self, message: Abort) -> Outcome:
        if message.id not in self._pending:
            return self._moot(message)
        del self._pending[message.id]
        why = f"by {message.author}" + (f": {message.reason}" if message.reason else "")
        self._settle(message.id, Standing.ABORTED, why)
        self._forget(message.id)
        return Outcome(Kind.ABORTED, message.id, why)

    def _moot(self, message: Activate | Abort) -> Outcome:
        """Nothing comes of a message about a release that is not pending."""
        if known := self.releases.get(message.id):
            why = f"the release is {known.standing}" + (f" ({known.why})" if known.why else "")
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
        """Makes room for a release that has just ended: of the oldest one only the id stays."""
        self._ended.append(id)
        if len(self._ended) > MAX_ENDED:
            oldest = self._ended.popleft()
            del self.releases[oldest]
            self._spent.add(oldest)


def _tame(text: str) -> str:
    """What may be shown on a terminal and kept: no control characters, and of a long text the beginning."""
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text[:_WHY])
