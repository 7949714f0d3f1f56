"""Resolves a writer schema to a reader schema: once per pair of schemas, never per record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from penstock.errors import Problem, SchemaError
from penstock.schema import REQUIRED, Field, Schema, Step, innermost, resolves, steps

__all__ = ["Origin", "resolve"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a writer has a field of the reader: the path in its datums, or the `default` that takes the place of a field it lacks.

    `symbols` are set where the writer has symbols that the reader's enum lacks; `fallback` replaces them, None refuses them. `text` is set
    where the writer has bytes that are read as a string.
    """

    path: str | None
    default: Any = None
    symbols: frozenset[str] = frozenset()
    fallback: str | None = None
    text: bool = False


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
    way: list[str] = []
    walked = steps(path)
    for i, step in enumerate(walked):
        if isinstance(step, int):
            read, theirs = read and read.items, theirs and theirs.items
            way.append(f"[{step}]")
        elif read is not None and read.values is not None and theirs is not None:
            read, theirs = read.values, theirs.values
            way.append(f".{step}")
        else:
            read = next(field for field in members if field.name == step)
            theirs = _theirs(known, read)
            if theirs is None:
                return Origin(None, default=_within(read.default, walked[i + 1 :]))
            way.append(f".{theirs.name}")
        if theirs is not None and theirs.kind == "union":
            message = f"field {path!r} is, or is inside, a union of several types"
            raise SchemaError(_unresolved(writer, message, "read another field"))
        members, known = read.fields if read else (), theirs.fields if theirs else ()
    here = "".join(way).removeprefix(".")
    if read is not None and theirs is not None and read.kind == "enum" and not set(theirs.symbols) <= set(read.symbols):
        return Origin(here, symbols=frozenset(read.symbols), fallback=read.fallback)
    kinds = (innermost(theirs).kind, innermost(read).kind) if read is not None and theirs is not None else None
    return Origin(here, text=kinds == ("bytes", "string"))


def _within(default: Any, walked: Sequence[Step]) -> Any:
    """Returns what the rest of a path leads to in a default; None when that is absent."""
    for step in walked:
        if isinstance(step, int):
            default = default[step] if isinstance(default, list) and step < len(default) else None
        else:
            default = default.get(step) if isinstance(default, dict) else None
    return default


def _unresolved(writer: Schema, message: str, fix: str) -> Problem:
    return Problem(writer.path or writer.name, 0, 0, message, fix)
