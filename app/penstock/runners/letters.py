"""Reports dead letters in the log: one line for the first, then at most one per minute, so that a flood of them does not fill it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

from penstock.parcel import Parcel

__all__ = ["EVERY", "Letters"]

logger = logging.getLogger(__name__)

EVERY = 60.0  # seconds


class Letters:
    """Call it with the dead letters that were acknowledged. The metric `dead_letters` counts all of them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._reported = -math.inf
        self._count = 0  # since then

    def __call__(self, letters: Parcel) -> None:
        self._count += len(letters)
        now = self._clock()
        if now - self._reported < EVERY:
            return
        headers = {name: (value or b"").decode(errors="replace") for name, value in (letters.extra[-1] if letters.extra else ())}
        place = ":".join(headers.get(f"__streams.errors.{part}", "?") for part in ("topic", "partition", "offset"))
        why = headers.get("__streams.errors.message", "")
        logger.warning("dead letters in %s: %d, the last one for %s: %s", letters.topic, self._count, place, why)
        self._reported, self._count = now, 0
