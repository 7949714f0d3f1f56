"""The expectation of one output in a test file: a value, a range, a number near another, or a list of these."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from penstock.topology.document import Listed, Mapped, Scalar, Value
from penstock.topology.names import did_you_mean
from penstock.topology.spec import Mark

__all__ = ["Report", "Rule", "contains", "plain", "rule", "show"]

Report = Callable[[Mark, str, str], None]

_KEYS: Final = ("above", "below", "near", "within")
_FLOAT32: Final = 6e-8  # relative: half the distance of two adjacent float32 numbers


@dataclass(frozen=True, slots=True)
class Rule:
    """The expectation of a value: `words` for people, `holds` checks the value, `mark` is the place in the file."""

    words: str
    holds: Callable[[Any], bool]
    mark: Mark


def rule(value: Value, report: Report) -> Rule | None:
    """Parses the rule in `value`; returns None when it is not a rule, and passes the problem to `report`."""
    match value:
        case Scalar(value=expected):
            return Rule(show(expected), lambda got: _same(got, expected), value.mark)
        case Listed(items=items):
            return _each([rule(item, report) for item in items], value.mark)
        case Mapped():
            return _range(value, report)


def contains(value: Scalar) -> Rule:
    """Returns the rule for a text that contains the given text."""
    return Rule(f"text with {show(value.text)}", lambda got: isinstance(got, str) and value.text in got, value.mark)


def show(value: Any) -> str:
    """Returns a value in the file's notation, shortened to one line."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 200 else f"{text[:200]}..."


def plain(value: Value) -> Any:
    """Returns the value without its marks: a mapping, list, str, int, float, bool or None."""
    match value:
        case Scalar(value=scalar):
            return scalar
        case Listed(items=items):
            return [plain(item) for item in items]
        case Mapped(items=pairs):
            return {key.text: plain(item) for key, item in pairs}


def _each(rules: list[Rule | None], mark: Mark) -> Rule | None:
    found = [one for one in rules if one is not None]
    if len(found) < len(rules):
        return None

    def holds(got: Any) -> bool:
        return isinstance(got, list) and len(got) == len(found) and all(one.holds(item) for one, item in zip(found, got, strict=True))

    return Rule(f"[{', '.join(one.words for one in found)}]", holds, mark)


def _range(value: Mapped, report: Report) -> Rule | None:
    numbers: dict[str, float] = {}
    for key, item in value.items:
        if key.text not in _KEYS:
            report(key.mark, f"unknown key {key.text!r} of an expected range", did_you_mean(key.text, _KEYS))
        elif isinstance(item, Scalar) and isinstance(item.value, int | float) and _number(item.value):
            numbers[key.text] = item.value
        else:
            report(item.mark, f"{key.text} must be a number", "")
    if len(numbers) < len(value.items):
        return None
    words = " and ".join(f"{name} {show(number)}" for name, number in numbers.items())
    match set(numbers):
        case names if names and names <= {"above", "below"}:
            low, high = numbers.get("above", -math.inf), numbers.get("below", math.inf)
            if low < high:
                return Rule(words, lambda got: _number(got) and low < got < high, value.mark)
            report(value.mark, f"no number is {words}", "above must be less than below")
        case names if names == {"near", "within"} and numbers["within"] >= 0:
            near, within = numbers["near"], numbers["within"]
            return Rule(f"near {show(near)} within {show(within)}", lambda got: _number(got) and abs(got - near) <= within, value.mark)
        case _:
            report(value.mark, "this is not a range", "write {above: 0.5}, {above: 0.5, below: 0.9} or {near: 0.7, within: 0.01}")
    return None


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _same(got: Any, expected: Any) -> bool:
    """Whether both are equal and of one kind. Fractions are compared at the precision of float32, which most models return."""
    if _number(got) and _number(expected):
        return got == expected or (isinstance(expected, float) and math.isclose(got, expected, rel_tol=_FLOAT32))
    return type(got) is type(expected) and bool(got == expected)
