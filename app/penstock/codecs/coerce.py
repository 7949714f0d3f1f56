"""Values that JSON has in another form than the schema: 1.0 for a whole number, a date for a timestamp, a number in quotes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, Final

from penstock.codecs.columns import FLOATS, bounds
from penstock.schema import Coercion, Field

__all__ = ["Coerce", "coercion"]

Coerce = Callable[[Any], Any]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DIGITS: Final = 30  # no whole number of 64 bits has more
_TICK: Final = {"ms": timedelta(milliseconds=1), "us": timedelta(microseconds=1)}
_BASIC_DATE: Final = re.compile(r"[0-9]{8}")
_NUMBER: Final = re.compile(r"[-+]?([0-9]{1,400}(\.[0-9]{0,400})?|\.[0-9]{1,400})([eE][-+]?[0-9]{1,4})?")


def coercion(field: Field, dtypes: Sequence[str], allowed: Collection[Coercion]) -> Coerce | None:
    """Returns what makes the field's value, or every value in its array or map, one that tensors of `dtypes` hold.

    It raises ValueError for a value that it does not know. None when nothing that is allowed concerns the field. A symbol that an enum
    with a default does not know is always replaced.
    """
    inside = field.items if field.items is not None else field.values
    if inside is not None:
        inner = coercion(inside, dtypes, allowed)
        return None if inner is None else partial(_each, inner)
    kind = field.kind
    if kind == "enum" and field.fallback is not None:
        return partial(_symbol, symbols=frozenset(field.symbols), fallback=field.fallback)
    whole, decimal = "whole_numbers" in allowed, "decimals" in allowed
    if kind in FLOATS:
        return partial(_number, limits=bounds(kind, dtypes)) if decimal else None
    if kind == "timestamp" and (field.dated or "dates" in allowed):
        return partial(_stamp, limits=bounds(kind, dtypes), tick=_TICK[field.unit], whole=whole, decimal=decimal)
    if kind in ("int", "long", "timestamp") and (whole or decimal):
        return partial(_whole, limits=bounds(kind, dtypes), whole=whole, decimal=decimal)
    return None


def _symbol(value: str, *, symbols: frozenset[str], fallback: str) -> str:
    return value if value in symbols else fallback


def _each(inner: Coerce, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: None if one is None else inner(one) for key, one in value.items()}
    return [None if one is None else inner(one) for one in value]


def _number(value: Any, *, limits: tuple[float, float]) -> float:
    try:
        number = _parsed(value) if isinstance(value, str) else float(value)
    except OverflowError:
        number = math.inf
    if not limits[0] <= number <= limits[1]:
        raise ValueError(f"{value!r} is out of range")
    return number


def _whole(value: Any, *, limits: tuple[float, float], whole: bool, decimal: bool) -> int:
    if isinstance(value, str):
        number = _exact(value) if decimal else _refuse(value)
    elif isinstance(value, float):
        number = int(value) if whole and value.is_integer() else _refuse(value)
    else:
        number = value
    if not limits[0] <= number <= limits[1]:
        raise ValueError(f"{value!r} is out of range")
    return number


def _stamp(value: Any, *, limits: tuple[float, float], tick: timedelta, whole: bool, decimal: bool) -> int:
    if decimal and isinstance(value, str) and _BASIC_DATE.fullmatch(value):
        raise ValueError(f"{value!r} is a date without dashes or a number: beside `decimals`, dates have dashes")
    if not isinstance(value, str) or (decimal and _NUMBER.fullmatch(value)):
        return _whole(value, limits=limits, whole=whole, decimal=decimal)
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError(f"{value[:40]!r} is not a date of ISO 8601") from None
    return _whole(((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // tick, limits=limits, whole=True, decimal=False)


def _parsed(text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not a number")
    return float(text)


def _exact(text: str) -> int:
    """Returns the whole number of a text without rounding: 2^53 + 1 too, and 1e3."""
    _parsed(text)
    number = Decimal(text)
    if number.adjusted() > _DIGITS:
        raise ValueError(f"{text[:40]!r} is out of range")
    return int(number) if number == number.to_integral_value() else _refuse(text)


def _refuse(value: Any) -> Any:
    raise ValueError(f"{value!r} is not a whole number")
