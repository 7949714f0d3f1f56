"""What one caller may do, as values: rights, topologies, models, and the values of fields that its rows may have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from penstock.access.meter import NO_LIMITS, Limits
from penstock.batch import Array
from penstock.control.rights import CALLS, listed
from penstock.errors import Forbidden

__all__ = ["ANONYMOUS", "MODEL", "Rules", "Value"]

MODEL: Final = re.compile(r"[^@\s]{1,128}(@[^@\s]{1,64})?")
_SHOWN: Final = 64  # characters of a row's value that a reason repeats

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Rules:
    """What a caller may do: `may` holds words of `control.rights`; `topologies` names, or "*" for all.

    `models` holds names and `name@version`s as they are addressed, the whole topology by its name; None: all. `only` has the allowed
    values of fields, by path.
    """

    name: str
    may: frozenset[str]
    topologies: frozenset[str]
    models: frozenset[str] | None = None
    only: Mapping[str, frozenset[Value]] = field(default_factory=dict)
    limits: Limits = NO_LIMITS

    def allows(self, right: str, topology: str = "", model: str | None = "", version: str = "") -> bool:
        """Returns whether the caller may do this. Without a topology: whether it may for any; with the model None: for any of them."""
        if right not in self.may:
            return False
        if not topology:
            return True
        if topology not in self.topologies and "*" not in self.topologies:
            return False
        if self.models is None or model is None:
            return True
        model = model or topology
        return model in self.models or (bool(version) and f"{model}@{version}" in self.models)

    def check(self, right: str, topology: str = "", model: str | None = "", version: str = "") -> None:
        """Raises Forbidden when the caller may not do this. The error does not show whether the topology or the model exists."""
        if not self.allows(right, topology, model, version):
            what = "".join((f" {topology}" if topology else "", f", model {model}" if model else "", f"@{version}" if version else ""))
            if right not in self.may:
                why = "its `may` lacks the right"
            elif topology not in self.topologies and "*" not in self.topologies:
                why = f"its `topologies` lack {topology}"
            else:
                why = f"its `models` lack {model or topology}"
            raise Forbidden(f"{self.name} may not {listed([right]) or right}{what}: {why}")

    def refused(self, columns: Mapping[str, Array], nulls: Mapping[str, Array]) -> dict[int, str]:
        """Returns the rows with a value that the caller may not send, each with the reason.

        `columns` have the rows as their first axis; a row of several values needs all of them allowed. A field that is not in `columns`,
        or is null (by the mask in `nulls`, or None), refuses the row.
        """
        found: dict[int, str] = {}
        if not self.only:
            return found
        rows = len(next(iter(columns.values()), ()))
        for path, values in self.only.items():
            column = columns.get(path)
            if column is None:
                why = f"{path}: {self.name} may send certain values only, and the field is missing"
                return dict.fromkeys(range(rows), why)
            bad = ~_allowed(column, values)
            if path in nulls:
                bad |= nulls[path]
            for row in np.flatnonzero(bad).tolist():
                if row not in found:
                    null = path in nulls and nulls[path][row]
                    found[row] = f"{path}: {'null' if null else _shown(column[row])} is no value that {self.name} may send"
        return found


ANONYMOUS: Final = Rules("anonymous", frozenset(CALLS), frozenset({"*"}))


def _allowed(column: Array, values: frozenset[Value]) -> Array:
    """Returns which rows hold allowed values only: bool [N]. Text equals text only, a truth value only a truth value."""
    flat = column.reshape(len(column), -1 if column.size else 0)
    if not flat.shape[1]:
        return np.zeros(len(column), bool)  # a row without a value has none that is allowed
    if column.dtype.kind not in "biufU":
        by_kind = {kind: frozenset(value for value in values if _kind(value) == kind) for kind in ("text", "truth", "number", "")}
        cells = flat.reshape(-1).tolist()
        good = np.fromiter((bool(kind := _kind(cell)) and cell in by_kind[kind] for cell in cells), bool, len(cells))
        good = good.reshape(flat.shape)
    else:
        good = np.isin(flat, _fitting(column.dtype, values), kind="sort")  # by a table, numpy 2.0 fails for large integers
    found: Array = np.logical_and.reduce(good, axis=1)
    return found


def _fitting(kind: np.dtype[Any], values: frozenset[Value]) -> Array:
    """Returns the values that a column of this type can hold, in its type: otherwise large integers would be compared as floats."""
    if kind.kind == "U":
        return np.array([value for value in values if _kind(value) == "text"], dtype=np.str_)
    if kind.kind == "b":
        return np.array([value for value in values if _kind(value) == "truth"], dtype=kind)
    numbers = [value for value in values if _kind(value) == "number" and not isinstance(value, str)]
    if kind.kind == "f":
        return np.array(numbers, dtype=kind)
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    return np.array([int(value) for value in numbers if value == int(value) and low <= value <= high], dtype=kind)


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool | np.bool_):
        return "truth"
    return "number" if isinstance(value, int | float | np.integer | np.floating) else ""


def _shown(value: Any) -> str:
    text = repr(value.item() if isinstance(value, np.generic) else value.tolist() if isinstance(value, np.ndarray) else value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
