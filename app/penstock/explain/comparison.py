"""Compares a published value with the one computed today, field by field.

The processor may use other instructions for a single row than for a batch, which changes the last digits of a float. So floats within
`TOLERANCE` of each other have a verdict between equal and different. The tolerance is relative to the larger one, and absolute below 1:
when a float32 was subtracted from 1, as for the smaller of two probabilities, the digits that change are those of the 1 (measured on
the flights: up to 1.7e-6 of a probability of 0.03, and 1.2e-7 absolute).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

__all__ = ["ABSENT", "TOLERANCE", "Compared", "Verdict", "compare", "compare_values", "worst"]

TOLERANCE: Final = 1e-6


class Verdict(StrEnum):
    """The result of comparing two values."""

    EQUAL = "equal"
    CLOSE = "within 1e-6"
    DIFFERENT = "DIFFERENT"


class _Absent:
    """The value of a missing field."""

    def __repr__(self) -> str:
        return "(absent)"


ABSENT: Final = _Absent()


@dataclass(frozen=True, slots=True)
class Compared:
    """A field as it was published, and as it was computed again."""

    name: str
    published: Any
    again: Any
    verdict: Verdict


def compare(published: Mapping[str, Any], again: Mapping[str, Any]) -> tuple[Compared, ...]:
    """Compares every field of either event, in their order."""
    names = dict.fromkeys([*again, *published])
    pairs = [(name, published.get(name, ABSENT), again.get(name, ABSENT)) for name in names]
    return tuple(Compared(name, one, other, compare_values(one, other)) for name, one, other in pairs)


def compare_values(one: Any, other: Any) -> Verdict:
    """Returns EQUAL for the same value and type, CLOSE for floats within the tolerance; for arrays and records the worst of the parts."""
    if isinstance(one, float) and isinstance(other, float):
        if one == other or (one != one and other != other):
            return Verdict.EQUAL
        return Verdict.CLOSE if math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE) else Verdict.DIFFERENT
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return worst(map(compare_values, one, other))
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return worst(compare_values(one[name], other[name]) for name in one)
    return Verdict.EQUAL if type(one) is type(other) and one == other else Verdict.DIFFERENT


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Returns the worst verdict; EQUAL without any."""
    return max(verdicts, key=list(Verdict).index, default=Verdict.EQUAL)
