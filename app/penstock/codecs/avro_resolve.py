"""Resolves a writer schema to a reader schema: once per pair of schemas, never per record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from penstock.errors import Problem, SchemaError
from penstock.schema import REQUIRED, Schema, resolves

__all__ = ["defaults", "shadowed_symbols"]


def defaults(writer: Schema, reader: Schema) -> dict[str, Any]:
    """Returns the reader's fields that the writer lacks, with their defaults. Raises SchemaError where the two do not resolve."""
    lacking: dict[str, Any] = {}
    problems: list[Problem] = []
    for field in reader.fields:
        written = writer.field(field.name)
        if written is None and field.default is REQUIRED:
            problems.append(_unresolved(writer, f"has no field {field.name!r}", f"give it a default in {reader.path}"))
        elif written is None:
            lacking[field.name] = field.default
        elif not resolves(written, field):
            message = f"field {field.name!r} is {written.kind} and cannot be read as {field.kind}"
            problems.append(_unresolved(writer, message, "use a type that Avro promotes"))
    if problems:
        raise SchemaError(problems)
    return lacking


def shadowed_symbols(writer: Schema, reader: Schema, names: Sequence[str]) -> list[tuple[int, frozenset[str]]]:
    """For each enum of `names` to which the writer adds symbols: its position, and the reader's symbols."""
    found = []
    for i, name in enumerate(names):
        written, read = writer.field(name), reader.field(name)
        if written is not None and read is not None and read.kind == "enum" and not set(written.symbols) <= set(read.symbols):
            found.append((i, frozenset(read.symbols)))
    return found


def _unresolved(writer: Schema, message: str, fix: str) -> Problem:
    return Problem(writer.path or writer.name, 0, 0, message, fix)
