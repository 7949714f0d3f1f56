"""The fold: from the entries of the control topic to the active generation. Every reader of the same entries gets the same result.

The state is a function of the entries, in the order of their offsets, and of the `judge`. It uses neither a clock nor chance.

1. **Admission.** An entry that the judge refuses (`trust`) changes nothing. It is counted by the code of the refusal, and the last
   refusals are kept with their reasons. An offset that was folded before is ignored, so entries may be passed in again.
   The version of the entries never falls: once an entry of version 2 was admitted, one of version 1 is refused (`old-version`).
   So a message signed before an upgrade cannot be used after it. The first entry of version 2 must itself be admitted:
   a forged one cannot lock out writers of version 1.
2. **Generation 0** is what the topology file binds. Each activation makes the next generation, and nothing else does.
3. **A release** becomes pending when its base is the active generation and fewer than `MAX_PENDING` are pending, else it is rejected.
   An id is used once: a second release with the same id is ignored in every case, so a repeated message cannot revive a release.
4. **An activation** makes a pending release active. The other pending ones were made for the generation that has just ended:
   they are rejected, and the reason names the winner. So at most one of the releases made for a generation ever becomes active:
   the one with the first activation on the topic.
5. **An abort** ends a pending release. An active release cannot be aborted; it is replaced by another release, a rollback.
6. An activation or an abort of anything else is ignored, with the reason. Rules 3 and 6 count what they ignore: `repeated`, `moot`.
7. A message whose key lacks the right to it is refused (`not-allowed`), as is a false claim to restore a generation (`not-restored`):
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
from penstock.control.messages import Abort, Activate, Message, Release
from penstock.control.rights import Admitted, check_right
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
    ACTIVE = "active"
    SUPERSEDED = "superseded"
    ABORTED = "aborted"
    REJECTED = "rejected"


class Kind(StrEnum):
    """What an entry did to the state."""

    RELEASED = "released"
    ACTIVATED = "activated"
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
    """A release that was activated, and the entry that activated it. `at_ms` is the broker's stamp, Unix time in ms."""

    number: int
    release: Release
    activated_by: str
    at_ms: int
    offset: int


class Refusal(NamedTuple):
    """An entry that was refused. `at_ms` is the broker's stamp, Unix time in ms."""

    offset: int
    at_ms: int
    code: str
    why: str


class Log:
    """The state after the entries that were applied so far. Read its attributes; only `apply` changes them.

    `generations` begin with number 1, the newest last. `refused` and `ignored` count by code the entries that changed nothing. `position`
    is the offset after the last entry. `version` is the newest version of an admitted entry.
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

    @property
    def generation(self) -> int:
        """The number of the active generation."""
        return len(self.generations)

    @property
    def bindings(self) -> Mapping[str, Binding] | None:
        """What the active generation binds, by node; None for generation 0, which the topology file binds."""
        return self.generations[-1].release.bindings if self.generations else None

    @property
    def pending(self) -> list[Release]:
        """The releases that may be activated, the oldest first."""
        return [self.releases[id].release for id in self._pending]

    def awaits(self, id: str) -> bool:
        """Returns whether the release of this id is pending."""
        return id in self._pending

    def bound(self, generation: int) -> Mapping[str, Binding] | None:
        """Returns what a generation binds, by node. The release after generation 0 records what 0 bound. None when it is not known."""
        if generation == 0:
            return (self.generations[0].release.baseline or None) if self.generations else None
        return self.generations[generation - 1].release.bindings if 0 < generation <= len(self.generations) else None

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
        if isinstance(message, Release):
            return self._release(entry, message)
        return self._activate(entry, message) if isinstance(message, Activate) else self._abort(message)

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
        if release.base != self.generation:
            return f"made for generation {release.base}, but {self._active()}"
        if len(self._pending) >= MAX_PENDING:
            return f"{MAX_PENDING} releases are pending: abort some, then release again"
        return ""

    def _active(self) -> str:
        if not self.generations:
            return "generation 0 is active: what the topology file binds"
        newest = self.generations[-1]
        return f"generation {newest.number} is active: release {newest.release.id} by {newest.release.author}"

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
            self._settle(id, Standing.REJECTED, f"lost: {self._active()}")
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
        """Ignores a message about a release that is not pending."""
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
        """Makes room for a release that has just ended: only the id of the oldest one is kept."""
        self._ended.append(id)
        if len(self._ended) > MAX_ENDED:
            oldest = self._ended.popleft()
            del self.releases[oldest]
            self._spent.add(oldest)


def _tame(text: str) -> str:
    """Returns the text without control characters, cut to `_WHY` characters, so that it may be kept and printed on a terminal."""
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text[:_WHY])
