"""Dead letters as a person sees them: in the log, and per second in the worker's status, by the step that failed and the kind of error.

The log has one line for the first, then at most one per minute, so that a flood of them does not fill it. The metric `dead_letters`
counts all of them; this compares what it counted at two moments.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from penstock.control.status import Cause, DeadLetters
from penstock.parcel import Parcel
from penstock.telemetry import Metrics
from penstock.telemetry.families import Labels

__all__ = ["EVERY", "WINDOW", "Letters"]

logger = logging.getLogger(__name__)

EVERY: Final = 60.0  # seconds between two lines of the log
WINDOW: Final = 60.0  # seconds that count as recent
APART: Final = 1.0  # seconds between two moments that are kept


class _Moment(NamedTuple):
    """The counts at a moment: records finished, and dead letters by step and kind of error."""

    at: float
    records: int
    letters: Mapping[Labels, int]


class Letters:
    """Call it with dead letters that were acknowledged and counted in `metrics`."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics, self._clock = metrics, clock
        self._reported: _Moment = _Moment(-math.inf, 0, {})
        self._moments: deque[_Moment] = deque([self._now()])

    def _now(self) -> _Moment:
        letters = {labels: int(cell.value) for labels, cell in self._metrics.dead_letters}
        return _Moment(self._clock(), int(self._metrics.records_in.value), letters)

    def __call__(self, letters: Parcel) -> None:
        if self._clock() - self._reported.at < EVERY:
            return
        before, self._reported = self._reported, self._now()
        new = {labels: count - before.letters.get(labels, 0) for labels, count in self._reported.letters.items()}
        why = ", ".join(f"{count} {step} {reason}" for (step, reason), count in sorted(new.items(), key=lambda one: -one[1]) if count)
        headers = {name: (value or b"").decode(errors="replace") for name, value in (letters.extra[-1] if letters.extra else ())}
        place = ":".join(headers.get(f"__streams.errors.{part}", "?") for part in ("topic", "partition", "offset"))
        message = headers.get("__streams.errors.message", "")
        logger.warning("dead letters: %d (%s), the last one in %s for %s: %s", sum(new.values()), why, letters.topic, place, message)

    def recent(self) -> DeadLetters:
        """Returns the counts of the last WINDOW seconds, or since the start."""
        now = self._now()
        while len(self._moments) > 1 and self._moments[1].at <= now.at - WINDOW:
            self._moments.popleft()
        then = self._moments[0]
        if now.at - self._moments[-1].at >= APART:
            self._moments.append(now)
        causes = [
            Cause(step=step, reason=reason, total=total, recent=total - then.letters.get((step, reason), 0))
            for (step, reason), total in now.letters.items()
        ]
        return DeadLetters(seconds=round(now.at - then.at, 3), records=now.records - then.records, causes=causes)
