"""The key of an event: the same text in every language, made of the fields that the topology's `precomputed` names.

The key of an **entity** is its id: text as it is, a whole number in decimal digits.

The key of **inputs** is the SHA-256, in lowercase hex, of their canonical form in UTF-8: a first line `penstock-key-1`, then one line
`NAME=VALUE` per field, in the order of the names' ASCII codes, each ended by a line feed. VALUE is

    n                null
    true, false      boolean
    iDIGITS          int, long: decimal digits, a minus where it is negative
    tDIGITS          timestamp: microseconds since 1970-01-01T00:00:00Z, as a whole number
    dDIGITS.DIGITS   float, double: exactly as many decimals as the topology states; without decimals, no point; a minus only if a digit
                     is not 0. The number that is rounded is the exact binary value (a float's after rounding to 32 bits), and ties go to
                     the even digit
    sBYTES:TEXT      string, enum: the length in bytes of UTF-8, and the text as it is, without normalisation
    [VALUE,VALUE,]   array: a comma after each item

docs/precompute.md has the same as a page; `examples/keys` has it in Java and JavaScript, with test vectors.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from penstock.schema import Field

__all__ = ["LONGEST", "MOST_DECIMALS", "canonical", "entity_key", "input_key", "keyable", "scaled"]

VERSION: Final = "penstock-key-1"
LONGEST: Final = 512  # bytes of an entity's id
MOST_DECIMALS: Final = 15
FRACTIONS: Final = ("float", "double")
_WHOLE: Final = ("int", "long")
_TEXT: Final = ("string", "enum")
_UNITS: Final = {"ms": 1000, "us": 1}


def keyable(field: Field) -> bool:
    """Whether a field, or the items of an array, can be part of a key."""
    if field.items is not None:
        return not field.items.optional and field.items.items is None and keyable(field.items)
    return field.kind in ("boolean", "timestamp", *FRACTIONS, *_WHOLE, *_TEXT)


def entity_key(value: Any) -> str:
    """Returns the key of an entity. Raises ValueError for null, empty text, and text longer than LONGEST bytes."""
    if value is None or value == "":
        raise ValueError("the entity's id is null or empty")
    key = value if isinstance(value, str) else f"{value:d}"
    if len(key) * 4 > LONGEST and len(key.encode("utf-8", "surrogatepass")) > LONGEST:
        raise ValueError(f"the entity's id has more than {LONGEST} bytes")
    if "\0" in key:
        raise ValueError("the entity's id has a null character")
    return _unicode(key)


def input_key(form: str) -> str:
    """Returns the key of a canonical form."""
    return hashlib.sha256(form.encode()).hexdigest()


def canonical(fields: Sequence[Field], decimals: Mapping[str, int]) -> Callable[[Sequence[Any]], str]:
    """Returns the function that makes the canonical form of one event's values, given in the order of `fields`.

    It takes what JSON holds: numbers, text, booleans, None, lists. It raises ValueError for a number that is not finite, and for text
    that is not Unicode.
    """
    order = sorted(range(len(fields)), key=lambda at: fields[at].name)
    makes = [(at, fields[at].name, _maker(fields[at], decimals.get(fields[at].name, 0))) for at in order]

    def form(values: Sequence[Any]) -> str:
        lines = [f"{name}={'n' if values[at] is None else make(values[at])}\n" for at, name, make in makes]
        return f"{VERSION}\n{''.join(lines)}"

    return form


def scaled(field: Field, decimals: int) -> Callable[[Any], float]:
    """Returns the function that makes a numeric field's value the number that its key holds: rounded as there."""
    make = _maker(field, decimals)
    return lambda value: float(make(value)[1:])


def _maker(field: Field, decimals: int) -> Callable[[Any], str]:
    if field.items is not None:
        item = _maker(field.items, decimals)
        return lambda values: f"[{''.join(f'{item(one)},' for one in values)}]"
    if field.kind in _WHOLE:
        return lambda value: f"i{int(value)}"
    if field.kind == "timestamp":
        unit = _UNITS[field.unit or "ms"]
        return lambda value: f"t{int(value) * unit}"
    if field.kind == "boolean":
        return lambda value: "true" if value else "false"
    if field.kind in _TEXT:
        return _text
    single = field.kind == "float"
    return lambda value: _fixed(float(np.float32(value)) if single else float(value), decimals)


def _fixed(value: float, decimals: int) -> str:
    if not math.isfinite(value):
        raise ValueError(f"{value} has no decimal digits")
    digits = f"{value:.{decimals}f}"  # of the exact value, ties to even
    return f"d{digits[1:]}" if digits[0] == "-" and not digits.strip("-0.") else f"d{digits}"


def _text(value: str) -> str:
    return f"s{len(_unicode(value).encode())}:{value}"


def _unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{text!r} is not Unicode") from error
    return text
