"""Resolves a writer schema to a reader schema: once per pair of schemas, never per record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from penstock.errors import DecodeError, Problem, SchemaError
from penstock.schema import REQUIRED, Field, Schema, Step, innermost, resolves, steps

__all__ = ["Origin", "resolve"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a writer has a field of the reader: the path in its datums, and what makes the reader's value of what is there.

    Without a path, it lacks the field, and the value is `default`. `change` raises DecodeError for what the reader does not take.
    """

    path: str | None
    change: Callable[[Any], Any] | None = None
    default: Any = None


def resolve(writer: Schema, reader: Schema, paths: Sequence[str]) -> list[Origin]:
    """Returns where the writer has the reader's fields at `paths`. Raises SchemaError where the two schemas do not resolve."""
    problems: list[Problem] = []
    _compare(writer.fields, reader.fields, "", writer, reader, problems, set())
    if problems:
        raise SchemaError(problems)
    return [_origin(writer, reader, path) for path in paths]


def _compare(
    written: tuple[Field, ...], read: tuple[Field, ...], at: str, writer: Schema, reader: Schema, problems: list[Problem], seen: set[object]
) -> None:
    """Adds a problem for every field of the reader that the writer lacks or has with another type; each pair of records once."""
    if (id(written), id(read)) in seen:
        return
    seen.add((id(written), id(read)))
    for field in read:
        theirs, path = _theirs(written, field), at + field.name
        if theirs is None:
            if field.default is REQUIRED:
                problems.append(_unresolved(writer, f"has no field {path!r}", f"give it a default in {reader.path}"))
        elif "union" in (theirs.kind, field.kind):
            continue  # read past, unless a path leads to it
        elif not resolves(theirs, field):
            message = f"field {path!r} is {theirs.kind} and cannot be read as {field.kind}"
            problems.append(_unresolved(writer, message, "use a type that Avro promotes"))
        else:
            _compare(_inside(theirs), _inside(field), f"{path}.", writer, reader, problems, seen)


def _inside(field: Field) -> tuple[Field, ...]:
    """Returns the fields of a record, or of the records in an array or map."""
    return (field.values or innermost(field)).fields


def _theirs(written: Sequence[Field], field: Field) -> Field | None:
    """Returns the writer's field that the reader's is read from: of its name, or else of one of its aliases."""
    names = (field.name, *field.aliases)
    return next((found for name in names for found in written if found.name == name), None)


def _origin(writer: Schema, reader: Schema, path: str) -> Origin:
    """Returns where the writer has the field that `path` leads to in the reader."""
    read: Field | None = None
    theirs: Field | None = None
    members, known = reader.fields, writer.fields
    way = ""
    walked = steps(path)
    for i, step in enumerate(walked):
        if isinstance(step, int):
            read, theirs = read and read.items, theirs and theirs.items
            way += f"[{step}]"
        elif read is not None and read.values is not None and theirs is not None:
            read, theirs = read.values, theirs.values
            way += f".{step}"
        else:
            read = next(field for field in members if field.name == step)
            theirs = _theirs(known, read)
            if theirs is None:
                default = _default(read, walked[i + 1 :])
                # What lies in a null is null, whatever its default.
                return Origin(way, partial(_unless_null, default)) if way else Origin(None, default=default)
            way += f".{theirs.name}" if way else theirs.name
        if theirs is not None and theirs.kind == "union":
            message = f"field {path!r} is, or is inside, a union of several types"
            raise SchemaError(_unresolved(writer, message, "read another field"))
        members, known = read.fields if read else (), theirs.fields if theirs else ()
    assert read is not None, "a path has a step"
    assert theirs is not None, "the schemas resolve"
    return Origin(way, _change(theirs, read))


def _change(theirs: Field, read: Field) -> Callable[[Any], Any] | None:
    """Returns what makes the reader's value of a writer's: text of bytes, symbols that the reader has, arrays without null."""
    ours, inner = innermost(read), innermost(theirs)
    if ours.kind == "enum" and not {*inner.symbols} <= {*ours.symbols}:
        each: Callable[[Any], Any] = partial(_symbol, frozenset(ours.symbols), ours.fallback)
    elif (inner.kind, ours.kind) == ("bytes", "string"):
        each = _text
    elif _holed(theirs):
        each = _same
    else:
        return None
    return partial(_deeply, each) if theirs.items is not None else each


def _holed(field: Field) -> bool:
    """Whether an array may have null as an item."""
    return field.items is not None and (field.items.optional or _holed(field.items))


def _deeply(each: Callable[[Any], Any], value: Any, *, inside: bool = False) -> Any:
    if isinstance(value, list):
        return [_deeply(each, item, inside=True) for item in value]
    if value is None and inside:
        raise DecodeError("an item of an array is null, which the reader's schema forbids")
    return each(value)


def _same(value: Any) -> Any:
    return value


def _text(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError as error:
        raise DecodeError(f"invalid UTF-8: {error.reason} (byte {error.start})") from None


def _symbol(symbols: frozenset[str], fallback: str | None, value: str | None) -> str | None:
    if value is None or value in symbols:
        return value
    if fallback is None:
        raise DecodeError(f"{value!r} is a symbol that is not in the reader's schema")
    return fallback


def _unless_null(default: Any, value: Any) -> Any:
    return None if value is None else default


def _default(field: Field, walked: Sequence[Step]) -> Any:
    """Returns what the rest of a path leads to in a field that the writer lacks; None when it is absent."""
    value, inside = field.default, field
    for step in walked:
        if isinstance(step, int):
            value = value[step] if isinstance(value, list) and step < len(value) else None
            inside = inside.items or inside
        elif inside.values is not None:
            value, inside = value.get(step) if isinstance(value, dict) else None, inside.values
        else:
            member = next(one for one in inside.fields if one.name == step)
            own = None if member.default is REQUIRED else member.default
            value, inside = value.get(step, own) if isinstance(value, dict) else None, member
    return value


def _unresolved(writer: Schema, message: str, fix: str) -> Problem:
    return Problem(writer.path or writer.name, 0, 0, message, fix)
