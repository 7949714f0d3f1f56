"""Thompson sampling with propensities: how likely each arm is to be the best one, and by that how often it answers.

An arm's rate of success has a Beta distribution of its successes and failures. Its propensity is the probability that its rate is the
largest, integrated on a fixed grid: the same numbers give the same propensities, so a replay chooses the same arms. They are fixed for a
batch and written with each answer; the arm is chosen by the unit's hash against them.

Each arm keeps a floor, as an arm that is never chosen can neither be learned nor compared. With a discount, what is old counts less.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["Arms", "best", "with_floor"]

Floats = npt.NDArray[np.float64]

_GRID: Final = 2001  # points


@dataclass(frozen=True, slots=True)
class Arms:
    """Successes and failures of each arm, float64 [K] each, above the prior of one each."""

    successes: Floats
    failures: Floats

    @classmethod
    def of(cls, count: int) -> Arms:
        """Returns arms without any outcome."""
        return cls(np.zeros(count), np.zeros(count))

    def add(self, successes: Sequence[float] | Floats, failures: Sequence[float] | Floats, keep: float = 1.0) -> Arms:
        """Returns the arms with more outcomes; `keep` is the share to which the ones before are discounted."""
        return Arms(self.successes * keep + np.asarray(successes, np.float64), self.failures * keep + np.asarray(failures, np.float64))

    def propensities(self, floor: float) -> Floats:
        """Returns the propensity of each arm, float64 [K]: that of being the best, and at least `floor` <= 1/(2K)."""
        return with_floor(best(self.successes + 1, self.failures + 1), floor)


def best(a: Floats, b: Floats) -> Floats:
    """Returns the probability that each of K independent Beta(a, b) variables is the largest, float64 [K]."""
    mean = a / (a + b)
    deviation = np.sqrt(mean * (1 - mean) / (a + b + 1))
    low, high = max(float((mean - 8 * deviation).min()), 0.0), min(float((mean + 8 * deviation).max()), 1.0)
    x = np.linspace(low, high, _GRID)
    middle = (x[1:] + x[:-1]) / 2
    scale = np.array([math.lgamma(p + q) - math.lgamma(p) - math.lgamma(q) for p, q in zip(a.tolist(), b.tolist(), strict=True)])
    density = np.exp(scale[:, None] + (a[:, None] - 1) * np.log(middle) + (b[:, None] - 1) * np.log1p(-middle))
    mass = density / density.sum(axis=1, keepdims=True)
    below = np.cumsum(mass, axis=1) - mass / 2
    sums = np.array([(mass[at] * np.delete(below, at, axis=0).prod(axis=0)).sum() for at in range(len(a))])
    found: Floats = sums / sums.sum()
    return found


def with_floor(propensities: Floats, floor: float) -> Floats:
    """Returns the propensities, each at least `floor`. Raises ValueError for a floor above 1/(2K)."""
    count = len(propensities)
    if not 0 <= floor <= 1 / (2 * count):
        raise ValueError(f"a floor of {floor:g} for {count} arms: at most {1 / (2 * count):g}")
    found: Floats = floor + (1 - count * floor) * propensities
    return found
