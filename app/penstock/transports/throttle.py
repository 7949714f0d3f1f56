"""Which partitions are slowed because too many of their records fail: a budget of dead letters per second for each partition.

1. A partition may cause `rate` dead letters per second. Its budget grows by that, up to what one second gives.
2. A dead letter takes one from the budget. When it is used up, nothing of the partition is taken until it is full again (a fetch per
   second is enough); other partitions go on. So after the first batch of a flood, which is written whole, the partition keeps to its rate.
3. After that, so many records are taken at once as the budget lasts for, by the share of the partition's last records that failed.

Pure: the clock is an argument. `tests/properties/test_throttle.py` tests these rules.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from penstock.transports.tracker import Partition

__all__ = ["Throttle"]

RECENT: Final = 0.2  # the weight of the last group of records in the share that fails
SHOWN: Final = 5.0  # seconds for which a partition counts as slowed after it has waited


@dataclass(slots=True)
class _Budget:
    left: float
    at: float
    share: float = 0.0  # of the last records: how many became dead letters
    waits: float = -math.inf  # until when it waits, or waited last


class Throttle:
    """The budgets of the partitions. `rate` is in dead letters per second; 0: no limit, and nothing is counted."""

    def __init__(self, rate: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._clock = clock
        self._burst = max(rate, 1.0)
        self._budgets: dict[Partition, _Budget] = {}

    def count(self, partition: Partition, letters: int, records: int) -> None:
        """Notes that `letters` of `records` of the partition became dead letters; 0 records: later ones of records that were counted."""
        if not self.rate or (not letters and partition not in self._budgets):
            return
        budget = self._now(partition)
        budget.left -= letters
        if records:
            share = letters / records
            budget.share = budget.share + (share - budget.share) * RECENT if budget.share else share
        if budget.left <= 0:
            budget.waits = budget.at + (self._burst - budget.left) / self.rate
        elif not letters and budget.left >= self._burst and not self.slowed(partition):
            del self._budgets[partition]  # it has recovered

    def delay(self, partition: Partition) -> float:
        """Returns the seconds for which nothing of the partition is to be taken; 0: it may be taken."""
        budget = self._budgets.get(partition)
        return 0.0 if budget is None else max(budget.waits - self._clock(), 0.0)

    def rows(self, partition: Partition) -> int | None:
        """Returns how many records may be taken from the partition at once; None: as many as there are."""
        if not self._budgets or partition not in self._budgets:
            return None
        budget = self._now(partition)
        return max(1, math.floor(max(budget.left, 0) / budget.share)) if budget.share else None

    def slowed(self, partition: Partition) -> bool:
        """Returns whether the partition waits for its budget, or has done so within the last SHOWN seconds."""
        return partition in self._budgets and self._clock() < self._budgets[partition].waits + SHOWN

    def _now(self, partition: Partition) -> _Budget:
        now = self._clock()
        budget = self._budgets.setdefault(partition, _Budget(self._burst, now))
        budget.left = min(self._burst, budget.left + (now - budget.at) * self.rate)
        budget.at = now
        return budget
