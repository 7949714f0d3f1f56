"""Requirements: thresholds that the metrics in a model's manifest must meet before the model may serve at a node."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping
from typing import Final

from penstock.topology.spec import Mark, Requirement

__all__ = ["THRESHOLD", "requirement", "unmet"]

# More digits than anyone needs, and no exponent that makes a bound infinite.
THRESHOLD: Final = r"^(>=|<=|>|<) *([-+]?(?:[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE][-+]?[0-9]{1,2})?)$"
_HOLDS: Final = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}


def requirement(metric: str, text: str, mark: Mark) -> Requirement | None:
    """Splits `text` (">= 0.85") into a Requirement; returns None when it is not a threshold."""
    found = re.fullmatch(THRESHOLD, text)
    return Requirement(metric, found[1], float(found[2]), mark) if found else None


def unmet(requirements: Iterable[Requirement], metrics: Mapping[str, float]) -> list[str]:
    """Returns a message for each requirement that `metrics` do not meet. NaN meets no requirement."""
    messages = []
    for one in requirements:
        bound = f"{one.comparison} {one.bound:.15g}"
        if one.metric not in metrics:
            there = f"known: {', '.join(metrics)}" if metrics else "there are no metrics"
            messages.append(f"{one.metric} is missing, required is {bound}; {there}")
        elif not _HOLDS[one.comparison](value := metrics[one.metric], one.bound):
            short = f"{value:.6g}"  # a value that would meet the bound once rounded is shown in full
            shown = repr(value) if _HOLDS[one.comparison](float(short), one.bound) else short
            messages.append(f"{one.metric} is {shown}, required is {bound}")
    return messages
