"""A published value beside the one that comes out today, field by field.

A row that is scored alone may take other instructions of the processor than in its batch, which moves the last digits of a float;
so a float that is within `TOLERANCE` of the other is as good as equal, and said to be only that. Relative to the larger one, and
absolute below 1: where a float32 was taken from 1, as in the small one of two probabilities, the digits that move are those of the 1
(measured on the flights: up to 1.7e-6 of a probability of 0.03, and 1.2e-7 absolute).
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
    """How two values stand to each other."""

    EQUAL = "equal"
    CLOSE = "within 1e-6"
    DIFFERENT = "DIFFERENT"


class _Absent:
    """The value of a field that is not there."""

    def __repr__(self) -> str:
        return "(absent)"


ABSENT: Final = _Absent()


@dataclass(frozen=True, slots=True)
class Compared:
    """A field as it was published, and as it comes out again."""

    name: str
    published: Any
    again: Any
    verdict: Verdict


def compare(published: Mapping[str, Any], again: Mapping[str, Any]) -> tuple[Compared, ...]:
    """Every field of either event, in their order."""
    names = dict.fromkeys([*again, *published])
    pairs = [(name, published.get(name, ABSENT), again.get(name, ABSENT)) for name in names]
    return tuple(Compared(name, one, other, compare_values(one, other)) for name, one, other in pairs)


def compare_values(one: Any, other: Any) -> Verdict:
    """EQUAL for the same value of the same type, CLOSE for floats that are nearly it; arrays and records are as their worst part."""
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
    """The verdict of a whole; nothing at all is equal."""
    return max(verdicts, key=list(Verdict).index, default=Verdict.EQUAL)
