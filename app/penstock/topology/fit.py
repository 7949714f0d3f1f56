"""The type rules: what may feed what. Pure functions over dtypes and axes; `feeds` and `written` report what does not fit.

A field feeds a tensor when the dtype can hold every value of the field's type. Whole numbers and booleans feed any float.
Whole numbers feed integers that are at least as wide. Floats feed floats (64 to 32 bits is allowed, since models are
trained in 32). Text feeds text. Avro cannot declare unsigned and small integers: these take any whole number, checked at
each event. Between two nodes dtypes are equal. Axes are equal or open; `[N]` and `[N, 1]` are the same column.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any, Final

from penstock.schema import Field, innermost

__all__ = ["Axes", "converts", "fills", "fit", "holds", "joined", "reshaped", "whole_numbers"]

Axes = tuple[int | None, ...]

_FLOAT32_MAX: Final = 3.4028234663852886e38
_FLOATS: Final = frozenset({"float32", "float64"})
_UNDECLARED: Final = frozenset({"int8", "int16", "uint8", "uint16", "uint32", "uint64"})
_FEEDS: Final = {
    "boolean": frozenset({"bool", "int32", "int64"}) | _FLOATS | _UNDECLARED,
    "int": frozenset({"int32", "int64"}) | _FLOATS | _UNDECLARED,
    "long": frozenset({"int64"}) | _FLOATS | _UNDECLARED,
    "timestamp": frozenset({"int64"}) | _FLOATS,
    "float": _FLOATS,
    "double": _FLOATS,
    "byte": frozenset({"int32", "int64"}) | _FLOATS | _UNDECLARED - {"int8"},
    "string": frozenset({"string"}),
    "enum": frozenset({"string"}),
}


def converts(field: Field, dtype: str) -> bool:
    """Whether a tensor of `dtype` can hold the field's values."""
    return field.dtype != "" and dtype in _FEEDS[innermost(field).kind]


def fills(value: Any, field: Field, dtype: str) -> bool:
    """Whether `value` (of a `missing:` rule) can replace a null of the field in a tensor of `dtype`."""
    if isinstance(value, bool) and dtype not in ("bool", "string"):
        return innermost(field).kind == "boolean"
    return holds(value, dtype)


def holds(value: Any, dtype: str) -> bool:
    """Whether a tensor of `dtype` can hold `value`: a number in its range (a float may be NaN), a bool or a str."""
    match dtype:
        case "string":
            return isinstance(value, str)
        case "bool":
            return isinstance(value, bool)
        case _ if isinstance(value, bool):
            return False
        case "float32" | "float64":
            largest = _FLOAT32_MAX if dtype == "float32" else sys.float_info.max
            return isinstance(value, int | float) and (value != value or abs(value) <= largest)
        case _:
            low, high = whole_numbers(dtype)
            return isinstance(value, int) and low <= value <= high


def whole_numbers(dtype: str) -> tuple[int, int]:
    """Returns the least and the greatest number of an integer dtype."""
    bits = int(dtype.removeprefix("u").removeprefix("int"))
    return (0, 2**bits - 1) if dtype.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def fit(given: Axes, wanted: Axes) -> Axes | None:
    """Returns the axes that a tensor of axes `wanted` has when axes `given` feed it, or None when they cannot."""
    if len(given) == len(wanted):
        axes = tuple(w if g is None else g for g, w in zip(given, wanted, strict=True))
        return axes if all(w is None or w == axis for w, axis in zip(wanted, axes, strict=True)) else None
    if all(axis == 1 for axis in given) and all(axis in (1, None) for axis in wanted):
        return (1,) * len(wanted)
    return None


def reshaped(given: Axes, wanted: Axes) -> Axes | None:
    """Returns the axes of a tensor of axes `wanted` that takes all values of axes `given` in their order, or None when it cannot.

    One axis of `wanted` may be open.
    """
    sizes = [axis for axis in given if axis is not None]
    asked = [axis for axis in wanted if axis is not None]
    if len(sizes) < len(given) or not given or len(wanted) - len(asked) > 1:
        return None
    total, known = math.prod(sizes), math.prod(asked)
    if len(asked) == len(wanted):
        return wanted if total == known else None
    return tuple(total // known if axis is None else axis for axis in wanted) if total % known == 0 else None


def joined(parts: Sequence[Axes]) -> Axes | None:
    """Returns the axes of several parts joined along the last axis, or None when they cannot be joined."""
    if all(axes == () for axes in parts):
        return (len(parts),)
    lead = parts[0][:-1]
    if any(not axes or axes[:-1] != lead for axes in parts):
        return None
    widths = [axes[-1] for axes in parts]
    return (*lead, None if None in widths else sum(width for width in widths if width is not None))
