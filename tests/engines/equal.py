"""Whether an engine has answered the flights as a worker does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["check_same"]

NUMBERS, TEXTS = ("score", "logistic", "trees"), ("carrier", "dest")


def check_same(found: Sequence[Mapping[str, Any]], expected: Mapping[str, Mapping[str, Any]]) -> None:
    """Every flight is answered, each time with the texts of a worker, and numbers within 1e-6 of its numbers."""
    assert {one["flight_id"] for one in found} == expected.keys()
    wanted = [expected[one["flight_id"]] for one in found]
    ours, theirs = (np.array([[one[name] for name in NUMBERS] for one in those]) for those in (found, wanted))
    assert np.abs(ours - theirs).max() <= 1e-6
    assert all([one[name] for name in TEXTS] == [other[name] for name in TEXTS] for one, other in zip(found, wanted, strict=True))
