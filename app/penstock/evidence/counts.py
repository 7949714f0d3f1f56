"""Whether counts by arm are what the assignment makes of them: failures of a candidate, shares of arms, labels that came.

1. `Failures`: does the candidate fail more often than `tolerated` times the live model? Only failures count. Given one, the chance that it
   is the candidate's is p r / (p r + 1 - p), for a ratio r of the failure rates and a propensity p. The base rate cancels, so it may drift.
   The e-process is a mean over ratios above the tolerated one.
2. `Shares`: do units come to the arms in the stated shares? A Dirichlet-multinomial mixture. It begins again when they change, and the
   evidence of the stages is multiplied.

Source: Lindon, Malek, "Anytime-valid inference for multinomial count data", NeurIPS 2022, https://arxiv.org/abs/2011.03567.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from penstock.evidence.mean import log_mean

__all__ = ["Failures", "Shares", "log_ratio"]

Floats = npt.NDArray[np.float64]

RATIOS = np.geomspace(1.1, 10, 12)  # above the tolerated one
FIRST = 20  # a candidate that fails all of so many events is broken, whatever the statistics say


@dataclass(frozen=True, slots=True)
class Failures:
    """Sums over failures of one kind: `logs` float64 [J], the log likelihood ratios, and how many failures each of the models has."""

    tolerated: float = 1.25
    logs: Floats = field(default_factory=lambda: np.zeros(len(RATIOS)))
    candidate: int = 0
    live: int = 0

    def __add__(self, other: Failures) -> Failures:
        """Raises ValueError for another tolerated ratio."""
        if self.tolerated != other.tolerated:
            raise ValueError("failures of two tolerated ratios cannot be added")
        return Failures(self.tolerated, self.logs + other.logs, self.candidate + other.candidate, self.live + other.live)

    def add(self, propensity: float, candidate: int, live: int) -> Failures:
        """Returns the sums with failures that happened while the candidate had this propensity. One of 0 or 1 compares nothing."""
        if not 0 < propensity < 1:
            return self
        ours, theirs = log_ratio(propensity, self.tolerated)
        return Failures(self.tolerated, self.logs + candidate * ours + live * theirs, self.candidate + candidate, self.live + live)

    def worse(self, alpha: float) -> bool:
        """Returns whether it does: with a chance of at most `alpha` although it does not, however often one asks."""
        return self.log_evidence() >= -math.log(alpha)

    def log_evidence(self) -> float:
        """Returns log E, that the candidate fails more than `tolerated` times as often."""
        return float(log_mean(self.logs))


def log_ratio(propensity: float, tolerated: float) -> tuple[Floats, Floats]:
    """Returns what a failure of the candidate, and what one of the live model, adds to the log likelihood ratios: float64 [J] each."""
    before = propensity * tolerated / (propensity * tolerated + 1 - propensity)
    ratios = tolerated * RATIOS
    after = propensity * ratios / (propensity * ratios + 1 - propensity)
    return np.log(after / before), np.log((1 - after) / (1 - before))


@dataclass(frozen=True, slots=True)
class Shares:
    """Units by arm since the shares were last changed, and the log evidence of the stages before.

    `strength` is how closely the alternatives lie around the stated shares: a larger one finds smaller differences, later.
    """

    shares: tuple[float, ...]
    counts: tuple[int, ...] = ()
    strength: float = 1e4
    before: float = 0.0

    def add(self, counts: Sequence[int]) -> Shares:
        """Returns the counts with more units, by arm."""
        own = self.counts or (0,) * len(self.shares)
        return Shares(self.shares, tuple(a + b for a, b in zip(own, counts, strict=True)), self.strength, self.before)

    def changed(self, shares: tuple[float, ...]) -> Shares:
        """Returns the begin of a stage with these shares."""
        return Shares(shares, (), self.strength, self.log_evidence())

    def log_evidence(self) -> float:
        """Returns log E, that the units do not come in the stated shares."""
        counts, k = self.counts or (0,) * len(self.shares), self.strength
        found = self.before + math.lgamma(k) - math.lgamma(k + sum(counts))
        for share, count in zip(self.shares, counts, strict=True):
            if share > 0:
                found += math.lgamma(k * share + count) - math.lgamma(k * share) - count * math.log(share)
            elif count:
                return math.inf  # units in an arm that has none
        return found
