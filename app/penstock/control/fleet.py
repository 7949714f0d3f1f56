"""The workers of a topology as the status topic describes them, and where each generation began in each input partition.

Every client that may write to the topic can write a report. So a reader first asks the brokers who is in the consumer group (`attest`):
then only reports count that a member has signed (`trust.member`), each once, in the order of their numbers. Those of an older Penstock,
which shows no identity, count only while the group has such members. Every other worker is not a `member`, and not live.

A worker is **live** while its last report is younger than `silence`; then it is **lost**. After `FORGET_S` a lost worker is left out:
a killed worker never deletes its record. A lost worker is **replaced** when live workers have all of its partitions and it was silent for
`REPLACED_S`: nothing waits for it any more. Ages are measured by the brokers' clock, which stamps every record. Until the first record
arrives, this host's clock is the substitute. So a host with a wrong clock does not report live workers as lost. On a topic that keeps the
writers' times (`stamped` is False) a record does not set the clock, and is never later than now.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from penstock.control.messages import NEWEST
from penstock.control.status import Boundary, WorkerStatus, key_of, parse
from penstock.control.trust.member import Group, Shown
from penstock.errors import ControlError

if TYPE_CHECKING:
    from penstock.transports.kafka.journal import Entry

__all__ = ["FORGET_S", "REPLACED_S", "BrokerClock", "Fleet", "Worker", "silence_after"]

FORGET_S: Final = 3600.0
REPLACED_S: Final = 60.0  # not at once: a worker that crashes again and again is replaced each time, and stays visible
_LEAST_SILENCE_S: Final = 10.0


def silence_after(interval: float) -> float:
    """Returns the seconds without a report after which a worker counts as lost, when it reports every `interval` seconds."""
    return max(5 * interval, _LEAST_SILENCE_S)


class Worker(NamedTuple):
    """A worker's last report. `said_ms` is the broker's stamp of it, `since_ms` the stamp of the first report with the same generation.

    Both are Unix times in ms. `came_from` is the generation that the worker reported before, None when it reported no other one.
    """

    status: WorkerStatus
    said_ms: int
    since_ms: int
    live: bool = True
    came_from: int | None = None
    member: bool = True

    @property
    def name(self) -> str:
        return self.status.worker

    @property
    def generation(self) -> int:
        return self.status.generation

    @property
    def outdated(self) -> str:
        """Why the worker cannot read the control messages that this Penstock writes; "" when it can."""
        if self.status.reads >= NEWEST:
            return ""
        newer = self.status.refused.get("newer", 0)
        met = f" and has refused {newer} of a newer version" if newer else ""
        return f"it reads control messages up to version {self.status.reads}{met}; this Penstock writes version {NEWEST}"


class _Report(NamedTuple):
    """A signed record of the status topic, not verified yet."""

    status: Any
    at_ms: int
    value: bytes
    signature: bytes


class BrokerClock:
    """The brokers' time, derived from their stamps. `wall` returns this host's Unix time in seconds."""

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._ahead = 0.0  # ms, of this host
        self.ahead_s: float | None = None  # by how much the brokers' clock is ahead of this host's; None before a record has just arrived
        self._newest = 0

    def saw(self, stamp_ms: int) -> None:
        """Takes the stamp of a record of any age, Unix time in ms."""
        self._newest = max(self._newest, stamp_ms)

    def heard(self, stamp_ms: int) -> None:
        """Takes the stamp of a record that has just arrived, Unix time in ms."""
        self.saw(stamp_ms)
        self._ahead = stamp_ms - self._wall() * 1000
        self.ahead_s = self._ahead / 1000

    def now_ms(self) -> float:
        return max(self._wall() * 1000 + self._ahead, self._newest)


class Fleet:
    """The state after the records of the status topic that were applied so far; compaction does not change it."""

    def __init__(self, silence: float, clock: BrokerClock | None = None) -> None:
        self.clock = clock or BrokerClock()
        self.silence = silence
        self.stamped = True  # whether the broker stamped the last record
        self.strange: Counter[str] = Counter()  # records that cannot be read, by error code: not a status, or of a newer version
        self.last_strange = ""  # what is wrong with the last one
        self._newest = 0  # when the newest record was written
        self._last: dict[str, Worker] = {}
        self._boundaries: dict[bytes, Boundary] = {}
        self._group: Group | None = None
        self._unread: dict[str, deque[_Report]] = {}  # signed reports by worker, which are verified when `workers` is called
        self._proven: dict[str, tuple[Shown, Worker]] = {}
        self._signed: dict[bytes, _Report] = {}  # boundaries with a signature, by key

    def attest(self, group: Group) -> None:
        """Sets who is in the consumer group now. Before the first call every report counts."""
        self._group = group

    @property
    def attested(self) -> bool:
        """Whether the members of the group are known."""
        return self._group is not None

    def apply(self, entry: Entry) -> None:
        """Takes the next record. A record that is not a status is counted and changes nothing."""
        self.stamped = entry.stamped
        if entry.stamped:
            self.clock.saw(entry.timestamp)
        said_ms = entry.timestamp if entry.stamped else min(entry.timestamp, int(self.clock.now_ms()))
        self._newest = max(self._newest, said_ms)
        key = entry.key or b""
        if entry.value is None:
            self._last.pop(key.decode(errors="replace").removeprefix("worker/"), None)
            self._boundaries.pop(key, None)
            self._signed.pop(key, None)
            return
        try:
            status = parse(entry.value)
            if key != key_of(status):  # compaction by that key would give another state than this fold
                raise ControlError("not a status record: its key does not match its value", code="wrong-key")
        except ControlError as error:
            self.strange[error.code] += 1
            self.last_strange = str(error)
            return
        if isinstance(status, Boundary):
            self._boundaries.pop(key, None)  # keeps the order of the last write
            self._boundaries[key] = status
            self._signed[key] = _Report(status, said_ms, entry.value, entry.signature)
        else:
            if entry.signature:
                self._later(_Report(status, said_ms, entry.value, entry.signature))
            before = self._last.get(status.worker)
            if before and before.generation == status.generation:
                self._last[status.worker] = before._replace(status=status, said_ms=said_ms)
            else:
                self._last[status.worker] = Worker(status, said_ms, said_ms, came_from=before and before.generation)

    def workers(self) -> list[Worker]:
        """Returns the workers that reported within the last hour, by name. `live` is computed at the time of the call."""
        now = self.clock.now_ms()
        self._forget()
        recent = ((worker, here) for worker, here in self._counted() if now - worker.said_ms <= FORGET_S * 1000)
        found = [worker._replace(live=here and now - worker.said_ms <= self.silence * 1000) for worker, here in recent]
        return sorted(found, key=lambda worker: worker.name)

    def starting(self) -> list[str]:
        """Returns the workers that may be live in a moment: members that have not reported, and reports of those that have yet to join.

        Of a worker that was killed, the last report looks like the latter until it is older than `silence`.
        """
        known = {worker.name: worker for worker in self.workers()}
        members = self._group.members if self._group else {}
        fresh = self.clock.now_ms() - self.silence * 1000
        joining = [name for name, one in known.items() if not one.member and one.said_ms >= fresh]
        return [*(name for name in members if name not in known), *joining]

    def replaced(self, lost: Worker) -> bool:
        """Returns whether live workers have all the partitions of this lost worker, and it was silent for longer than `REPLACED_S`."""
        live = [one for one in self.live() if one.status.stage == lost.status.stage]
        taken = {place for one in live for place in one.status.partitions}
        silent = self.clock.now_ms() - lost.said_ms > REPLACED_S * 1000
        return silent and bool(live) and lost.status.partitions.keys() <= taken

    def _counted(self) -> Iterator[tuple[Worker, bool]]:
        """Yields each worker's last report that counts, and whether the worker is in the group; and the reports of no member."""
        group = self._group
        if group is None:
            yield from ((worker, True) for worker in self._last.values())
            return
        for name, shown in group.members.items():
            if (worker := self._prove(name, shown)) is not None:
                yield worker, True
        for name, claim in self._last.items():
            if name in group.members:
                continue
            if name in self._proven:  # it has left
                yield self._proven[name][1], False
                continue
            plain = bool(group.plain) and not claim.status.number
            yield claim._replace(member=plain), plain

    def _forget(self) -> None:
        """Drops what no longer changes an answer, so that a reader that runs for days does not grow with the names on the topic.

        Ages are those beside the newest record: this host's clock may still be the substitute, and wrong.
        """
        members = self._group.members if self._group else {}
        kept, recent = self._newest - FORGET_S * 1000, self._newest - self.silence * 1000
        self._last = {name: one for name, one in self._last.items() if one.said_ms >= kept}
        self._proven = {name: one for name, one in self._proven.items() if name in members or name in self._last}
        self._unread = {name: waiting for name, waiting in self._unread.items() if name in members or waiting[-1].at_ms >= recent}

    def _later(self, report: _Report) -> None:
        """Keeps a signed report until `workers` is called. Only recent ones can count, so the others need not be verified."""
        waiting = self._unread.setdefault(report.status.worker, deque())
        waiting.append(report)
        while waiting[0].at_ms < report.at_ms - self.silence * 1000:
            waiting.popleft()

    def _prove(self, name: str, shown: Shown) -> Worker | None:
        """Returns the last report that this member has signed."""
        before = self._proven.get(name)
        worker = before[1] if before and before[0] == shown else None
        for report in self._unread.pop(name, ()):
            status = report.status
            if worker is not None and status.number <= worker.status.number:  # a copy of an earlier one
                continue
            if not shown.wrote(report.value, report.signature):
                self.strange["forged"] += 1
                self.last_strange = f"a report of {name} that it has not signed"
            elif worker is not None and worker.generation == status.generation:
                worker = worker._replace(status=status, said_ms=report.at_ms)
            else:
                worker = Worker(status, report.at_ms, report.at_ms, came_from=worker and worker.generation)
        if worker is not None:
            self._proven[name] = (shown, worker)
        return worker

    def proven(self, boundary: Boundary) -> bool:
        """Returns whether a member of the group has signed this boundary. One whose worker has left the group cannot be proven any more."""
        report, group = self._signed.get(key_of(boundary)), self._group
        shown = group.members.get(boundary.worker) if group else None
        return report is not None and shown is not None and shown.wrote(report.value, report.signature)

    def live(self) -> list[Worker]:
        """Returns the workers that are live now, by name."""
        return [worker for worker in self.workers() if worker.live]

    def claimed(self) -> set[str]:
        """Returns the stages that reports name, also forged ones."""
        return {stage for one in self._last.values() for stage in (one.status.stage, *one.status.stages)}

    def lacking(self) -> list[str]:
        """Returns the stages of a topology that is cut that no live worker runs."""
        live = [one for one in self.live() if not one.status.role]
        return sorted({stage for one in live for stage in one.status.stages} - {one.status.stage for one in live})

    def boundaries(self) -> list[Boundary]:
        """Returns where each generation began, sorted by topic, partition and offset.

        A boundary is left out when a later record has an earlier offset and a newer generation. Then its worker was killed before it
        committed its offsets, and the next worker scored these events again. A boundary with an older generation stays when it was
        recorded later: the partition moved to a worker that cannot serve the active generation.
        """
        written = {key_of(one): at for at, one in enumerate(self._boundaries.values())}
        found: list[Boundary] = []
        for one in sorted(self._boundaries.values(), key=lambda one: (*_place(one), one.offset)):
            last = found[-1] if found else one
            elsewhere, later = _place(last) != _place(one), written[key_of(one)] > written[key_of(last)]
            if elsewhere or later or last.generation <= one.generation:
                found.append(one)
        return found


def _place(one: Boundary) -> tuple[str, str, int]:
    return one.stage, one.topic, one.partition
