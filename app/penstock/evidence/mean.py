"""Whether a mean is above zero, from evidence that may be looked at as often as one likes, and added up in any order.

A comparison of two models gives each event a number Z whose mean is not above 0 when the candidate is no better (`losses`). The sums of Z
are all that is kept. From them an e-process E is computed: if the candidate is no better, the chance that E ever comes to 1/alpha is at
most alpha, however often one looks. So it is enough to act when E does.

1. `Sums`: asymptotic. S = sum Z and V = the sum over units of (the unit's sum of Z) squared. A unit is what was assigned to an arm, such
   as a customer; its events are not independent, so they must not count as if they were.
2. `Bets`: exact at any size, for outcomes that are rare. The mean over a fixed grid of bets L of prod(1 + L Z): a sum of logarithms per
   bet. Units must be independent: one event of each.

Both are additive over partitions and workers, and say the same after a replay.

Sources: Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences", Annals of
Statistics 52 (2024), https://arxiv.org/abs/2103.06476 (equations 9, 155 and 161; the one-sided mixture is the half-normal one);
Waudby-Smith, Ramdas, "Estimating means of bounded random variables by betting", JRSS-B 86 (2024), https://arxiv.org/abs/2010.09686.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["BETS", "Bets", "Interval", "Sums", "growth", "log_evidence", "radius"]

Floats = npt.NDArray[np.float64]

BETS: Final[Floats] = np.geomspace(0.005, 0.9, 16)  # fractions of the largest bet that can lose no more than everything
_SERIES: Final = -6.0  # below it, the logarithm of the normal distribution is a series
_erfc = np.frompyfunc(math.erfc, 1, 1)


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its confidence sequence: the chance that it ever lies outside is at most alpha."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Sums:
    """Additive sums over events. `count` events, `weight` the sum of what the mean is divided by, `total` S, `square` V by unit."""

    count: int = 0
    weight: float = 0.0
    total: float = 0.0
    square: float = 0.0

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.count + other.count, self.weight + other.weight, self.total + other.total, self.square + other.square)

    def log_evidence(self, planned: float, alpha: float) -> float:
        """Returns log E, that the mean is above 0. `planned` is the V at which it is to be strongest."""
        return float(log_evidence(self.total, self.square, growth(planned, alpha)))

    def interval(self, planned: float, alpha: float) -> Interval:
        """Returns the mean, S divided by the weight, with its two-sided confidence sequence at 1 - alpha. Infinite without events."""
        if self.weight <= 0:
            return Interval(math.nan, -math.inf, math.inf)
        mean, wide = self.total / self.weight, radius(self.square, growth(planned, alpha), alpha) / self.weight
        return Interval(mean, mean - wide, mean + wide)


def growth(planned: float, alpha: float) -> float:
    """Returns the parameter rho squared of the mixture that is strongest at V = `planned` > 0, for 0 < alpha < 1 (equation 161)."""
    return (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / planned


def log_evidence(total: npt.ArrayLike, square: npt.ArrayLike, rho: float) -> Floats:
    """Returns log E of each pair of S and V (float64, any shape), that the mean is above 0."""
    s, v = np.asarray(total, np.float64), np.asarray(square, np.float64)
    wide = 1 + v * rho
    return math.log(2) - 0.5 * np.log(wide) + rho * s * s / (2 * wide) + _log_normal(s * np.sqrt(rho / wide))


def radius(square: float, rho: float, alpha: float) -> float:
    """Returns by how much S may differ from its expectation at any time, with a chance of at least 1 - alpha (equation 9)."""
    wide = 1 + square * rho
    return math.sqrt(2 * wide / rho * math.log(math.sqrt(wide) / alpha))


def _log_normal(x: Floats) -> Floats:
    """Returns the logarithm of the normal distribution function, also where that is too small for a float."""
    with np.errstate(divide="ignore"):
        near = np.log(0.5 * np.asarray(_erfc(-np.maximum(x, _SERIES) / math.sqrt(2)), np.float64))
    far = np.minimum(x, _SERIES)
    square = 1 / (far * far)
    series = 1 - square * (1 - square * (3 - square * (15 - square * 105)))
    return np.where(x > _SERIES, near, -0.5 * far * far - np.log(-far * math.sqrt(2 * math.pi)) + np.log(series))


@dataclass(frozen=True, slots=True)
class Bets:
    """Sums of log(1 + L Z) over events, for a fixed grid of bets L: `logs` float64 [J]. `worst` is the largest loss: Z >= -worst > -inf."""

    worst: float
    logs: Floats = field(default_factory=lambda: np.zeros(len(BETS)))
    count: int = 0

    def __add__(self, other: Bets) -> Bets:
        """Raises ValueError for bets of another scale: they are not the same grid."""
        if self.worst != other.worst:
            raise ValueError("bets of two scales cannot be added")
        return Bets(self.worst, self.logs + other.logs, self.count + other.count)

    def add(self, z: Floats) -> Bets:
        """Returns the sums with these events, [N]. Raises ValueError for a loss that is larger than `worst`."""
        if len(z) and float(z.min()) < -self.worst * (1 + 1e-12):
            raise ValueError(f"a loss of {-float(z.min()):g} is larger than {self.worst:g}")
        return Bets(self.worst, self.logs + np.log1p(np.outer(BETS / self.worst, z)).sum(axis=1), self.count + len(z))

    def log_evidence(self) -> float:
        """Returns log E, that the mean is above 0."""
        return float(log_mean(self.logs))


def log_mean(logs: npt.NDArray[Any]) -> Floats:
    """Returns the logarithm of the mean of exp over the last axis."""
    most = logs.max(axis=-1, keepdims=True)
    found: Floats = most[..., 0] + np.log(np.exp(logs - most).mean(axis=-1))
    return found
