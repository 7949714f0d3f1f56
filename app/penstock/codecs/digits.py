"""A float32 as the double that has its shortest digits: 0.1, and not 0.10000000149011612, which is what the float32 holds."""

from __future__ import annotations

from typing import Final

import numpy as np

from penstock.batch import Array
from penstock.native import native

__all__ = ["counterpart", "shortest"]

_LEAST, _MOST = 6, 9  # significant digits: every number of 6 is a float32 that gives it again, and 9 tell all float32 apart
_TENS: Final = np.array([float(10**power) for power in range(23)])  # all that are exact
# Between these, each step below is one operation on exact numbers, so that it gives the double next to the decimal.
_LOW, _HIGH = 1e-13, 1e21
_TINY, _MAX = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


def shortest(values: Array) -> Array:
    """Returns float32 values as float64 of the same shape: the decimals with the fewest digits that are these float32.

    What is not finite remains what it is, and so does the greatest float32, whose decimal is greater than itself.
    """
    if native is None:
        return counterpart(values)
    made = np.empty(values.shape)
    native.shortest(np.ascontiguousarray(values), made)
    return made


def counterpart(values: Array) -> Array:
    """What the native part computes, in Python."""
    wide = values.astype(np.float64)
    size = np.abs(wide)
    plain = (size >= _LOW) & (size < _HIGH)
    power = np.floor(np.log10(np.where(plain, size, 1))).astype(np.intp)
    made, open = wide.copy(), np.ones(values.shape, bool)
    for digits in range(_LEAST, _MOST + 1):
        places = digits - 1 - power
        up, down = _TENS[np.maximum(places, 0)], _TENS[np.maximum(-places, 0)]
        near = np.rint(wide * up / down) * down / up
        found = open & (near.astype(np.float32) == values)
        made[found] = near[found]
        open &= ~found
    for at in np.flatnonzero(~plain & np.isfinite(size) & (size > 0)):
        made.flat[at] = _one(values.flat[at])
    return made


def _one(value: np.float32) -> float:
    least = 1 if abs(value) < _TINY else _LEAST
    near = (float(f"{float(value):.{digits - 1}e}") for digits in range(least, _MOST + 1))
    return next((one for one in near if abs(one) <= _MAX and np.float32(one) == value), float(value))
