"""Adaptive batching: which of the waiting requests run together next. Pure: the clock's time is an argument.

1. Requests wait in lanes, one per model; the rows of one lane can run together. Each lane is first in, first out, and the lane whose first
   request has waited longest is next.
2. Nothing waits for company in here: what waits when the models are free is a batch. Under load that is what has come while the batch
   before it ran; when idle it is one request.
3. A batch has at most `max_rows` rows, and no more than lets its members meet their deadlines.
4. A lane's cost model, duration = a * rows + b, is fitted to its last runs. A request whose own run would end after its deadline is
   refused with TooLate; one that would be late because of what waits before it, or for whose bytes there is no room, with Overloaded.
   A refusal makes the model doubt its estimate, so that one slow run (the process was paused) does not refuse every later request.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from penstock.errors import Overloaded, TooLarge, TooLate

__all__ = ["OVERHEAD", "Batcher", "Cost", "Waiting"]

FADES: Final = 0.9  # weight of a run relative to the next one: the last 20 or so count
OVERHEAD: Final = 1024  # bytes of a waiting request beside its body
LEAST_RETRY: Final = 0.05  # seconds

W = TypeVar("W", bound="Waiting")


@dataclass(slots=True, kw_only=True)
class Waiting:
    """A request that waits: how many rows and bytes it has, and when its answer is too late (seconds, of the batcher's clock)."""

    rows: int
    bytes: int
    deadline: float
    since: float = 0.0
    gone: bool = False  # its caller has left: it is dropped when its turn comes


class Cost:
    """A line through the durations of the last runs: least squares, where each run counts FADES of the next one."""

    __slots__ = ("_d", "_n", "_nd", "_nn", "_w", "fixed", "per_row")

    def __init__(self) -> None:
        self._w = self._n = self._d = self._nn = self._nd = 0.0
        self.per_row = self.fixed = 0.0  # seconds; before the first run nothing is known, and nothing is refused

    def ran(self, rows: int, seconds: float) -> None:
        """Counts a run of so many rows, which took so long."""
        self._w = self._w * FADES + 1
        self._n = self._n * FADES + rows
        self._d = self._d * FADES + seconds
        self._nn = self._nn * FADES + rows * rows
        self._nd = self._nd * FADES + rows * seconds
        spread = self._w * self._nn - self._n * self._n
        if spread > 1e-9 * self._nn * self._w:
            slope = (self._w * self._nd - self._n * self._d) / spread
            self.per_row = min(max(slope, 0.0), self._d / self._n)
        else:  # runs of one size: all of it is taken as per row, which overestimates larger runs and so never promises too much
            self.per_row = self._d / self._n
        self.fixed = max((self._d - self.per_row * self._n) / self._w, 0.0)

    def doubt(self) -> None:
        """Lowers the estimate, because a request was refused for it."""
        self._d *= FADES
        self._nd *= FADES
        self.per_row *= FADES
        self.fixed *= FADES

    def of(self, rows: int) -> float:
        """Returns how long a run of so many rows is expected to take, in seconds."""
        return self.per_row * rows + self.fixed


@dataclass(slots=True)
class _Lane(Generic[W]):
    waiting: deque[W] = field(default_factory=deque)
    rows: int = 0
    cost: Cost = field(default_factory=Cost)


@dataclass(slots=True)
class Batch(Generic[W]):
    """What runs next: the requests of one lane in order, and those of it that are too late by now."""

    lane: Hashable
    members: list[W]
    late: list[W]
    rows: int
    expected: float  # seconds


class Batcher(Generic[W]):
    """The requests that wait. One reader: `offer` adds, `take` removes, `ran` reports how long a batch took."""

    def __init__(self, *, max_rows: int, max_bytes: int) -> None:
        self.max_rows, self.max_bytes = max_rows, max_bytes
        self.bytes = 0
        self.rows = 0
        self._lanes: dict[Hashable, _Lane[W]] = {}
        self._until = 0.0  # when the batch that runs now is expected to end

    def __len__(self) -> int:
        return sum(len(lane.waiting) for lane in self._lanes.values())

    def __bool__(self) -> bool:
        return self.rows > 0

    def offer(self, lane: Hashable, one: W, now: float) -> None:
        """Adds a request. Raises TooLarge, TooLate or Overloaded; then it was not added."""
        if one.rows > self.max_rows:
            raise TooLarge(f"{one.rows} rows in one request; at most {self.max_rows} are answered together: send them in several requests")
        found = self._lanes.get(lane)
        if found is None:
            found = self._lanes[lane] = _Lane()
        weight = one.bytes + OVERHEAD
        if self.bytes + weight > self.max_bytes:
            raise Overloaded("too many bytes of requests are waiting", retry_after=self._retry(now))
        own = found.cost.of(one.rows)
        if now + own > one.deadline:
            found.cost.doubt()
            if now >= one.deadline:
                raise TooLate("the deadline of the request has passed before it could wait for its turn")
            rows = f"{one.rows} rows take" if one.rows > 1 else "the row takes"
            raise TooLate(f"{rows} about {_shown(own)}, which is longer than the request may take")
        if self.rows or self._until > now:
            wait = self._wait(now)
            if now + wait + own > one.deadline:
                raise Overloaded(
                    f"requests wait about {_shown(wait)}, which is longer than this one may take", retry_after=self._retry(now)
                )
        one.since = now
        found.waiting.append(one)
        found.rows += one.rows
        self.rows += one.rows
        self.bytes += weight

    def take(self, now: float) -> Batch[W] | None:
        """Removes the next batch and returns it; None when nothing waits. A batch without members has only late ones."""
        chosen: Hashable = None
        lane: _Lane[W] | None = None
        for name, other in self._lanes.items():
            if other.waiting and (lane is None or other.waiting[0].since < lane.waiting[0].since):
                chosen, lane = name, other
        if lane is None:
            return None
        members: list[W] = []
        late: list[W] = []
        rows, end = 0, float("inf")
        waiting, cost = lane.waiting, lane.cost
        while waiting:
            one = waiting[0]
            if not one.gone:
                if now + cost.of(one.rows) > one.deadline:
                    late.append(one)
                    cost.doubt()
                else:
                    together = rows + one.rows
                    if together > self.max_rows or (members and now + cost.of(together) > min(end, one.deadline)):
                        break
                    members.append(one)
                    rows, end = together, min(end, one.deadline)
            waiting.popleft()
            lane.rows -= one.rows
            self.rows -= one.rows
            self.bytes -= one.bytes + OVERHEAD
        expected = cost.of(rows)
        self._until = now + expected
        return Batch(chosen, members, late, rows, expected)

    def ran(self, lane: Hashable, rows: int, seconds: float, now: float) -> None:
        """Reports that a batch of so many rows took so long."""
        self._until = now
        if (found := self._lanes.get(lane)) is not None and rows:
            found.cost.ran(rows, seconds)

    def forget(self, lane: Hashable) -> None:
        """Drops the cost model of a lane, since another model runs in it now."""
        if (found := self._lanes.get(lane)) is not None:
            found.cost = Cost()

    def expects(self, lane: Hashable, rows: int) -> float:
        """Returns how long so many rows of the lane are expected to take, in seconds; 0 before its first run."""
        found = self._lanes.get(lane)
        return 0.0 if found is None else found.cost.of(rows)

    def _wait(self, now: float) -> float:
        """Returns in how many seconds all that waits now will have run."""
        ahead = sum(
            lane.cost.per_row * lane.rows + lane.cost.fixed * -(-lane.rows // self.max_rows) for lane in self._lanes.values() if lane.rows
        )
        return ahead + max(self._until - now, 0.0)

    def _retry(self, now: float) -> float:
        return max(self._wait(now), LEAST_RETRY)


def _shown(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.{0 if seconds >= 0.01 else 2}f} ms"
