"""Marked values that conform to the language, taken apart for the parser and the kinds of nodes, which build their values from them."""

from __future__ import annotations

import math
from typing import Any, Final, cast

from penstock.provider import Provider
from penstock.schema import Missing
from penstock.topology.document import Listed, Mapped, Scalar, Value
from penstock.topology.names import ref
from penstock.topology.spec import Constant, Input, Mark, Ref

__all__ = ["constant", "duration", "inputs", "items", "keys", "marks", "plain", "providers", "refs", "word", "words"]

_UNITS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def items(value: Value | None) -> tuple[tuple[Scalar, Value], ...]:
    """Returns the entries of a mapping; nothing for any other value."""
    return value.items if isinstance(value, Mapped) else ()


def keys(value: Value | None) -> dict[str, Value]:
    return {key.text: item for key, item in items(value)}


def marks(value: Value) -> dict[str, Mark]:
    """Returns the place of each key's value."""
    return {key: item.mark for key, item in keys(value).items()}


def plain(value: Value) -> dict[str, Any]:
    """Returns the scalars of a mapping, by key."""
    return {key.text: item.value for key, item in items(value) if isinstance(item, Scalar)}


def word(value: Value) -> str:
    return cast(Scalar, value).text


def words(value: Value) -> tuple[str, ...]:
    """Returns the words of a list, each once."""
    return tuple(dict.fromkeys(word(item) for item in value.items)) if isinstance(value, Listed) else ()


def refs(value: Value) -> tuple[Ref, ...]:
    """Returns the references in a list, or the only one."""
    scalars = value.items if isinstance(value, Listed) else (value,)
    found = (ref(word(scalar), scalar.mark) for scalar in scalars)
    return tuple(each for each in found if each is not None)  # conforming text is always a reference


def duration(value: Value) -> int:
    """Returns a duration in milliseconds."""
    number = word(value).rstrip("dhms")
    return int(number) * _UNITS[word(value)[len(number) :]]


def constant(value: Value) -> Constant:
    return tuple(map(constant, value.items)) if isinstance(value, Listed) else cast(Constant, cast(Scalar, value).value)


def inputs(value: Value | None) -> tuple[Input, ...]:
    """Returns the entries of a key `inputs`, in the file's order."""
    return tuple(_input(tensor, item) for tensor, item in items(value))


def providers(value: Value | None) -> tuple[Provider, ...]:
    """Returns the entries of a key `providers`, in the file's order. Values of options are text as the file has it."""
    found = []
    for item in value.items if isinstance(value, Listed) else ():
        if isinstance(item, Scalar):
            found.append(Provider(item.text))
        found += [Provider(key.text, tuple((option.text, word(one)) for option, one in items(given))) for key, given in items(item)]
    return tuple(found)


def _input(tensor: Scalar, value: Value) -> Input:
    if not isinstance(value, Mapped):
        return Input(tensor.text, refs(value), isinstance(value, Listed), None, tensor.mark)
    given = keys(value)
    form = next(name for name in ("field", "stack", "reshape", "mask") if name in given)
    how: Any = form if form in ("reshape", "mask") else "pad" if "pad" in given else ""
    pad = constant(given["pad"]) if "pad" in given else None
    return Input(tensor.text, refs(given[form]), form == "stack", _missing(given.get("missing")), tensor.mark, how, pad)


def _missing(value: Value | None) -> Missing | None:
    match value:
        case None:
            return None
        case Scalar(value="reject"):
            return Missing("reject")
        case Scalar(value="nan"):
            return Missing("fill", math.nan)
        case _:
            return Missing("fill", cast(Scalar, value).value)
