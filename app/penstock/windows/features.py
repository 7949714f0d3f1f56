"""Features from partials: one column per aggregate and look-back."""

from __future__ import annotations

import numpy as np

from penstock.batch import Array
from penstock.windows.definition import Aggregate, Definition, LookBack
from penstock.windows.partials import Layout

__all__ = ["features"]


def features(definition: Definition, layout: Layout, partials: Array, answers: Array, times: Array) -> dict[str, Array]:
    """Returns the feature columns of rows with these partials (float64 [N, look-backs, width]) and event times (int64 [N], ms).

    `answers` are what the layout's readings have given: float64 [N, look-backs, readings]. A count, also of different values, is int64
    [N], `last_k` is float64 [N, k], others are float64 [N]. Where there is no value, a count, a sum and a rate are 0, and others are NaN.
    """
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return {
            definition.feature(one, back): _feature(definition, layout, partials[:, at], answers[:, at], times, one, back)
            for one in definition.aggregates
            for at, back in enumerate(definition.look_backs)
        }


def _feature(definition: Definition, layout: Layout, partial: Array, answers: Array, times: Array, one: Aggregate, back: LookBack) -> Array:
    cells = layout.of(one.value, one.where)
    number, of, newest = partial[:, cells.at], cells.of, cells.newest
    found: Array
    match one.kind:
        case "count":
            found = number.astype(np.int64)
        case "distinct":
            found = answers[:, layout.readings.index(layout.reading(one))].astype(np.int64)
        case "quantile":
            found = answers[:, layout.readings.index(layout.reading(one))]
        case "rate":
            begin = times - back.length if definition.exact else (times // back.hop - back.hops) * back.hop
            found = number / ((times - begin) / 1000)
        case "mean":
            found = partial[:, of["sum"]] / number
        case "variance":
            found = partial[:, of["m2"]] / number
        case "min" | "max":
            found = np.where(number > 0, partial[:, of[one.kind]], np.nan)
        case "since":
            found = np.where(number > 0, (times - partial[:, newest]) / 1000, np.nan)
        case "last_k":
            found = partial[:, newest + 1 : newest + 2 * one.k : 2]
        case _:  # a cell as it is
            found = partial[:, {"sum": of.get("sum", 0), "first": of.get("first", 0) + 1, "last": newest + 1}[one.kind]]
    return np.array(found)  # not a view: the partials of a batch take more memory than its features
