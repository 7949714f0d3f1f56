"""The number Z that each event adds to a comparison of a candidate with the live model: its mean is not above 0 when it is no better.

1. `paired`: both models have scored the event, as in a shadow. Z is the live model's loss less the candidate's, plus the margin.
2. `scored`: one of them has answered it, by chance. Z = (A - p)(m - Y) + p (1 - p) d, with the arm A (1 the candidate), its propensity p,
   the loss Y in [0, 1], a centre m that does not depend on the arm, and a margin d. Its mean is p (1 - p) times the live model's loss less
   the candidate's, plus d, whatever the base rate does and however p changes. Divided by the sum of p (1 - p) it is the effect, weighted by
   overlap (Li, Morgan, Zaslavsky, "Balancing covariates via propensity score weighting", JASA 113, 2018). Counts that are pooled over a
   ramp are not valid, and 1/p weights are not early on.

`Units` adds events by unit: V is the sum over units of the squared sum of the unit's Z.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from penstock.evidence.mean import Sums

__all__ = ["Loss", "Units", "losses", "paired", "scored"]

Floats = npt.NDArray[np.float64]
Loss = Literal["error_rate", "log_loss", "brier", "squared_error", "absolute_error"]

CLIP = 0.01  # of probabilities, for a log loss that one event does not decide
_LARGEST = -float(np.log(CLIP))


def losses(kind: Loss, score: Floats, outcome: Floats, threshold: float = 0.5) -> Floats:
    """Returns the loss of each event, [N], in [0, 1] for the first three: of a score (a probability), given the outcome (0 or 1).

    Log losses are of probabilities in [0.01, 0.99], and divided by the largest. Squared and absolute errors are of any numbers.
    """
    found: Floats
    match kind:
        case "error_rate":
            found = ((score >= threshold) != (outcome >= 0.5)).astype(np.float64)
        case "log_loss":
            p = np.clip(score, CLIP, 1 - CLIP)
            found = -(outcome * np.log(p) + (1 - outcome) * np.log1p(-p)) / _LARGEST
        case "brier" | "squared_error":
            found = (score - outcome) ** 2
        case "absolute_error":
            found = np.abs(score - outcome)
    return found


def paired(live: Floats, candidate: Floats, margin: float = 0.0) -> Floats:
    """Returns Z of events that both have scored: losses [N] each."""
    return live - candidate + margin


def scored(arm: Floats, propensity: Floats, loss: Floats, centre: Floats | float, margin: float = 0.0) -> tuple[Floats, Floats]:
    """Returns Z and the weight p (1 - p) of events that one has answered: arms (1 the candidate), propensities, losses, [N] each."""
    overlap = propensity * (1 - propensity)
    return (arm - propensity) * (centre - loss) + overlap * margin, overlap


class Units:
    """Sums by unit: of each its sum of Z, so that V is exact. One partition's: a unit is in one."""

    def __init__(self) -> None:
        self.sums = Sums()
        self._of: dict[Hashable, float] = {}

    def __len__(self) -> int:
        """Returns how many units there are."""
        return len(self._of)

    def add(self, units: Sequence[Hashable], z: Floats, weight: Floats | None = None) -> None:
        """Adds events: the unit of each, Z [N], and the weight [N] (1 each without)."""
        total, square, of = 0.0, 0.0, self._of
        for unit, one in zip(units, z.tolist(), strict=True):
            before = of.get(unit, 0.0)
            of[unit] = after = before + one
            total += one
            square += after * after - before * before
        heavy = float(len(z)) if weight is None else float(weight.sum())
        self.sums = self.sums + Sums(len(z), heavy, total, square)
