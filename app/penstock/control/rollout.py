"""When a release is activated and when it is aborted: a pure function of what the live workers report about it.

| live workers | without `min_ready` | with `min_ready` N |
|---|---|---|
| all ready, at least one | activate | activate if they are N |
| N ready, others not yet | wait for them | activate: the others switch as they become ready |
| one failed | give up | give up only if fewer than N are ready or may still become ready |
| none | wait: they may return, and the timeout ends the wait | activate if N is 0 |

A lost worker is not counted; one that joins during the rollout is. A worker that has refused the release (another trust file, a wrong
clock) counts as failed. A live worker of an older Penstock, which cannot read the messages that are written here, ends a release for
any `min_ready` (`outdated`): it would continue with the previous models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum, auto
from types import MappingProxyType
from typing import Final, NamedTuple

from penstock.control.fleet import Worker
from penstock.control.lifecycle import State
from penstock.control.trust import NEXT

__all__ = ["REFUSED", "Stand", "Verdict", "outdated", "stands", "verdict"]

_READY: Final = frozenset({State.READY, State.CANDIDATE, State.LIVE})
REREAD_MS: Final = 4000  # a worker that refuses for less may not have read a trust file that has just changed
REFUSED: Final = "refused"  # the worker's trust file or clock; not a state of its lifecycle, since it has no case for the release
_FAILED: Final = frozenset({State.FAILED, State.ABORTED, State.STALE, REFUSED})
UNHEARD: Final = "no report yet"


class Stand(NamedTuple):
    """The state of a release on one worker: a `lifecycle.State`, `REFUSED`, or "" while the worker has not reported it.

    A lost one is not counted.
    """

    worker: str
    state: str
    detail: str = ""
    since: str = ""
    live: bool = True

    @property
    def ready(self) -> bool:
        return self.state in _READY

    @property
    def failed(self) -> bool:
        return self.state in _FAILED

    def __str__(self) -> str:
        return f"{self.worker}: {self.step}" + (f": {self.detail}" if self.detail else "")

    @property
    def step(self) -> str:
        """The state in words."""
        return (self.state or UNHEARD) if self.live else f"lost{f' while {self.state}' if self.state else ''}"


class Verdict(Enum):
    """What to do now."""

    WAIT = auto()
    ACTIVATE = auto()
    GIVE_UP = auto()


def outdated(workers: Iterable[Worker]) -> list[Stand]:
    """Returns the live workers that cannot read what is written here, each as failed with the reason."""
    return [Stand(worker.name, State.FAILED, worker.outdated) for worker in workers if worker.live and worker.outdated]


def stands(workers: Iterable[Worker], release: str, messages: Mapping[int, int] = MappingProxyType({})) -> list[Stand]:
    """Returns the state of the release on each worker.

    `messages` are those that announced and activated it: by offset, the broker's stamp in ms.
    """
    return [_refused(worker, messages) or _told(worker, release) for worker in workers]


def _told(worker: Worker, release: str) -> Stand:
    told = next((one for one in worker.status.releases if one.id == release), None)
    return Stand(worker.name, told.state, told.detail, told.since, worker.live) if told else Stand(worker.name, "", live=worker.live)


def _refused(worker: Worker, messages: Mapping[int, int]) -> Stand | None:
    """Returns the state of a worker that has refused one of the messages, with the code, the reason and what to do; else None."""
    found = next((one for one in worker.status.refusals if one.offset in messages), None)
    if found is None or worker.said_ms < messages[found.offset] + REREAD_MS:
        return None
    advice = f"; {NEXT[found.code]}" if found.code in NEXT else ""
    return Stand(worker.name, REFUSED, f"{found.code}: {found.why}{advice}", live=worker.live)


def verdict(stands: Sequence[Stand], min_ready: int | None) -> Verdict:
    """Returns the verdict by the table above."""
    live = [one for one in stands if one.live]
    ready = sum(one.ready for one in live)
    failed = sum(one.failed for one in live)
    if min_ready is None:
        if failed:
            return Verdict.GIVE_UP
        return Verdict.ACTIVATE if live and ready == len(live) else Verdict.WAIT
    if ready >= min_ready:
        return Verdict.ACTIVATE
    return Verdict.GIVE_UP if failed and len(live) - failed < min_ready else Verdict.WAIT
