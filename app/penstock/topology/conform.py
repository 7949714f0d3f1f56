"""Compares a marked value with the language's table, and reports every difference at its place."""

from __future__ import annotations

import re
from collections.abc import Iterator

from penstock.errors import Problem
from penstock.topology.document import Listed, Mapped, Scalar, Value
from penstock.topology.names import any_of, did_you_mean
from penstock.topology.shapes import Choice, Either, Flag, Forms, Keys, Kinds, Listing, Literal, Named, Nested, Shape, Text, Whole
from penstock.topology.spec import Mark

__all__ = ["conform"]

_FIXES = {
    "name@version or name@alias": "a version begins with a digit, an alias with a letter: flight-features@1 or flight-features@live",
    "a topic name (letters, digits, '.', '_' and '-')": "rename it, for example flights.departures",
    "a threshold: >=, <=, > or < and a number": 'for example ">= 0.85", with quotes',
    "a file of the schemas folder": "give the path inside the folder, for example flight.avsc",
}


def conform(value: Value, shape: Shape, file: str) -> list[Problem]:
    """Returns every difference between `value` and `shape`, in the file's order; a value without differences can be built."""
    return [Problem(file, mark.line, mark.column, message, fix) for mark, message, fix in _differ(value, shape, "")]


Difference = tuple[Mark, str, str]


def _differ(value: Value, shape: Shape, path: str) -> Iterator[Difference]:
    match shape, value:
        case Text() | Choice() | Whole() | Flag() | Literal(), Scalar(value=found) if found is not None:
            yield from _differ_scalar(value, shape, path)
        case Nested(), Scalar(value=found) if found is not None:
            return
        case Nested(), Listed():
            yield from _differ(value, Listing(shape), path)
        case Listing(of), Listed(items=items):
            if not items:
                yield value.mark, f"{path}: the list is empty", "name at least one, or remove the key"
            for number, item in enumerate(items):
                yield from _differ(item, of, f"{path}[{number}]")
        case Named(), Mapped():
            yield from _differ_names(value, shape, path)
        case Keys(), Mapped():
            yield from _differ_keys(value, shape, path)
        case Either(), Mapped():
            yield from _differ_keys(value, shape.plain if value.get(shape.key) is None else shape.marked, path)
        case Kinds(), Mapped():
            kind = value.get("kind")
            yield from _differ_keys(value, shape.named(kind.value if isinstance(kind, Scalar) else None), path)
        case Forms(), _ if form := _form(shape, value):
            yield from _differ(value, form, path)
        case _:
            yield value.mark, f"{path or 'the file'}: expected {_expected(shape)}, found {_article(_kind(value))}", ""


def _form(shape: Forms, value: Value) -> Shape | None:
    return {Scalar: shape.text, Listed: shape.listing, Mapped: shape.mapping}[type(value)]


def _differ_scalar(value: Scalar, shape: Shape, path: str) -> Iterator[Difference]:
    match shape, value.value:
        case Text(what, pattern), str(text):
            if not re.fullmatch(pattern, text):
                yield value.mark, f"{path}: {_short(text)!r} is not {what}", _FIXES.get(what, "")
        case Text(what, _), _:
            text = _short(value.text)
            fix = f'quote it: "{text}"' if re.fullmatch(shape.pattern, value.text) else _FIXES.get(what, "")
            yield value.mark, f"{path}: expected {what}, found the {_kind(value)} {text}", fix
        case Choice(values), _:
            if value.value not in values:
                yield (
                    value.mark,
                    f"{path}: {_short(value.text)!r} is not one of {', '.join(values)}",
                    did_you_mean(_short(value.text), values),
                )
        case Whole(low, high), number:
            if type(number) is not int:
                yield value.mark, f"{path}: expected {_expected(shape)}, found {_short(value.text)!r}", ""
            elif not low <= number <= high:
                yield value.mark, f"{path}: {number} is out of range", f"from {low} to {high}"
        case Flag(), found if not isinstance(found, bool):
            yield value.mark, f"{path}: expected {_expected(shape)}, found {_short(value.text)!r}", ""


def _differ_names(value: Mapped, shape: Named, path: str) -> Iterator[Difference]:
    if not value.items and not shape.empty:
        yield value.mark, f"{path}: no {shape.what} is named here", f"name at least one {shape.what}"
    for key, item in value.items:
        if not re.fullmatch(shape.key.pattern, key.text):
            yield key.mark, f"{path}: {_short(key.text)!r} is not {shape.key.what}", f"rename the {shape.what}"
        yield from _differ(item, shape.of, f"{path}.{_short(key.text)}")


def _differ_keys(value: Mapped, shape: Keys, path: str) -> Iterator[Difference]:
    place = f"{path}: " if path else ""
    for key, item in value.items:
        if key.text in shape.keys:
            yield from _differ(item, shape.keys[key.text].shape, f"{path}.{key.text}".removeprefix("."))
        else:
            yield key.mark, f"{place}unknown key {_short(key.text)!r}", did_you_mean(_short(key.text), shape.keys)
    present = {key.text for key, _ in value.items}
    for name, known in shape.keys.items():
        if known.required and name not in present:
            yield value.mark, f"{place}the key {name!r} is missing", f"add {name}: {_expected(known.shape)}"
    if shape.one_of and len(present.intersection(shape.one_of)) != 1:
        yield value.mark, f"{place}exactly one of {any_of(shape.one_of)} belongs here", ""


def _short(text: str) -> str:
    """Shortens a text so that it fits into a message."""
    return text if len(text) <= 80 else f"{text[:80]}..."


def _kind(value: Value) -> str:
    match value:
        case Listed():
            return "list"
        case Mapped():
            return "mapping"
        case Scalar(value=bool()):
            return "boolean"
        case Scalar(value=int() | float()):
            return "number"
        case Scalar(value=None):
            return "null"
        case _:
            return "text"


def _article(kind: str) -> str:
    return {"text": "text", "null": "nothing"}.get(kind, f"a {kind}")


def _expected(shape: Shape) -> str:  # noqa: PLR0911  a case per shape
    match shape:
        case Text(what, _):
            return what
        case Choice(values):
            return " | ".join(values)
        case Whole(low, high):
            return f"a whole number from {low} to {high}"
        case Flag():
            return "true or false"
        case Literal() | Nested():
            return "a number, text or a boolean" + (", or lists of them" if shape == Nested() else "")
        case Listing():
            return "a list"
        case Named(what=what):
            return f"a mapping with a key for each {what}"
        case Either(plain=plain):
            return _expected(plain)
        case Keys() | Kinds():
            return f"a mapping with {', '.join(shape.keys if isinstance(shape, Keys) else shape.named(None).keys)}"
        case Forms(text, listing, mapping):
            words = _expected(text).partition(",")[0].partition(":")[0] if text else ""
            return " or ".join(each for each in (words, listing and "a list", mapping and "a mapping") if each)
