"""Which rows of a stage a candidate answers: those of a share of the units.

A unit is what is assigned as a whole: the value of a field of the event, or its record's key. Every row of a unit is answered by the same
plan, on every worker, after a restart and in a replay. A row without a unit is answered by the live plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from penstock.batch import Array
from penstock.engine.assign import numbers_of

__all__ = ["KEPT", "Router"]

LONGEST = 256  # characters of a unit whose number is kept
KEPT = 65_536  # units whose number is kept, of a trial: hashing one costs ten times as much as finding it


@dataclass(frozen=True, slots=True)
class Router:
    """The router of a trial: `experiment` is its release, and `share` that of the units, 0 to 1.

    `unit` is the field of the event, "" for the record's key. `numbers` are those of units that were seen.
    """

    experiment: str
    share: float
    unit: str = ""
    numbers: dict[object, float] = field(default_factory=dict, repr=False, compare=False)

    def chosen(self, units: Sequence[object]) -> tuple[Array, Array]:
        """Returns which of the rows the candidate answers, bool `[N]`, and which have no unit, bool `[N]`."""
        numbers = self._of(units)
        return numbers < self.share, np.isnan(numbers)

    def _of(self, units: Sequence[object]) -> Array:
        """Returns the number of each unit, NaN where a row has no unit: float64 `[N]`."""
        known = self.numbers
        try:
            found = [*map(known.__getitem__, units)]  # of every row: a comprehension takes longer
        except KeyError:
            new = {unit for unit in units if unit not in known}
            if len(known) + len(new) > KEPT:
                known.clear()
                new = {*units}
            known.update(zip(new, numbers_of("", self.experiment, "", [_bytes(unit) for unit in new]).tolist(), strict=True))
            known[None] = np.nan
            found = [*map(known.__getitem__, units)]
            for unit in new:
                if isinstance(unit, str | bytes) and len(unit) > LONGEST:
                    del known[unit]
        return np.array(found, np.float64)


def _bytes(unit: object) -> bytes:
    """Returns the unit as the bytes that a key on Kafka has."""
    return unit if isinstance(unit, bytes) else str(unit).encode()
